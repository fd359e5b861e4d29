"""Align a restored image with its target before comparing them: gain, homography, valid area.

What is computed is what the evaluation of RealBlur computes (Rim et al. 2020, after Köhler et al. 2012), whose
code ReLoBlur uses: one gain for all channels; the homography that maximises the enhanced correlation coefficient
of the grey images (ECC, Evangelidis and Psarakis 2008; OpenCV's `findTransformECC`); a bicubic warp. How the
maximum is found differs. The public code always takes 100 iterations at full size from the identity. Here an
estimate from reduced images is refined at full size by a few iterations that end when the correlation no longer
rises; `benchmarks/aligned_psnr.py` measures how much faster that is and how little the value changes.

OpenCV decides the last hundredths of a decibel: up to version 4 its warps round positions to 1/32 px, and ECC then
ends in slightly different places when it starts from different ones (up to 0.05 dB on photographs of 260 x 180 px,
below 0.003 dB on larger ones). On images of a few thousand pixels, or of nothing but fine noise, ECC may end in
another local maximum than the public code's, for better or worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # float32, in whatever way OpenCV's declarations put it

REDUCTIONS = (8, 4, 2)  # coarse to fine
SMALLEST_SIDE = 32  # of a reduced image [px]
COARSE_ITERATIONS, FULL_ITERATIONS = 15, 6
CORRELATION_STEP = 1e-6  # a rise of the correlation below this ends the iterations
GAUSSIAN_SIZE = 5  # of the smoothing within ECC [px], as published


@dataclass(frozen=True)
class Alignment:
    """How to bring an image onto its target.

    Attributes
    ----------
    gain : float
        The image is multiplied by it first: least squares over all values.
    homography : (3, 3) float32 array
        Convention: maps (x, y, 1) of the target to where to sample the image, in pixels, up to scale.
    correlation : float
        Correlation coefficient of the grey images that ECC ended with.
    """

    gain: float
    homography: NDArray[np.float32]
    correlation: float


def align(image: Image, target: Image) -> Alignment | None:
    """Find gain and homography.

    Parameters
    ----------
    image, target : (H, W, 3) float32 array
        RGB in [0, 1].

    Returns
    -------
    Alignment or None
        None where ECC has no answer: a flat or black image, or images that do not correlate.
    """
    energy = float(np.vdot(image, image))
    if energy == 0:
        return None
    gain = float(np.vdot(target, image)) / energy
    moving = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * np.float32(gain)
    fixed = cv2.cvtColor(target, cv2.COLOR_RGB2GRAY)
    starts = [np.eye(3, dtype=np.float32)]
    coarse = _coarse_homography(moving, fixed)
    if coarse is not None:
        starts.append(coarse)
        starts.sort(key=lambda start: _correlation(moving, fixed, start), reverse=True)
    for start in starts:
        found = _ecc(moving, fixed, start, FULL_ITERATIONS)
        if found is not None:
            return Alignment(gain, found[0], found[1])
    return None


def aligned_error(image: Image, target: Image, *, over_valid_area: bool) -> float:
    """Mean squared error of an image after it was aligned with its target.

    Parameters
    ----------
    image, target : (H, W, 3) float32 array
        RGB in [0, 1]. The aligned image is not clamped.
    over_valid_area : bool
        Divide by the pixels that the aligned image covers, as RealBlur does; else by all pixels, those that it
        does not cover counting as without error, as the code of ReLoBlur does.

    Returns
    -------
    float
        NaN where the two cannot be aligned.
    """
    alignment = align(image, target)
    if alignment is None:
        return float("nan")
    height, width = target.shape[:2]
    warped = cv2.warpPerspective(
        image * np.float32(alignment.gain),
        alignment.homography,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    valid = cv2.warpPerspective(
        np.ones((height, width), np.uint8),
        alignment.homography,
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0,),
    )
    warped = (warped - target) * np.asarray(valid)[..., None]
    covered = int(valid.sum()) if over_valid_area else height * width
    return float(np.square(warped, out=warped).sum(dtype=np.float64)) / (3 * covered) if covered else float("nan")


def _coarse_homography(moving: Image, fixed: Image) -> NDArray[np.float32] | None:
    """Homography from reduced images, each size starting from the one before; None where no size has given one."""
    height, width = fixed.shape
    found = None
    for factor in REDUCTIONS:
        size = width // factor, height // factor
        if min(size) < SMALLEST_SIDE:
            continue
        # That pixel centres of the two sizes lie apart cancels, but for hundredths of a pixel where it is no shift.
        scale = np.diag([width / size[0], height / size[1], 1])
        start = np.eye(3) if found is None else found
        step = _ecc(
            cv2.resize(moving, size, interpolation=cv2.INTER_AREA),
            cv2.resize(fixed, size, interpolation=cv2.INTER_AREA),
            (np.linalg.inv(scale) @ start @ scale).astype(np.float32),
            COARSE_ITERATIONS,
        )
        if step is not None:
            found = scale @ step[0] @ np.linalg.inv(scale)
    return None if found is None else found.astype(np.float32)


def _ecc(
    moving: Image, fixed: Image, start: NDArray[np.float32], iterations: int
) -> tuple[NDArray[np.float32], float] | None:
    """Homography and correlation; None where the correlation is undefined or would fall."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, CORRELATION_STEP)
    try:
        correlation, homography = cv2.findTransformECC(  # type: ignore[call-overload]  # None is no mask
            fixed, moving, start.copy(), cv2.MOTION_HOMOGRAPHY, criteria, None, GAUSSIAN_SIZE
        )
    except cv2.error as error:
        if error.code != cv2.Error.StsNoConv:
            raise
        return None
    return np.asarray(homography, np.float32), float(correlation)


def _correlation(moving: Image, fixed: Image, homography: NDArray[np.float32]) -> float:
    """Correlation coefficient where the warped image covers the target; -1 where it is undefined."""
    size = fixed.shape[1], fixed.shape[0]
    warped = cv2.warpPerspective(moving, homography, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    ones = np.ones(moving.shape, np.uint8)
    covered = cv2.warpPerspective(ones, homography, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    if not covered.any():
        return -1.0
    correlation = cv2.computeECC(fixed, warped, covered)
    return correlation if np.isfinite(correlation) else -1.0
