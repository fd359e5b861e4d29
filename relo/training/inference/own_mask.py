"""Networks that compute by a blur mask of their own, and that mask for a whole image of which only parts fit.

Such a network (M2AENet) predicts its mask from features and their mean over the whole image: a part of an image
seen by itself would get another mask. So features are gathered from windows, the mask is made of all of them at
once, and the rest of the network runs in windows with its part of that mask.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.training.inference.tiling import windows


@runtime_checkable
class MaskedNetwork(Protocol):
    """What `restore` asks of a network that computes by a mask, besides `model(blur) -> Restoration`.

    `model(blur, mask)` takes the mask, an (N, 1, ceil(H/s), ceil(W/s)) tensor of 0 and 1, in place of the one that
    it would predict: `model.mask_of(model.mask_features(blur))`.
    """

    @property
    def mask_stride(self) -> int:
        """Side s of the cells of the mask [px], a divisor of the 64 px at whose multiples windows start."""

    def mask_features(self, blur: Tensor) -> Tensor:
        """Map an (N, 3, H, W) batch to the (N, C, ceil(H/s), ceil(W/s)) features that the mask is made of."""

    def mask_of(self, features: Tensor) -> Tensor:
        """Map the features of whole images to (N, 1, ceil(H/s), ceil(W/s)) masks of 0 and 1."""


def predict_grid(model: MaskedNetwork, blur: Tensor, tile: int, overlap: int, device: torch.device) -> Tensor:
    """Predict the mask of whole images from features that are computed in windows.

    Where the features of a place depend on what is near it alone, the mask is that of the whole image, but for
    cells that are as good as undecided. Where the network also pools over all it sees, as NAFNet's channel
    attention does, the windows' features are an approximation.

    Parameters
    ----------
    model : MaskedNetwork
        In evaluation mode, on `device`.
    blur : (N, 3, H, W) tensor
        RGB in [0, 1], on any device.
    tile, overlap : int
        See `relo.training.inference.tiling.windows`; 0 for the whole image at once.
    device : torch.device

    Returns
    -------
    (N, 1, ceil(H/s), ceil(W/s)) tensor of 0 and 1
        On `device`.
    """
    height, width = blur.shape[-2:]
    if not tile or tile >= max(height, width):
        return model.mask_of(model.mask_features(blur.to(device)))
    stride, features = model.mask_stride, None
    for rows, columns, weight in windows(height, width, tile, overlap):
        part = model.mask_features(blur[..., rows, columns].to(device))
        if features is None:
            features = part.new_zeros(*part.shape[:2], *(-(-side // stride) for side in (height, width)))
        # The windows' weights sum to 1 at every pixel, so also at the first of each cell.
        features[..., on_grid(rows, stride), on_grid(columns, stride)] += part * weight[::stride, ::stride].to(part)
    assert features is not None, "there is always a window"
    return model.mask_of(features)


def on_grid(pixels: slice, stride: int) -> slice:
    """Cells that hold the pixels of a slice that starts at a multiple of `stride`."""
    return slice(pixels.start // stride, -(-pixels.stop // stride))


def part_of(mask: Tensor | None, model: object, rows: slice, columns: slice) -> Tensor | None:
    """Part of the mask of an image for a window that starts at multiples of 64; None where there is no mask."""
    if mask is None:
        return None
    assert isinstance(model, MaskedNetwork), "no other network takes a mask"
    return mask[..., on_grid(rows, model.mask_stride), on_grid(columns, model.mask_stride)]


def to_grid(mask: Tensor, stride: int) -> Tensor:
    """Mark the cells of which a pixel is marked: (H, W) bool to (1, 1, ceil(H/s), ceil(W/s)) float32 of 0 and 1."""
    return F.max_pool2d(mask[None, None].float(), stride, ceil_mode=True)
