"""NIQE, the natural image quality evaluator: quality without a reference (Mittal et al. 2013).

How far the statistics of an image's blocks are from those of undistorted photographs. Lower is better; nothing is
downloaded and nothing is learnt here: the model of undistorted photographs is the authors', in niqe_pristine.csv.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relo.training.niqe_features import BLOCK, FEATURES, block_features

SMALLEST = 2 * BLOCK  # side of an image [px]: fewer than 2 x 2 blocks have no covariance to speak of

Luma = Literal["full", "studio"]
# Weights of red, green and blue in [0, 255], and what is added, for a result in [0, 255] or [16, 235].
_LUMA: dict[str, tuple[tuple[float, float, float], float]] = {
    "full": ((0.299, 0.587, 0.114), 0.0),
    "studio": ((65.481 / 255, 128.553 / 255, 24.966 / 255), 16.0),
}


def niqe(image: NDArray[Any], *, luma: Luma = "full") -> float:
    """Naturalness of an image by the published definition and constants.

    Blocks of 96 x 96 px at two scales, none left out for lack of sharpness, as in published evaluations.

    Parameters
    ----------
    image : (H, W, 3) or (H, W) array
        RGB or grey, uint8, uint16 or floating-point in [0, 1] (clipped to it), sides of at least 192 px.
    luma : {"full", "studio"}
        How RGB becomes grey, which is then rounded to integers. "full": 0.299 R + 0.587 G + 0.114 B over [0, 255],
        as in the authors' release (rgb2gray) and in pyiqa, by whose metrics published tables are made. "studio":
        MATLAB's rgb2ycbcr over [16, 235], as in BasicSR: of four photographs by up to 0.07 higher or lower, of the
        same blurred by up to 0.28 higher. A grey image is taken as it is under both.

    Returns
    -------
    float
        0 or above, some 2 to 5 for sharp photographs, 7 to 10 for blurred ones. NaN where fewer than two blocks
        have statistics, as in a flat image: leave it out of means.

    Raises
    ------
    ValueError
        The array is no image, is smaller than 192 px, or has values that are not finite; or there is no such luma.
    """
    if luma not in _LUMA:
        raise ValueError(f"unknown luma '{luma}', expected one of {', '.join(_LUMA)}")
    features = block_features(_to_luma(image, luma))
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        return float("nan")
    mean, covariance = pristine_model()
    # As in the release: a feature's mean is over all blocks that have it, the covariance over those that have all.
    difference = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(complete, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


@cache
def pristine_model() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (36,) and covariance (36, 36) of the features of undistorted photographs; do not write to them.

    Source and licence: the head of niqe_pristine.csv.
    """
    text = files("relo.training").joinpath("niqe_pristine.csv").read_text(encoding="utf-8")
    table = np.loadtxt(text.splitlines(), delimiter=",")
    table.flags.writeable = False
    return table[0], table[1 : FEATURES + 1]


def _to_luma(image: NDArray[Any], luma: Luma) -> NDArray[np.float64]:
    """(H, W) integers in [0, 255] as float64; checks the image."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"NIQE needs an (H, W, 3) or (H, W) image, got {image.shape}")
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(f"NIQE needs sides of at least {SMALLEST} px, got {image.shape[0]} x {image.shape[1]}")
    if image.dtype in (np.uint8, np.uint16):
        values = image / np.iinfo(image.dtype).max
    elif np.issubdtype(image.dtype, np.floating):
        values = image.astype(np.float64)
    else:
        raise ValueError(f"NIQE needs uint8, uint16 or floating-point values, got {image.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("NIQE needs finite values, got NaN or infinity")
    # To a thousandth of a level: what float32 made of 8-bit values becomes them again, and is rounded as they are.
    levels = np.round(values.clip(0, 1) * 255, 3)
    if levels.ndim == 2:
        return np.rint(levels)
    # By weights of three digits one pixel in a thousand is halfway between integers, and the last bit of the sum
    # decides. Other orders of summation move NIQE by up to 0.006; this one agrees with the reference values.
    weights, offset = _LUMA[luma]
    return np.rint(levels @ np.array(weights) + offset)
