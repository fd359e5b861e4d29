"""A short exposure as bright as its photograph: gains in linear light, and a tone curve for what they leave.

Both are measured where nothing moved. A factor on linear light is what a shorter exposure does. Cameras then apply
tone curves, data made from the HSV value scale encoded values, and noise that was cut off at black shifts the mean
of dark areas: the curve takes care of all of them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.srgb import srgb_decode, srgb_encode

# From here on an encoded value may be clipped.
_BRIGHT = 0.95
# Standard deviations of the Gaussians that noise is averaged with [px]: for gains and curves, and for detail.
_SMOOTH, _DETAIL = 4.0, 1.5
# Fewer pixels without motion than this tell nothing: all are taken, as blur leaves means about as they are.
FEWEST = 2000
_KNOTS = 16
# A contrast off by more than this factor is no contrast but noise.
_MOST = 1.6


def enough(static: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The area without motion, or all of the image where that is next to nothing."""
    return static if np.count_nonzero(static) >= FEWEST else np.ones_like(static)


def match_gain(
    blur: NDArray[Any], short: NDArray[Any], static: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Multiply the linear light of each channel of the short exposure by what brings it to the photograph.

    Parameters
    ----------
    blur, short : (H, W, 3) uint8, uint16 or float32 arrays
        sRGB; floats in [0, 1].
    static : (H, W) bool array
        Where nothing moved.

    Returns
    -------
    (H, W, 3) float32 array
        sRGB in [0, 1]; what is brighter than white goes on above 1.
    3 floats
        The gains.
    """
    step = 1 + max(static.shape) // 1500  # so many pixels tell it
    few = np.s_[::step, ::step]
    wanted, given = (as_floats(image[few]) for image in (blur, short))
    gains = []
    for channel in range(3):
        usable = enough(static[few] & (wanted[..., channel] < _BRIGHT) & (given[..., channel] < _BRIGHT))
        light, less = (srgb_decode(image[..., channel][usable]).sum(dtype=np.float64) for image in (wanted, given))
        gains.append(float(light / max(less, 1e-9)))  # not the mean of ratios: dark pixels have ratios of noise
    brighter = np.empty(short.shape, np.float32)
    for channel, gain in enumerate(gains):
        if np.issubdtype(short.dtype, np.integer):  # a table: powers of 36 million numbers take seconds
            every = as_floats(np.arange(np.iinfo(short.dtype).max + 1, dtype=short.dtype))
            brighter[..., channel] = srgb_encode(srgb_decode(every) * np.float32(gain))[short[..., channel]]
        else:
            brighter[..., channel] = srgb_encode(srgb_decode(short[..., channel]) * np.float32(gain))
    return brighter, (gains[0], gains[1], gains[2])


def as_floats(image: NDArray[Any]) -> NDArray[np.float32]:
    """A copy as float32; 1 is the largest number of an integer dtype."""
    if np.issubdtype(image.dtype, np.integer):
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def match_tone(
    blur: NDArray[np.float32], short: NDArray[np.float32], static: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Bring the tones and the contrast of an aligned short exposure to the photograph's.

    The smoothed short exposure goes through a curve to the smoothed photograph's values; its detail is multiplied
    by one factor. The factor comes from the regression on the photograph's detail, which has little noise: the
    other way round noise would pass for contrast.

    Parameters
    ----------
    blur, short : (H, W, 3) float32 arrays
        sRGB in [0, 1], about as bright.
    static : (H, W) bool array
        Where nothing moved.

    Returns
    -------
    (H, W, 3) float32 array
    """
    margin = 2 * round(_SMOOTH) + 1
    still = np.ones((margin, margin), np.uint8)
    core = enough(cv2.erode(enough(static).astype(np.uint8), still) > 0)
    result = np.empty_like(short)
    for channel in range(3):
        wanted, given = (np.ascontiguousarray(image[..., channel]) for image in (blur, short))
        coarse_wanted, coarse = smoothed(wanted, _SMOOTH), smoothed(given, _SMOOTH)
        places, values = _curve(coarse[core], coarse_wanted[core])
        detail_wanted = (smoothed(wanted, _DETAIL) - coarse_wanted)[core]
        detail = (smoothed(given, _DETAIL) - coarse)[core]
        contrast = float((detail * detail_wanted).sum() / max(float(np.square(detail_wanted).sum()), 1e-9))
        factor = 1 / min(max(contrast, 1 / _MOST), _MOST)
        shift = np.interp(coarse, places, values - places)  # beyond the curve's ends as at them
        result[..., channel] = coarse + shift + factor * (given - coarse)
    return result


def _curve(
    given: NDArray[np.float32], wanted: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Medians of both in ranges of `given` that hold equally many pixels; the first strictly rising."""
    # A hundred thousand pixels tell it.
    given, wanted = (values[:: max(1, given.size // 100_000)] for values in (given, wanted))
    order = np.argsort(given)
    groups = np.array_split(order, min(_KNOTS, order.size))
    places = np.array([np.median(given[group]) for group in groups], np.float64)
    values = np.array([np.median(wanted[group]) for group in groups], np.float64)
    places, first = np.unique(places, return_index=True)
    return places, values[first]


def smoothed(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian of `sigma` [px]."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
