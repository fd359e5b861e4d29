"""Numbers that tell how good an aligned pair is: misalignment, PSNR of the static area, noise."""

from __future__ import annotations

import cv2
import numpy as np

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# Blocks with less contrast than this (standard deviation of a [0, 1] image) hold nothing to compare.
_TEXTURE = 0.02


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 luma of an (H, W, 3) display image in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, np.float32) @ _GREY)


def misalignment(
    target: np.ndarray, moving: np.ndarray, static: np.ndarray | None = None, *, block: int = 64
) -> float:
    """Median shift between two images over textured static blocks, by phase correlation.

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey display images, [0, 1].
    static : (H, W) bool array, optional
        Pixels that show the same thing in both; a block counts when all of its pixels do.
    block : int
        Side of a block [px].

    Returns
    -------
    float
        [px]; NaN where no block could be compared. Phase correlation of one block is good to about
        0.05 px, the median over many to less.
    """
    rows, columns = target.shape[0] // block, target.shape[1] // block
    window = cv2.createHanningWindow((block, block), cv2.CV_32F)
    shifts = []
    for row in range(rows):
        for column in range(columns):
            area = np.s_[row * block : (row + 1) * block, column * block : (column + 1) * block]
            if static is not None and not static[area].all():
                continue
            first, second = target[area], moving[area]
            if first.std() < _TEXTURE or second.std() < _TEXTURE:
                continue
            (dx, dy), _ = cv2.phaseCorrelate(first - first.mean(), second - second.mean(), window)
            shifts.append(np.hypot(dx, dy))
    return float(np.median(shifts)) if shifts else float("nan")


def psnr(target: np.ndarray, image: np.ndarray, static: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of two (H, W, 3) display images in [0, 1] over static pixels [dB].

    Returns
    -------
    float
        NaN without any static pixel, infinite for equal images.
    """
    difference = (target - image) ** 2
    if static is not None:
        difference = difference[static]
    if difference.size == 0:
        return float("nan")
    error = float(difference.mean(dtype=np.float64))
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def noise_level(image: np.ndarray, *, block: int = 16) -> float:
    """Standard deviation of the noise in the flattest blocks of an (H, W) grey image in [0, 1].

    The second difference along x removes ramps; the tenth percentile over blocks removes texture, so what
    is left is noise where the image has flat parts, and an upper bound where it has none.
    """
    second = np.abs(image[:, 2:] - 2 * image[:, 1:-1] + image[:, :-2])
    rows, columns = second.shape[0] // block, second.shape[1] // block
    blocks = second[: rows * block, : columns * block].reshape(rows, block, columns, block)
    sigma = 1.4826 * np.median(blocks, axis=(1, 3)) / np.sqrt(6)
    return float(np.percentile(sigma, 10)) if sigma.size else float("nan")
