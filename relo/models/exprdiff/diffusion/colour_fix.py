"""Give a generated image the colours of a reference: the coarse part of one, the fine part of the other.

Wavelets à trous with the binomial kernel [1 2 1] / 4, as PASD and SUPIR do it; diffusion drifts in colour and
brightness, which the reference knows better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 5


def fix_colour(image: Tensor, reference: Tensor, levels: int = LEVELS) -> Tensor:
    """`image` with the coarse part of `reference`.

    Parameters
    ----------
    image, reference : (N, 3, H, W) tensor
    levels : int
        The finest 2^(levels + 1) px or so stay those of `image`.

    Returns
    -------
    (N, 3, H, W) tensor
        Not clipped.
    """
    return image - coarse(image, levels) + coarse(reference, levels)


def coarse(image: Tensor, levels: int = LEVELS) -> Tensor:
    """What is left of (N, C, H, W) after `levels` smoothings with steps of 1, 2, 4, … px; borders repeat."""
    kernel = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    channels = image.shape[1]
    for level in range(levels):
        step = 2**level
        for shape, padding in (((1, 3), (step, step, 0, 0)), ((3, 1), (0, 0, step, step))):
            weight = kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
            padded = F.pad(image, padding, mode="replicate")
            image = F.conv2d(padded, weight, dilation=step, groups=channels)
    return image
