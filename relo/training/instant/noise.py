"""Noise so strong that it is no longer just added: averaged in linear light, before anything else is done with it.

A dark short exposure is cut off at black, and the sRGB curve bends what is left: the mean of such noise is not the
scene, and its tails are long. A little smoothing of the light takes both away, and no detail that could be saved.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.srgb import srgb_decode, srgb_encode
from relo.training.instant.matching import smoothed

# Smoothing [px] that did best for noise of such standard deviations [of 1, encoded], on simulated pairs of both.
_NOISE, _SIGMA = (0.07, 0.10, 0.15, 0.30), (0.0, 0.6, 0.8, 1.0)
_DIFFERENCES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6


def estimate_noise(image: NDArray[np.float32]) -> float:
    """Estimate the standard deviation of white noise; edges and texture count little, as medians are taken.

    Parameters
    ----------
    image : (H, W, 3) float32 array

    Returns
    -------
    float
        Mean over the channels.

    References
    ----------
    Immerkaer, "Fast Noise Variance Estimation", Computer Vision and Image Understanding 64 (1996), with the median
    instead of the mean.
    """
    size = np.abs(cv2.filter2D(image, cv2.CV_32F, _DIFFERENCES, borderType=cv2.BORDER_REFLECT_101))
    step = 1 + max(image.shape) // 1000  # so many pixels tell it
    return float(np.median(size[::step, ::step], axis=(0, 1)).mean() / 0.6745)


def calm_strong_noise(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth the linear light of an sRGB image, the more the stronger its noise; not at all up to 0.07 of white.

    Parameters
    ----------
    image : (H, W, 3) float32 array

    Returns
    -------
    (H, W, 3) float32 array
    """
    sigma = float(np.interp(estimate_noise(image), _NOISE, _SIGMA))
    return srgb_encode(smoothed(srgb_decode(image), sigma)) if sigma > 0 else image
