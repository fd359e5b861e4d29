"""Overlapping windows over an image, and weights that blend them.

Convention: windows start at multiples of `ALIGNMENT`, so that every network sees them at the phase of its
strides at which it would see the whole image. Along a side the weight of window i is r(i) - r(i + 1), where
r(i) rises from 0 to 1 in the middle quarter of what windows i - 1 and i share: the sum is 1 everywhere, and
the outer three eighths of an overlap, which a network restores without seeing their surroundings, count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relo.errors import ConfigError

ALIGNMENT = 64  # [px]; a multiple of the strides 4, 8 and 32 of the networks
SMALLEST = 2 * ALIGNMENT  # side of the smallest window that can overlap its neighbours [px]


class Window(NamedTuple):
    """A part of an image and its share in the result.

    Attributes
    ----------
    rows, columns : slice
    weight : (h, w) float32 tensor in [0, 1]
    """

    rows: slice
    columns: slice
    weight: Tensor


def aligned_tile(tile: int, overlap: int) -> int:
    """Side of the windows to use where `tile` is asked for.

    Parameters
    ----------
    tile : int
        Wanted side [px], positive.
    overlap : int
        Rows and columns that neighbours share at least [px].

    Returns
    -------
    int
        The largest multiple of 64 that is not above `tile`, but at least 128.

    Raises
    ------
    ConfigError
        `tile` is not positive, or `overlap` is negative or more than half of what is returned.
    """
    if tile <= 0:
        raise ConfigError(f"the tile size must be positive, got {tile}")
    side = max(SMALLEST, tile // ALIGNMENT * ALIGNMENT)
    if not 0 <= overlap <= side // 2:
        raise ConfigError(f"the overlap must be between 0 and half of the tile size {side}, got {overlap}")
    return side


def windows(height: int, width: int, tile: int, overlap: int) -> Iterator[Window]:
    """Windows that cover an image, row by row.

    Parameters
    ----------
    height, width : int
        Size of the image [px].
    tile, overlap : int
        `tile` as `aligned_tile` gives it. Windows share more than `overlap` where their difference is no multiple
        of 64.

    Yields
    ------
    Window
        Cut off at the bottom and right of the image.
    """
    across = list(_spans(width, tile, overlap))
    for rows, vertical in _spans(height, tile, overlap):
        for columns, horizontal in across:
            yield Window(rows, columns, vertical[:, None] * horizontal)


def _spans(size: int, tile: int, overlap: int) -> Iterator[tuple[slice, Tensor]]:
    """Windows along one side, with their weights."""
    step = (tile - overlap) // ALIGNMENT * ALIGNMENT
    shared = tile - step
    for start in range(0, max(size - shared, 1), step):
        stop = min(start + tile, size)
        position = torch.arange(start, stop) + 0.5
        weight = torch.ones(stop - start)
        if start > 0:
            weight = _rise(position, start, shared)
        if stop < size:
            weight = weight - _rise(position, start + step, shared)
        yield slice(start, stop), weight


def _rise(position: Tensor, start: int, shared: int) -> Tensor:
    """0 up to 3/8, 1 from 5/8 of the `shared` pixels after `start` on; a step at `start` where none are shared."""
    if not shared:
        return (position >= start).float()
    return ((position - (start + 0.375 * shared)) / (0.25 * shared)).clamp(0, 1)
