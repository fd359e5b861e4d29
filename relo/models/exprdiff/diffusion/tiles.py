"""Overlapping tiles of latents: where they lie, which of them hold blur, and how their results are joined."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = 0.1  # standard deviation of a tile's weights as a share of its side (Mixture of Diffusers, PASD)


class Tile(NamedTuple):
    """Rows [y, y + height) and columns [x, x + width) of the latents."""

    y: int
    x: int
    height: int
    width: int

    def of(self, tensor: Tensor, factor: int = 1) -> Tensor:
        """This part of (N, C, h factor, w factor)."""
        rows = slice(self.y * factor, (self.y + self.height) * factor)
        return tensor[..., rows, self.x * factor : (self.x + self.width) * factor]


def plan_tiles(wanted: Tensor, side: int, overlap: int) -> tuple[Tile, ...]:
    """Tiles that together cover every wanted place; those that hold none are left out.

    Parameters
    ----------
    wanted : (h, w) bool tensor
    side : int
        Of a tile, at least 1; a smaller side of the latents is one tile long.
    overlap : int
        What neighbours share at least, below `side`.

    Returns
    -------
    tuple of Tile
        All of one size. The last of a row or column ends with the latents.
    """
    rows, columns = (_starts(length, side, overlap) for length in wanted.shape)
    height, width = (min(length, side) for length in wanted.shape)
    tiles = (Tile(y, x, height, width) for y in rows for x in columns)
    return tuple(tile for tile in tiles if bool(tile.of(wanted).any()))


def tile_weights(height: int, width: int) -> Tensor:
    """(height, width) float32 weights above 0: a Gaussian, 1 in the middle."""
    rows, columns = (_bell(length) for length in (height, width))
    return rows[:, None] * columns[None, :]


class Joined:
    """Weighted mean of what tiles give, where they lie; one tile as it is, and 0 where there is none.

    Parameters
    ----------
    like : (N, C, h, w) tensor
        Shape, dtype and device of the result.
    """

    def __init__(self, like: Tensor) -> None:
        self._sum = torch.zeros_like(like)
        self._weight = torch.zeros_like(like[:1, :1])
        self._count = 0

    def add(self, tile: Tile, values: Tensor) -> None:
        """Add a tile's (N, C, tile.height, tile.width) values."""
        weight = tile_weights(tile.height, tile.width).to(self._sum)
        tile.of(self._sum).add_(values * weight)
        tile.of(self._weight).add_(weight)
        self._count += 1
        self._last = tile, values

    def mean(self) -> Tensor:
        """(N, C, h, w) result."""
        if self._count == 1:  # not values * weight / weight, which is rounded
            tile, values = self._last
            result = torch.zeros_like(self._sum)
            tile.of(result).copy_(values)
            return result
        return self._sum / torch.where(self._weight > 0, self._weight, 1)


def _starts(length: int, side: int, overlap: int) -> list[int]:
    last = max(length - side, 0)
    count = -(-last // (side - overlap)) + 1
    return [last * number // max(count - 1, 1) for number in range(count)]


def _bell(length: int) -> Tensor:
    place = (torch.arange(length) - (length - 1) / 2) / length
    return torch.exp(-(place**2) / (2 * SPREAD**2))
