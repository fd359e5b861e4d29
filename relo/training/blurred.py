"""Draw a blurred pixel without reading a whole mask: masks are counted once, tile by tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relo.shards.reader import Sample
from relo.shards.tiles import TILE
from relo.training.sampling import Box

_Key = tuple[str, int, Box]


class AllBlurred(Sample):
    """A pair that is taken for blurred everywhere, as by a moving camera, whatever its mask."""

    def crop(self, name: str, y: int, x: int, height: int, width: int) -> NDArray[np.generic]:
        """Window of an image as of any pair; all of a window of "mask" is 255."""
        if name == "mask":
            return np.full((height, width), 255, np.uint8)
        return super().crop(name, y, x, height, width)


class BlurredPixels:
    """Uniform draws from the blurred pixels of a pair's mask.

    The first draw from a pair and an area of it decodes its mask, later ones only a tile of it. What is kept is one
    number a tile: less than a kilobyte for 2152 x 1436 pixels.
    """

    def __init__(self) -> None:
        self._totals: dict[_Key, NDArray[np.int64]] = {}

    def pick(self, sample: Sample, area: Box, share: float) -> tuple[int, int] | None:
        """Blurred pixel of `sample` within `area`.

        Parameters
        ----------
        sample : relo.shards.Sample
        area : Box
        share : float
            In [0, 1): which of the blurred pixels, counted tile by tile.

        Returns
        -------
        (y, x) or None
            In the coordinates of the frame; None where nothing is blurred.
        """
        totals = self._tiles(sample, area)
        if not totals.size:
            return None
        number = int(share * totals[-1])
        if number >= totals[-1]:
            return None
        rows, columns = _edges(area.y, area.height), _edges(area.x, area.width)
        tile = int(np.searchsorted(totals, number, side="right"))
        row, column = divmod(tile, len(columns) - 1)
        box = Box(rows[row], columns[column], rows[row + 1] - rows[row], columns[column + 1] - columns[column])
        found = np.flatnonzero(sample.crop("mask", *map(int, box)))
        before = int(totals[tile - 1]) if tile else 0
        y, x = divmod(int(found[number - before]), int(box.width))
        return int(box.y) + y, int(box.x) + x

    def count(self, sample: Sample, area: Box) -> int:
        """Number of blurred pixels of `sample` within `area`."""
        totals = self._tiles(sample, area)
        return int(totals[-1]) if totals.size else 0

    def _tiles(self, sample: Sample, area: Box) -> NDArray[np.int64]:
        """Running number of blurred pixels, tile by tile; nothing for an empty area."""
        if area.height == 0 or area.width == 0:
            return np.empty(0, np.int64)
        key = str(sample.shard.path), sample.index, area
        if key not in self._totals:
            rows, columns = _edges(area.y, area.height), _edges(area.x, area.width)
            self._totals[key] = _count(sample.crop("mask", *area), rows - area.y, columns - area.x)
        return self._totals[key]


def _edges(start: int, length: int) -> NDArray[np.int64]:
    """Where the stored tiles that [start, start + length) touches begin and end, cut to that range."""
    inner = np.arange(start // TILE + 1, -(-(start + length) // TILE)) * TILE
    return np.concatenate([[start], inner, [start + length]])


def _count(mask: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running number of blurred pixels, tile by tile."""
    by_rows = np.add.reduceat((mask > 0).astype(np.uint16), rows[:-1], axis=0, dtype=np.uint16)
    counts = np.add.reduceat(by_rows.astype(np.int64), columns[:-1], axis=1)
    return np.cumsum(counts.ravel())
