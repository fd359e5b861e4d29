"""Where to cut training patches: blur-aware patch cropping, and the valid part of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


class Box(NamedTuple):
    """A window of an image: rows [y, y + height), columns [x, x + width)."""

    y: int
    x: int
    height: int
    width: int


def blur_aware_corner(
    area: Box,
    size: int,
    rng: Generator,
    pick_blurred: Callable[[float], tuple[int, int] | None],
    probability: float = 0.5,
) -> tuple[int, int]:
    """Top-left corner of a patch by blur-aware patch cropping, BAPC (Li et al. 2023, section 4).

    With `probability` the patch is centred on a pixel drawn uniformly from the blurred pixels of
    `area`, and moved by the least amount that keeps it inside; otherwise, or where nothing is
    blurred, the corner is drawn uniformly.

    The public code differs in three points, none of which is in the paper: its uniform draw never
    gives the last possible row and column; it draws only pixels at least size / 2 away from the
    border; and it falls back to the uniform draw where the mean of the raw mask is at most 0.05,
    which is an area of 0.02 % for masks of 0 and 255 but 5 % for masks of 0 and 1.

    Parameters
    ----------
    area : Box
        Part of the frame that patches may cover.
    size : int
        Side of the patch [px], at most the sides of `area`.
    rng : numpy Generator
    pick_blurred : callable (share) -> (y, x) or None
        Gives the blurred pixel of `area` that lies at `share` in [0, 1) of all of them, in whatever order; None
        where nothing is blurred. Called only if one is wanted.
    probability : float
        Share of patches to be centred on a blurred pixel.

    Returns
    -------
    (y, x)
        In the coordinates of the frame.

    Raises
    ------
    ValueError
        The patch is larger than `area`.
    """
    if size > min(area.height, area.width):
        raise ValueError(f"a patch of {size} does not fit into {area.height} x {area.width}")
    last_y, last_x = area.height - size, area.width - size
    # Drawn in any case, so that the number of draws does not depend on the data.
    centred = rng.random() < probability
    y, x = int(rng.integers(last_y, endpoint=True)), int(rng.integers(last_x, endpoint=True))
    pick = rng.random()
    centre = pick_blurred(pick) if centred else None
    if centre is not None:
        y = min(max(centre[0] - area.y - size // 2, 0), last_y)
        x = min(max(centre[1] - area.x - size // 2, 0), last_x)
    return area.y + y, area.x + x


def mirror(images: list[NDArray[Any]], rng: Generator, hflip: float, vflip: float) -> list[NDArray[Any]]:
    """Mirror all (H, W[, C]) images alike: left-right with probability `hflip`, top-bottom with `vflip`."""
    horizontal, vertical = rng.random() < hflip, rng.random() < vflip
    step_y, step_x = (-1 if vertical else 1), (-1 if horizontal else 1)
    return [image[::step_y, ::step_x] for image in images]


def valid_box(valid: NDArray[np.uint8]) -> Box:
    """Large rectangle of valid pixels.

    Parameters
    ----------
    valid : (H, W) uint8 array
        Pixels above 0 are valid.

    Returns
    -------
    Box
        The whole frame if all is valid; else the largest rectangle on a grid of about 256 blocks a side,
        grown by whole rows and columns as far as they are valid. Height and width are 0 if there is none.
    """
    good: NDArray[np.bool_] = valid > 0
    height, width = good.shape
    if good.all():
        return Box(0, 0, height, width)
    block = -(-max(height, width) // 256)
    rows, columns = height // block, width // block
    split = good[: rows * block, : columns * block].reshape(rows, block, columns, block)
    blocks: NDArray[np.bool_] = np.logical_and.reduce(split, axis=(1, 3))
    y, x, h, w = (value * block for value in _largest_rectangle(blocks))
    if h == 0:
        return Box(0, 0, 0, 0)
    while y > 0 and good[y - 1, x : x + w].all():
        y, h = y - 1, h + 1
    while y + h < height and good[y + h, x : x + w].all():
        h += 1
    while x > 0 and good[y : y + h, x - 1].all():
        x, w = x - 1, w + 1
    while x + w < width and good[y : y + h, x + w].all():
        w += 1
    return Box(y, x, h, w)


def _largest_rectangle(good: NDArray[np.bool_]) -> Box:
    """Exact largest rectangle of True cells: largest rectangle under a histogram, row by row."""
    best = Box(0, 0, 0, 0)
    run = np.zeros(good.shape[1] + 1, int)
    for bottom, row in enumerate(good):
        run[:-1] = np.where(row, run[:-1] + 1, 0)
        open_bars: list[tuple[int, int]] = []
        for column, bar in enumerate(run.tolist()):
            start = column
            while open_bars and open_bars[-1][1] >= bar:
                start, high = open_bars.pop()
                if high * (column - start) > best.height * best.width:
                    best = Box(bottom - high + 1, start, high, column - start)
            open_bars.append((start, bar))
    return best
