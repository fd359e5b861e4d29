"""What the control branch sees: the blurry image after the guided filter, or one of the paper's ablations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relo.models.exprdiff.guided_filter import blur_aware_guided_filter

GuidedFilter = Literal["none", "plain_gf", "masked"]


def condition(
    blur: Tensor, short: Tensor, mask: Tensor, form: GuidedFilter = "masked", *, radius: int = 16, eps: float = 1e-4
) -> Tensor:
    """The first guess of the sharp image, from which the diffusion goes on.

    Parameters
    ----------
    blur, short : (N, 3, H, W) tensor in [0, 1]
    mask : (N, 1, H, W) tensor in [0, 1]
        1 where it is blurred.
    form : {"none", "plain_gf", "masked"}
        The blurry image itself, the ordinary guided filter over all of it, or the blur-aware one.
    radius : int
        Of the filter's windows [px].
    eps : float
        Regularisation of its slopes, as in `relo.models.exprdiff.guided_filter`.

    Returns
    -------
    (N, 3, H, W) tensor in [0, 1]
    """
    if form == "none":
        return blur
    mask = torch.ones_like(mask) if form == "plain_gf" else mask
    return blur_aware_guided_filter(blur, as_bright(short, blur), mask, radius=radius, eps=eps).clamp(0, 1)


def as_bright(short: Tensor, blur: Tensor) -> Tensor:
    """Scale each channel of a short exposure to the mean of the long one, which motion does not change.

    The filter's `eps` then means the same whatever the exposures are. The paper has no such step.
    """
    means = short.mean(dim=(2, 3), keepdim=True)
    return short * torch.where(means > 0, blur.mean(dim=(2, 3), keepdim=True) / means.clamp(min=1e-6), 1)
