"""Exact pruned inference: the masked convolutions are computed where the mask wants them, and nowhere else.

A masked pixel needs the wide features of its eight neighbours too, sharp or not. The image is divided into tiles;
each tile with a masked pixel is gathered with a border of one pixel, for which the 1x1 and the depth-wise
convolution are computed; only its masked pixels are taken. Which rows of memory those are is found once an image
and serves all blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.models.nafnet import gate, pointwise, spatial

if TYPE_CHECKING:
    from torch import nn

TILE = 8  # side of the tiles [px]
HALO = TILE + 2


class MaskedPixels(NamedTuple):
    """Where a mask is 1, as places in features (N, H, W, C) that are read row by row, a row being one pixel.

    Attributes
    ----------
    gathered : (T * 100,) int64 tensor
        Rows of each tile with its border; row 0 for those outside the image.
    outside : (K,) int64 tensor
        Which of `gathered` lie outside the image.
    taken : (Q,) int64 tensor
        Which of the T * 64 results are masked pixels.
    written : (Q,) int64 tensor
        Their rows in the image.
    everywhere : bool
        Whether the tiles with their borders have more pixels than the image: computing all of it costs less.
    """

    gathered: Tensor
    outside: Tensor
    taken: Tensor
    written: Tensor
    everywhere: bool


def find_masked(mask: Tensor) -> MaskedPixels:
    """Make the tables of a mask; waits for the device, once an image.

    Parameters
    ----------
    mask : (N, H, W, 1) tensor of 0 and 1
    """
    count, height, width = mask.shape[:3]
    down, across = -(-height // TILE), -(-width // TILE)
    padded = F.pad(mask[..., 0] > 0, (0, across * TILE - width, 0, down * TILE - height))
    tiles = padded.view(count, down, TILE, across, TILE).permute(0, 1, 3, 2, 4)
    chosen = tiles.any(-1).any(-1).nonzero()
    image, top, left = chosen[:, 0], chosen[:, 1] * TILE, chosen[:, 2] * TILE
    steps = torch.arange(-1, TILE + 1, device=mask.device)
    y, x = (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows = torch.where(inside, (image[:, None, None] * height + y) * width + x, 0)
    taken = tiles[chosen[:, 0], chosen[:, 1], chosen[:, 2]].flatten().nonzero()[:, 0]
    return MaskedPixels(
        gathered=rows.flatten(),
        outside=(~inside).flatten().nonzero()[:, 0],
        taken=taken,
        written=rows[:, 1:-1, 1:-1].flatten()[taken],
        everywhere=inside.numel() > mask.numel(),
    )


def gate_where_masked(x: Tensor, conv1: nn.Conv2d, conv2: nn.Conv2d, pixels: MaskedPixels) -> Tensor:
    """gate(conv2(conv1(x))) at masked pixels, x^2 at the others, without computing the former there.

    Parameters
    ----------
    x : (N, H, W, C) tensor
    conv1, conv2 : torch.nn.Conv2d
        1x1, C to 2C channels; 3x3 depth-wise with zero padding, which comes after the bias of `conv1`.
    pixels : MaskedPixels

    Returns
    -------
    (N, H, W, C) tensor
    """
    result = (x * x).flatten(0, 2)
    if len(pixels.taken) == 0:
        return result.view_as(x)
    if pixels.everywhere:
        values = gate(spatial(conv2, pointwise(conv1, x))).flatten(0, 2)[pixels.written]
    else:
        wide = pointwise(conv1, x.flatten(0, 2)[pixels.gathered])
        wide[pixels.outside] = 0
        wide = wide.view(-1, HALO, HALO, wide.shape[-1]).permute(0, 3, 1, 2)
        wide = F.conv2d(wide, conv2.weight, conv2.bias, groups=conv2.groups).permute(0, 2, 3, 1)
        values = gate(wide).flatten(0, 2)[pixels.taken]
    result[pixels.written] = values
    return result.view_as(x)
