"""The features NIQE compares: natural-scene statistics of the blocks of an image at two scales.

Source: Mittal, Soundararajan and Bovik 2013, "Making a completely blind image quality analyzer", sections II-A and
II-B, and their public MATLAB release, from which come the numbers that the text leaves open.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import gamma

BLOCK = 96  # side of a block [px], at the first scale
FEATURES = 36  # 18 a scale

_WINDOW_RADIUS, _WINDOW_SIGMA = 3, 7 / 6
# MATLAB's imresize to one half, with antialiasing: the cubic kernel (a = -1/2) at twice its width. These are exact.
_HALVING_TAPS = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows and columns: horizontal, vertical, both diagonals
# A flat area is 0 but for the rounding of sums of 49 values up to 255, some 1e-13; what differs by one level in one
# pixel of the window is above 1e-6. Without the cut the statistics of a flat block would be those of rounding.
_ROUNDING = 1e-9

_SHAPES = np.arange(0.2, 10.001, 0.001)  # of generalised Gaussians: the grid on which the release looks
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))  # grows with the shape
_BETWEEN_RATIOS = (_RATIOS[1:] + _RATIOS[:-1]) / 2


def block_features(luma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features of all blocks of an image.

    Parameters
    ----------
    luma : (H, W) float64 array
        In [0, 255]; what does not fill a block at the right and at the bottom is left out.

    Returns
    -------
    (blocks, 36) float64 array
        Row by row; 18 features at full size, then 18 at half size. For each scale: shape and mean width of the
        normalised values, then shape, mean, left and right width of the products of neighbours, for the neighbour
        to the left, above, and above to the left and to the right. NaN where a block has no values on one side of
        0, as a flat one.
    """
    rows, columns = (side // BLOCK for side in luma.shape)
    luma = luma[: rows * BLOCK, : columns * BLOCK]
    by_scale = []
    for side, image in ((BLOCK, luma), (BLOCK // 2, halve(luma))):
        bands = normalise(image).reshape(rows, side, columns, side).swapaxes(1, 2)
        by_scale.append(np.concatenate([_statistics(band) for band in bands]))  # a band at a time fits the cache
    return np.concatenate(by_scale, axis=1)


def normalise(luma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the local mean and divide by the local standard deviation plus 1 (eq. 1 to 3).

    The window is a 7 x 7 Gaussian of sigma 7/6 px; beyond the border the image continues as its nearest pixel.

    Parameters
    ----------
    luma : (H, W) float64 array
        In [0, 255].
    """
    offsets = np.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1)
    taps = np.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2))
    mean = _filter(luma, taps / taps.sum(), "nearest")
    variance = _filter(luma**2, taps / taps.sum(), "nearest") - mean**2
    values = (luma - mean) / (np.sqrt(np.abs(variance)) + 1)
    values[np.abs(values) < _ROUNDING] = 0
    return values


def halve(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Halve an image as MATLAB's imresize does: bicubic, antialiased, mirrored beyond the border.

    Parameters
    ----------
    image : (H, W) float64 array
        Even sides.
    """
    # Of eight taps the centre is the fifth: at odd positions they span the pair that is to become one pixel.
    return _filter(image, _HALVING_TAPS, "reflect", slice(1, None, 2))


def fit_asymmetric_gaussian(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit asymmetric generalised Gaussian distributions by their moments (Lasmar et al. 2009).

    Parameters
    ----------
    values : (blocks, H, W) float64 array
        Each block is fitted on its own.

    Returns
    -------
    shape, left, right : (blocks,) float64 array
        Shape on a grid from 0.2 to 10 in steps of 0.001, and widths (beta) on both sides of 0. A width is NaN where
        no value lies on its side; the shape is then 0.2, as in the release, where the minimum over nothing is the
        first of the grid.
    """
    axes, count = (1, 2), values[0].size
    squares = values**2
    left, right = (
        np.sqrt((squares * side).sum(axes) / _or_nan(side.sum(axes))) for side in (values < 0, values > 0)
    )
    ratio = left / right
    moments = (np.abs(values).sum(axes) / count) ** 2 / _or_nan(squares.sum(axes) / count)
    moments *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    nearest = np.searchsorted(_BETWEEN_RATIOS, moments)
    shape = _SHAPES[np.where(np.isnan(moments), 0, nearest)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _statistics(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(blocks, 18) features of (blocks, H, W) normalised values."""
    shape, left, right = fit_asymmetric_gaussian(blocks)
    columns = [shape, (left + right) / 2]
    for offset in _NEIGHBOURS:
        # Within the block, whose last row or column meets its first: so does the release.
        shape, left, right = fit_asymmetric_gaussian(blocks * np.roll(blocks, offset, axis=(1, 2)))
        columns += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(columns, axis=1)


def _filter(
    image: NDArray[np.float64], taps: NDArray[np.float64], beyond: str, kept: slice = slice(None)
) -> NDArray[np.float64]:
    """Correlate along both axes, keeping some rows and columns."""
    rows = correlate1d(image, taps, axis=0, mode=beyond)[kept]
    return correlate1d(rows, taps, axis=1, mode=beyond)[:, kept]


def _or_nan(divisor: NDArray[np.generic]) -> NDArray[np.float64]:
    """Make 0 NaN, so that a quotient without a value is NaN, without a warning."""
    return np.where(divisor == 0, np.nan, divisor)
