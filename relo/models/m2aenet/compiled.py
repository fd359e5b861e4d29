"""Compiled loops of the deformable and the pruned convolution; imported only where they run: numba takes a while.

Tested against torch's forms of the same; `benchmarks/models.py` prints how much faster they are.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relo.kernels import kernel


# Of fast-math only fused multiply-adds: sums are not reordered, so that results are reproducible.
@kernel(fastmath={"contract"})
def convolve_rows(
    features: NDArray[Any],
    taps: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any],
    gated: bool,
    first: int,
    last: int,
    out: NDArray[Any],
) -> None:
    """Rows [first, last) of the deformable depth-wise convolution, counted over all images.

    Parameters
    ----------
    features : (N, H, W, C) array
    taps : (N, H, W, 9, 2) array
        (dy, dx) [px].
    weights : (9, C) array
    bias : (C,) array
    gated : bool
        Whether `out` (N, H, W, C / 2) gets the product of the two halves of the channels.
    first, last : int
    out : (N, H, W, C) or (N, H, W, C / 2) array
    """
    _, height, width, channels = features.shape
    half = channels // 2
    sums = np.empty(channels, features.dtype)
    for line in range(first, last):
        image, row = line // height, line % height
        for column in range(width):
            _sum_taps(features[image], row, column, taps[image, row, column], weights, bias, sums)
            pixel = out[image, row, column]
            if gated:
                for c in range(half):
                    pixel[c] = sums[c] * sums[half + c]
            else:
                for c in range(channels):
                    pixel[c] = sums[c]


@kernel(fastmath={"contract"})
def _sum_taps(
    image: NDArray[Any],
    row: int,
    column: int,
    place: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any],
    sums: NDArray[Any],
) -> None:
    """All channels of one pixel of the result."""
    height, width, channels = image.shape
    # Positions are float64; features must not become float64 with them, which would halve the speed of the loops.
    single = image.dtype.type
    for c in range(channels):
        sums[c] = bias[c]
    for tap in range(9):
        y = row + (tap // 3 - 1) + place[tap, 0]
        x = column + (tap % 3 - 1) + place[tap, 1]
        # Also true for NaN, which has no corner inside.
        if not (-1 < y < height and -1 < x < width):
            continue
        top, left = floor(y), floor(x)
        below, right = y - top, x - left
        kernel_row = weights[tap]
        if 0 <= top < height - 1 and 0 <= left < width - 1:
            wa, wb = single((1 - below) * (1 - right)), single((1 - below) * right)
            wc, wd = single(below * (1 - right)), single(below * right)
            a = image[top, left]
            b = image[top, left + 1]
            c_ = image[top + 1, left]
            d = image[top + 1, left + 1]
            for c in range(channels):
                sums[c] += kernel_row[c] * (wa * a[c] + wb * b[c] + wc * c_[c] + wd * d[c])
        else:
            for corner in range(4):
                y_, x_ = top + corner // 2, left + corner % 2
                if 0 <= y_ < height and 0 <= x_ < width:
                    share = single((below if corner // 2 else 1 - below) * (right if corner % 2 else 1 - right))
                    values = image[y_, x_]
                    for c in range(channels):
                        sums[c] += kernel_row[c] * (share * values[c])


@kernel(fastmath={"contract"})
def gate_neighbours(
    wide: NDArray[Any],
    neighbours: NDArray[Any],
    rows: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any],
    first: int,
    last: int,
    out: NDArray[Any],
) -> None:
    """Depth-wise convolution and gate of the masked pixels [first, last).

    Parameters
    ----------
    wide : (P, 2C) array
    neighbours : (Q, 9) int64 array
        Rows of `wide`; P for zeros.
    rows : (Q,) int64 array
        Which row of `out` each gets.
    weights : (9, 2C) array
    bias : (2C,) array
    first, last : int
    out : (R, C) array
    """
    channels = wide.shape[1]
    half = channels // 2
    sums = np.empty(channels, wide.dtype)
    for place in range(first, last):
        for c in range(channels):
            sums[c] = bias[c]
        for tap in range(9):
            neighbour = neighbours[place, tap]
            if neighbour == len(wide):
                continue
            kernel_row, values = weights[tap], wide[neighbour]
            for c in range(channels):
                sums[c] += kernel_row[c] * values[c]
        pixel = out[rows[place]]
        for c in range(half):
            pixel[c] = sums[c] * sums[half + c]
