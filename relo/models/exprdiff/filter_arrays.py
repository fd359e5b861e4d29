"""The blur-aware guided filter of NumPy arrays, for whole photographs: compiled box sums, a strip at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relo.kernels import kernel

# Rows a strip has at least; its float64 planes stay small, and at most half of what is summed is its surroundings.
_ROWS = 256


def apply(
    blurry: NDArray[Any], short: NDArray[Any], mask: NDArray[Any], radius: int, eps: float, eps_mode: str
) -> NDArray[Any]:
    """Filter arrays that `blur_aware_guided_filter` has checked."""
    result = blurry.copy()
    for rows, columns, slope, offset in fitted_strips(blurry, short, mask, radius, eps, eps_mode):
        part = (rows, columns)
        confidence = np.asarray(mask[part], np.float64)
        confidence = confidence[..., None] if blurry.ndim == 3 else confidence
        before = blurry[part].astype(np.float64)
        after = before + confidence * (slope * short[part] + offset - before)
        result[part] = np.where(confidence > 0, after, before)  # exactly what it was, down to the sign of 0
    return result


def fitted_strips(
    target: NDArray[Any], guide: NDArray[Any], mask: NDArray[Any], radius: int, eps: float, eps_mode: str
) -> Iterator[tuple[slice, slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield (rows, columns, slope, offset) for strips that together hold every pixel whose mask is above 0.

    `slope` and `offset`, float64 of the strip's shape, map the guide to the target. They are means over all windows
    that hold a pixel; each of these has a blurred pixel where the pixel itself is blurred. Elsewhere the values
    mean nothing.
    """
    used = np.asarray(mask > 0)
    filled_rows, filled_columns = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    if not filled_rows.size:
        return
    height, width = used.shape
    left, right = int(filled_columns[0]), int(filled_columns[-1]) + 1
    # Pixels outside of the mask weigh nothing: columns are needed only as far as there are windows.
    first, last = max(0, left - radius), min(width, right + radius)
    step = max(_ROWS, 8 * radius)
    origins = [_mean(target, used), _mean(guide, used)]
    for top in range(int(filled_rows[0]), int(filled_rows[-1]) + 1, step):
        bottom = min(top + step, int(filled_rows[-1]) + 1)
        if not used[top:bottom].any():
            continue
        above, below = max(0, top - 2 * radius), min(height, bottom + 2 * radius)
        around = (slice(above, below), slice(first, last))
        inside = (slice(top - above, bottom - above), slice(left - first, right - first))
        weight = np.square(mask[around], dtype=np.float64)
        total = box_sum(weight, radius)
        fits = [
            _fit(b, r, weight, total, origin, radius, eps, eps_mode)
            for b, r, *origin in zip(_channels(target[around]), _channels(guide[around]), *origins, strict=True)
        ]
        # Windows have their centre within the image: near its border fewer hold a pixel.
        down, along = _counts(top, bottom, height, radius), _counts(left, right, width, radius)
        counts = down[:, None] * along
        slope = np.stack([slope[inside] / counts for slope, _ in fits], axis=-1)
        offset = np.stack([offset[inside] / counts for _, offset in fits], axis=-1)
        if target.ndim == 2:
            slope, offset = slope[..., 0], offset[..., 0]
        yield slice(top, bottom), slice(left, right), slope, offset


def _fit(
    target: NDArray[np.float64],
    guide: NDArray[np.float64],
    weight: NDArray[np.float64],
    total: NDArray[np.float64],
    origin: list[float],
    radius: int,
    eps: float,
    eps_mode: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of slopes and of offsets over the windows that hold each pixel of one channel.

    `total` is the box sum of `weight`. `origin`, roughly the means of target and guide, is subtracted first,
    because variances are differences of squares and lose digits to a large mean.
    """
    empty = total == 0
    total = np.where(empty, 1, total)
    b, r = target - origin[0], guide - origin[1]
    weighted_r = weight * r
    mean_r = box_sum(weighted_r, radius) / total
    mean_b = box_sum(weight * b, radius) / total
    covariance = box_sum(weighted_r * b, radius) / total - mean_r * mean_b
    variance = np.maximum(box_sum(weighted_r * r, radius) / total - mean_r * mean_r, 0)
    share = total if eps_mode == "sum" else 1.0  # eps counts once a window, or for each pixel
    slope = covariance * share / (variance * share + eps)
    offset = mean_b + origin[0] - slope * (mean_r + origin[1])
    slope[empty], offset[empty] = 0, 0
    return box_sum(slope, radius), box_sum(offset, radius)


def _mean(image: NDArray[Any], used: NDArray[np.bool_]) -> list[float]:
    """Approximate mean of each channel where the mask is above 0, from every eighth such pixel."""
    places = np.flatnonzero(used)[::8]
    pixels = image.reshape(used.size, -1)[places]
    return [float(mean) for mean in pixels.mean(axis=0, dtype=np.float64)]


def _channels(image: NDArray[Any]) -> list[NDArray[np.float64]]:
    planes = np.atleast_3d(image)
    return [np.ascontiguousarray(planes[..., channel], np.float64) for channel in range(planes.shape[2])]


def _counts(start: int, stop: int, size: int, radius: int) -> NDArray[np.float64]:
    """How many of the windows along a side of `size` hold each of the places [start, stop)."""
    places = np.arange(start, stop)
    return (np.minimum(places + radius, size - 1) - np.maximum(places - radius, 0) + 1).astype(np.float64)


def box_sum(image: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Sum over the (2 radius + 1)^2 window around each pixel, cut off at the border.

    Unlike running sums and summed-area tables it never subtracts: where all weights of a window are tiny beside
    those of its neighbours, their sum is as exact as anywhere, and it is 0 only where all are.

    Parameters
    ----------
    image : (H, W) float64 array
        C-contiguous.
    radius : int

    Returns
    -------
    (H, W) float64 array

    References
    ----------
    van Herk, Pattern Recognition Letters 13 (1992), and Gil and Werman, TPAMI 15 (1993), for maxima.
    """
    between, out = np.empty_like(image), np.empty_like(image)
    _sum_along(image, min(radius, image.shape[1] - 1), between)
    _sum_down(between, min(radius, image.shape[0] - 1), out)
    return out


# Both cut the line into blocks as long as the window. A window is the end of one block and the start of the next:
# sums from each place to the end of its block, plus sums from the start of a block.


@kernel()
def _sum_along(image: NDArray[np.float64], radius: int, out: NDArray[np.float64]) -> None:
    length, size = image.shape[1], 2 * radius + 1
    for y in range(image.shape[0]):
        for start in range(0, length, size):
            total = 0.0
            for x in range(min(start + radius, length - 1), start - radius - 1, -1):
                if x >= 0:
                    total += image[y, x]
                if x + radius < length:
                    out[y, x + radius] = total
            total = 0.0
            for x in range(start + radius + 1, min(start + 3 * radius + 1, length + radius)):
                if x < length:
                    total += image[y, x]
                out[y, x - radius] += total


@kernel()
def _sum_down(image: NDArray[np.float64], radius: int, out: NDArray[np.float64]) -> None:
    height, width = image.shape
    size = 2 * radius + 1
    total = np.empty(width)
    for start in range(0, height, size):
        total[:] = 0
        for y in range(min(start + radius, height - 1), start - radius - 1, -1):
            if y >= 0:
                for x in range(width):
                    total[x] += image[y, x]
            if y + radius < height:
                for x in range(width):
                    out[y + radius, x] = total[x]
        total[:] = 0
        for y in range(start + radius + 1, min(start + 3 * radius + 1, height + radius)):
            if y < height:
                for x in range(width):
                    total[x] += image[y, x]
            for x in range(width):
                out[y - radius, x] += total[x]
