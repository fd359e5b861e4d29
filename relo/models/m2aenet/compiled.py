"""The compiled loop of the deformable convolution; imported only where it runs, because numba takes a while.

Tested against torch's bilinear sampling; `benchmarks/models.py` prints how much faster it is.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relo.kernels import kernel


# Of fast mathematics only what fused multiply-adds need: nothing may be reordered, so that results repeat.
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
    # Places are float64, of which float32 features must not be made too: the loops would be half as fast.
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
