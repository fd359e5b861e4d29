"""Batches of images (N, C, H, W): checked, padded to a multiple of a stride, cropped back, masks enlarged."""

from __future__ import annotations

import torch
from torch import Tensor


def check_image_batch(x: Tensor, channels: int = 3) -> None:
    """Refuse what is not a non-empty (N, channels, H, W) floating-point batch.

    Raises
    ------
    ValueError
        The shape or the dtype is another one.
    """
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise ValueError(f"expected a non-empty (N, {channels}, H, W) image batch, got shape {tuple(x.shape)}")
    if not torch.is_floating_point(x):
        raise ValueError(f"expected floating-point images in [0, 1], got {x.dtype}")


def check_in_channels(channels: int) -> None:
    """Refuse anything but the channels of one image, or of two: the blurred one and a short exposure behind it.

    Raises
    ------
    ValueError
    """
    if channels not in (3, 6):
        raise ValueError(f"in_channels must be 3, or 6 for a short exposure behind the image, got {channels!r}")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad an image at its bottom and right so that both sides are multiples of `multiple`.

    Parameters
    ----------
    x : (N, C, H, W) tensor
    multiple : int
        Wanted divisor of both sides [px].

    Returns
    -------
    (N, C, H', W') tensor
        Reflected about the last pixel without repeating it; where that runs past the first pixel of a side too
        short for it, the first is repeated. `x` itself where nothing is to be padded.
    """
    sides = x.shape[-2:]
    # While a graph for all sizes is recorded, nothing may depend on this one: it is padded always, if by nothing.
    if not torch.compiler.is_compiling() and all(side % multiple == 0 for side in sides):
        return x
    for axis, side in zip((-2, -1), sides, strict=True):
        steps = torch.arange((side + multiple - 1) // multiple * multiple, device=x.device)
        x = x.index_select(axis, (side - 1 - (side - 1 - steps).abs()).clamp(min=0))
    return x


def crop_to(x: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Undo `pad_to_multiple` for an output at 1/`scale`: keep ceil(size / scale) rows and columns."""
    return x[..., : -(-height // scale), : -(-width // scale)]


def enlarge(mask: Tensor, scale: int, height: int, width: int) -> Tensor:
    """Make each value of a (..., h, w) tensor a square of `scale` px, and cut to (..., height, width)."""
    return mask.repeat_interleave(scale, -2).repeat_interleave(scale, -1)[..., :height, :width]
