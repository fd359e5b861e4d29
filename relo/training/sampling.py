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

    The public code differs in three points, none of which is in the paper: see `published_corner`.

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


PUBLISHED_LEAST_MEAN = 0.05  # of the raw mask; more of it must be blurred for a patch to be centred on blur


def published_corner(
    area: Box,
    size: int,
    rng: Generator,
    mean_of_mask: Callable[[], float],
    pick_blurred: Callable[[float], tuple[int, int] | None],
    probability: float = 0.5,
) -> tuple[int, int]:
    """Top-left corner of a patch as the public code of LBAG draws it (repository ReLoBlur, dataset.py).

    It differs from `blur_aware_corner` in three points, none of which is in the paper. The uniform draw never gives
    the last possible row and column, an off-by-one. A centre is drawn only from the blurred pixels of `interior`,
    so that patches need not be moved. And a patch is centred on blur only where the mean of the raw mask, of 0 to
    255, is above 0.05: a blurred area of more than 0.02 % for masks of 0 and 255, which shards have, but of more
    than 5 % for masks of 0 and 1.

    An area no larger than the patch in one direction, where the public code fails, gives the only corner there is.

    Parameters
    ----------
    area : Box
        Part of the frame that patches may cover; the whole frame in the public code.
    size : int
        Side of the patch [px], at most the sides of `area`.
    rng : numpy Generator
        As many numbers are drawn from it as by `blur_aware_corner`, whatever the mask.
    mean_of_mask : callable () -> float
        Mean of the mask, of 0 and 255, over `area`. Called only if a blurred pixel is wanted.
    pick_blurred : callable (share) -> (y, x) or None
        As in `blur_aware_corner`, but of the blurred pixels of `interior(area, size)`.
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
    centred = rng.random() < probability
    y, x = (int(rng.integers(max(side - size, 1))) for side in (area.height, area.width))
    pick = rng.random()
    centre = pick_blurred(pick) if centred and mean_of_mask() > PUBLISHED_LEAST_MEAN else None
    if centre is not None:
        return centre[0] - size // 2, centre[1] - size // 2
    return area.y + y, area.x + x


def interior(area: Box, size: int) -> Box:
    """Pixels of `area` that are the centre of a patch that lies within; empty if `area` is as small as a patch.

    Convention: the centre of a patch is the pixel at `size // 2` from its top and left. As in the public code the
    range ends before side - size // 2, so that for even sizes no patch at the last corner is centred on any of it.
    """
    half = size // 2
    return Box(area.y + half, area.x + half, max(area.height - 2 * half, 0), max(area.width - 2 * half, 0))


def mirror(images: list[NDArray[Any]], rng: Generator, hflip: float, vflip: float) -> list[NDArray[Any]]:
    """Mirror all (H, W[, C]) images alike: left-right with probability `hflip`, top-bottom with `vflip`."""
    horizontal, vertical = rng.random() < hflip, rng.random() < vflip
    step_y, step_x = (-1 if vertical else 1), (-1 if horizontal else 1)
    return [image[::step_y, ::step_x] for image in images]


def turn(images: list[NDArray[Any]], rng: Generator, probability: float) -> list[NDArray[Any]]:
    """Turn all square (S, S[, C]) images alike, by 90 degrees counter-clockwise with `probability`."""
    return [np.rot90(image) for image in images] if rng.random() < probability else images


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
