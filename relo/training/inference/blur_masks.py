"""Where an image is blurred, at little cost: by a network's own mask, or by a look at the image reduced to 1/4."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.errors import TrainingError
from relo.models.image_batches import enlarge
from relo.models.restoration import takes_short
from relo.training.inference.own_mask import MaskedNetwork, to_grid
from relo.training.inference.whole_image import predict_own_mask, restore

LOOK = 4  # the image is looked at in 1/4 of its size, at 1/16 of the cost
LOOK_MARGIN = 2  # pixels of the small mask by which it is widened


class BlurMask(NamedTuple):
    """Where an image is blurred.

    Attributes
    ----------
    pixels : (H, W) bool tensor
        On the CPU.
    grid : (1, 1, ceil(H/s), ceil(W/s)) tensor of 0 and 1, or None
        The same for a `MaskedNetwork` of stride s to compute by; None for other networks.
    """

    pixels: Tensor
    grid: Tensor | None


def given_mask(model: nn.Module, pixels: Tensor) -> BlurMask:
    """Take a mask of somebody else; a `MaskedNetwork` takes every cell of which a pixel is blurred as blurred."""
    return BlurMask(pixels, to_grid(pixels, model.mask_stride) if isinstance(model, MaskedNetwork) else None)


def predict_mask(
    model: nn.Module, blur: Tensor, *, tile: int | None = None, overlap: int | None = None
) -> BlurMask:
    """Predict where an image is blurred, with less than the whole network or less than the whole image.

    A `MaskedNetwork` runs as far as its mask, on the whole image. Another network that returns masks restores the
    image reduced to 1/4 by the mean of 4 x 4 px; its mask above 0.5, widened by 8 px, is taken. That is an
    approximation: blur of a few pixels is lost in the small image, and the network was trained on larger ones.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, on its device.
    blur : (1, 3, H, W) tensor
        RGB in [0, 1], on any device.
    tile, overlap : int, optional
        See `restore`.

    Raises
    ------
    TrainingError
        The network predicts no mask, or the memory does not suffice.
    """
    height, width = blur.shape[-2:]
    grid = predict_own_mask(model, blur, tile=tile, overlap=overlap)
    if isinstance(model, MaskedNetwork) and grid is not None:
        return BlurMask(enlarge(grid[0, 0].cpu() > 0.5, model.mask_stride, height, width), grid)
    small = F.avg_pool2d(blur, LOOK, ceil_mode=True, count_include_pad=False)
    masks = restore(model, small, tile=tile, overlap=overlap).masks
    if not masks:
        raise no_mask_predicted()
    found = (masks[-1] > 0.5).float().cpu()
    found = F.max_pool2d(found, 2 * LOOK_MARGIN + 1, stride=1, padding=LOOK_MARGIN)
    return BlurMask(enlarge(found[0, 0] > 0, LOOK, height, width), None)


def predicts_masks(model: nn.Module) -> bool:
    """Whether a network in evaluation mode tells where an image is blurred."""
    return isinstance(model, MaskedNetwork) or bool(
        restore(model, torch.zeros(1, 6 if takes_short(model) else 3, 64, 64), tile=0).masks
    )


def no_mask_predicted(file: str | Path | None = None) -> TrainingError:
    """Say that a network cannot find blur by itself."""
    return TrainingError(
        "its network predicts no blur mask, so where the blur is has to be told",
        file=file,
        advice="Give masks with --mask-from, or leave --only-blurred out.",
    )
