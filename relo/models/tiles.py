"""Restoring an image in overlapping tiles: memory for one tile, and weights that sum to 1 at every pixel.

LoFormer was published to be tested so. Where tiles meet, their residuals are blended by linear ramps. The published
blending is off at two places: an image side of one tile is ramped at its start, and where three tiles meet the
weights sum to more than 1. Here weights are divided by their sum; elsewhere they are the published ones. The image
is cut as it is; a network pads a tile that is no multiple of what it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

OVERLAP = 32  # of the published tiles [px]


def check_tile(tile: int, multiple: int) -> None:
    """Refuse sides of tiles that a network cannot be built for.

    Parameters
    ----------
    tile : int
        Side of a tile [px], or 0 for none.
    multiple : int
        Of which the network wants the sides of its input [px].

    Raises
    ------
    ValueError
        It is negative, no such multiple, or so short that the two neighbours of a tile would overlap.
    """
    if tile % multiple or tile < 0 or 0 < tile < 2 * OVERLAP:
        raise ValueError(f"tile must be 0, or a multiple of {multiple} from {2 * OVERLAP} px on, got {tile}")


def needs_tiles(image: Tensor, tile: int) -> bool:
    """Whether a side is longer than a tile; 0 is for no tiles, and a graph for all sizes is recorded without."""
    return bool(tile) and not torch.compiler.is_compiling() and max(image.shape[-2:]) > tile


def restore_in_tiles(
    restore: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int = OVERLAP
) -> Tensor:
    """Give the residual of an image, put together from the residuals of its tiles.

    Parameters
    ----------
    restore : callable
        Maps a tile (N, C, h, w) to its residual (N, 3, h, w), one tile at a time, row by row.
    image : (N, C, H, W) tensor
    tile : int
        Sides of a tile [px]; a shorter side of the image is taken whole.
    overlap : int
        Rows and columns that neighbours share [px]; the last tile of a side may share more.

    Returns
    -------
    (N, 3, H, W) tensor
        Of the dtype of the image.

    Raises
    ------
    ValueError
        See `tile_starts`.
    """
    height, width = image.shape[-2:]
    across = _spans(width, tile, overlap, image)
    residual = image.new_zeros(len(image), 3, height, width)
    for rows, vertical in _spans(height, tile, overlap, image):
        for columns, horizontal in across:
            part = restore(image[..., rows, columns])
            residual[..., rows, columns] += part * (vertical[:, None] * horizontal)
    return residual


def tile_starts(length: int, tile: int, overlap: int = OVERLAP) -> list[int]:
    """First pixel of each tile along a side: steps of `tile - overlap`, and the last tile ends with the side.

    Parameters
    ----------
    length, tile, overlap : int
        [px]

    Raises
    ------
    ValueError
        The overlap is negative or does not leave a step.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"expected an overlap in [0, {tile}), less than the tile, got {overlap}")
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def tile_weights(starts: Sequence[int], side: int) -> Tensor:
    """Weights of tiles along a side of an image: their sum is 1 at every pixel.

    A tile's weight rises from 0 to 1 over what it shares with the tile before and falls over what it shares with
    the one after; then it is divided by the sum over all tiles.

    Parameters
    ----------
    starts : sequence of int
        See `tile_starts`.
    side : int
        Of each tile [px].

    Returns
    -------
    (number of tiles, side) float64 tensor
    """
    weights = torch.ones(len(starts), side, dtype=torch.float64)
    for index, (first, second) in enumerate(pairwise(starts)):
        shared = first + side - second
        rise = torch.linspace(0, 1, shared, dtype=torch.float64)
        weights[index, side - shared :] *= 1 - rise
        weights[index + 1, :shared] *= rise
    total = torch.zeros(starts[-1] + side, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + side] += weight
    return torch.stack(
        [weight / total[start : start + side] for start, weight in zip(starts, weights, strict=True)]
    )


def _spans(length: int, tile: int, overlap: int, like: Tensor) -> list[tuple[slice, Tensor]]:
    """Tiles along a side of `length` px, each with its weights (side,)."""
    starts, side = tile_starts(length, tile, overlap), min(tile, length)
    weights = tile_weights(starts, side).to(like)
    return [(slice(start, start + side), weight) for start, weight in zip(starts, weights, strict=True)]
