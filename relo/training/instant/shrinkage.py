"""What a noisy difference of two images truly is: its block-wise cosine transform, cut at the noise.

The short exposure shows what the blur has taken away, plus noise. So not the short exposure is denoised but what it
adds to the photograph: wherever both agree within the noise the photograph stays, which has little noise of its
own. How strong the noise is at every spatial frequency, in every colour and brightness, is told by the area in
which nothing moved: there the two images differ by noise alone. Nothing needs to be known about the camera, and
noise that demosaicing, interpolation or JPEG made is measured as it is.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.kernels import kernel

# Side of the blocks and distance of their corners [px].
BLOCK, STEP = 16, 4
# Coefficients below so many standard deviations of the noise are taken for noise.
THRESHOLD = 2.5
# Ranges of brightness in which noise is measured, fewest blocks of each, and most blocks that are measured at all.
_LEVELS, _FEWEST, _SAMPLE = 8, 100, 12_000
# The median of |x| of Gaussian noise of deviation 1.
_MEDIAN = 0.6745
# What 8 bits leave of noise at least: a deviation of 0.1 of a step.
_FLOOR = (0.1 / 255) ** 2

# Rows: brightness, red against blue, green against both; orthonormal, so that noise keeps its variance.
_OPPONENT = np.array(
    [[3**-0.5, 3**-0.5, 3**-0.5], [2**-0.5, 0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]], np.float32
)


def shrink_difference(
    difference: NDArray[np.float32],
    brightness: NDArray[np.float32],
    static: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    *,
    threshold: float = THRESHOLD,
) -> NDArray[np.float32]:
    """Estimate the difference of two images without its noise.

    Parameters
    ----------
    difference : (H, W, 3) float32 array
        Of sRGB values in [0, 1].
    brightness : (H, W) float32 array
        What the noise depends on; in [0, 1].
    static : (H, W) bool array
        Where the images should be equal, but for noise.
    wanted : (H, W) bool array
        Where the result is needed.
    threshold : float
        Coefficients below so many standard deviations of the noise are dropped.

    Returns
    -------
    (H, W, 3) float32 array
        0 where it is neither wanted nor near to what is.

    References
    ----------
    Yaroslavsky, Egiazarian and Astola, "Transform domain image restoration methods", SPIE 4304, 2001; the weights
    of the blocks as in Dabov et al., "Image denoising by sparse 3-D transform-domain collaborative filtering",
    2007.
    """
    height, width = wanted.shape
    planes = np.ascontiguousarray(np.moveaxis(_padded(difference) @ _OPPONENT.T, -1, 0))
    level = np.asarray(cv2.blur(_padded(brightness), (BLOCK, BLOCK), anchor=(0, 0)), np.float32)
    corners = _corners(_padded(wanted.astype(np.uint8), 0), cv2.dilate)
    still = _corners(_padded(static.astype(np.uint8), 0), cv2.erode)
    edges, variance = measure_noise(planes, level, still)
    numerator, denominator = np.zeros_like(planes), np.zeros_like(planes)
    levels = np.searchsorted(edges, level[corners[:, 0], corners[:, 1]])
    _shrink_blocks(planes, corners, levels, variance, np.float32(threshold**2), _BASIS, numerator, denominator)
    np.divide(numerator, denominator, out=numerator, where=denominator > 0)
    inside = np.moveaxis(numerator[:, BLOCK : BLOCK + height, BLOCK : BLOCK + width], 0, -1)
    return np.asarray(inside @ _OPPONENT, np.float32)


def measure_noise(
    planes: NDArray[np.float32], level: NDArray[np.float32], corners: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure the variance of the noise of each coefficient, in ranges of brightness.

    Parameters
    ----------
    planes : (3, H, W) float32 array
        The difference of two images; all of it is noise in the blocks at `corners`.
    level : (H, W) float32 array
        Brightness of the block whose corner is there.
    corners : (n, 2) int array
        (y, x). Without any, the noise is taken to be white and as strong as the highest frequencies of all blocks.

    Returns
    -------
    (ranges - 1,) float32 array
        Borders between the ranges, rising.
    (ranges, 3, BLOCK, BLOCK) float32 array
        Variances. They are robust: a few blocks with something else than noise do no harm.
    """
    white = len(corners) < _FEWEST
    if white:
        corners = _corners(np.ones(level.shape, np.uint8), cv2.erode)
    corners = corners[:: -(-len(corners) // _SAMPLE)]
    sizes = np.empty((len(corners), 3, BLOCK, BLOCK), np.float32)
    _coefficients(planes, corners, _BASIS, sizes)
    np.abs(sizes, out=sizes)
    if white:
        high = sizes[..., BLOCK // 2 :, BLOCK // 2 :]
        variance = np.median(high, axis=(0, 2, 3))[None, :, None, None] / _MEDIAN
        variance = np.broadcast_to(variance**2, (1, *sizes.shape[1:]))
        return np.empty(0, np.float32), np.maximum(variance, _FLOOR).astype(np.float32)
    levels = level[corners[:, 0], corners[:, 1]]
    ranges = min(_LEVELS, len(corners) // _FEWEST)
    edges = np.quantile(levels, np.arange(1, ranges) / ranges).astype(np.float32)
    numbers = np.searchsorted(edges, levels)
    variance = np.zeros((ranges, *sizes.shape[1:]), np.float32)
    for number in range(ranges):
        if (numbers == number).any():  # one brightness for very many blocks leaves other ranges empty
            variance[number] = (np.median(sizes[numbers == number], axis=0) / _MEDIAN) ** 2
    return edges, np.maximum(variance, _FLOOR)


def _padded(image: NDArray[Any], value: int | None = None) -> NDArray[Any]:
    """Add a block on each side, mirrored or of one value, and what makes blocks end at the border."""
    down, along = (-side % STEP for side in image.shape[:2])
    sides = (BLOCK, BLOCK + down, BLOCK, BLOCK + along)
    if value is None:
        return np.asarray(cv2.copyMakeBorder(image, *sides, cv2.BORDER_REFLECT_101))
    return np.asarray(cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=(value,)))


def _corners(marks: NDArray[np.uint8], spread: Any) -> NDArray[np.int64]:
    """(n, 2) corners (y, x) of the blocks with a mark (`cv2.dilate`) or with marks only (`cv2.erode`)."""
    # OpenCV takes the anchor as it is for minima and mirrors it for maxima.
    anchor = (0, 0) if spread is cv2.erode else (BLOCK - 1, BLOCK - 1)
    found = spread(marks, np.ones((BLOCK, BLOCK), np.uint8), anchor=anchor)
    inside = found[: marks.shape[0] - BLOCK + 1 : STEP, : marks.shape[1] - BLOCK + 1 : STEP]
    return np.argwhere(inside) * STEP


def _cosines(size: int) -> NDArray[np.float32]:
    """Orthonormal (frequency, place) matrix of the cosine transform (DCT-II)."""
    frequency, place = np.mgrid[:size, :size]
    basis = np.cos(np.pi * frequency * (place + 0.5) / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return np.ascontiguousarray(basis, np.float32)


_BASIS = _cosines(BLOCK)


# Of fast mathematics only what fused multiply-adds need: nothing may be reordered, so that results repeat.
@kernel(fastmath={"contract"})
def _coefficients(
    planes: NDArray[np.float32], corners: NDArray[np.int64], basis: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    size = basis.shape[0]
    transposed = basis.T.copy()
    half = np.empty((size, size), np.float32)
    for index in range(corners.shape[0]):
        y, x = corners[index]
        for channel in range(3):
            _product(basis, planes[channel, y : y + size, x : x + size], half)
            _product(half, transposed, out[index, channel])


@kernel(fastmath={"contract"})
def _shrink_blocks(
    planes: NDArray[np.float32],
    corners: NDArray[np.int64],
    levels: NDArray[np.int64],
    variance: NDArray[np.float32],
    factor: np.float32,
    basis: NDArray[np.float32],
    numerator: NDArray[np.float32],
    denominator: NDArray[np.float32],
) -> None:
    """Add every block, without coefficients whose square is below `factor` variances, to a weighted mean.

    A block's weight is the inverse of the noise that it keeps: blocks that found little to keep are the smoothest.
    """
    size = basis.shape[0]
    transposed = basis.T.copy()
    half, block = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
    for index in range(corners.shape[0]):
        y, x = corners[index]
        for channel in range(3):
            _product(basis, planes[channel, y : y + size, x : x + size], half)
            _product(half, transposed, block)
            noise = variance[levels[index], channel]
            kept = np.float32(0)
            for i in range(size):
                for j in range(size):
                    if block[i, j] * block[i, j] < factor * noise[i, j]:
                        block[i, j] = 0
                    else:
                        kept += noise[i, j]
            weight = np.float32(1) / max(kept, noise[0, 0])
            _product(transposed, block, half)
            _product(half, basis, block)
            for i in range(size):
                for j in range(size):
                    numerator[channel, y + i, x + j] += weight * block[i, j]
                    denominator[channel, y + i, x + j] += weight


@kernel(fastmath={"contract"})
def _product(left: NDArray[np.float32], right: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Matrix product of two small square matrices."""
    size = left.shape[0]
    for i in range(size):
        for j in range(size):
            out[i, j] = 0
        for k in range(size):
            factor = left[i, k]
            for j in range(size):
                out[i, j] += factor * right[k, j]
