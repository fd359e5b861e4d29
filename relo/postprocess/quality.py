"""Numbers that tell how good an aligned pair is: misalignment, PSNR of the static area, noise."""

from __future__ import annotations

import cv2
import numpy as np

from relo.postprocess.flow.auto import block_shift

# Blocks with less contrast than this (standard deviation of a [0, 1] image) hold nothing to compare.
_TEXTURE = 0.02


def misalignment(
    target: np.ndarray, moving: np.ndarray, static: np.ndarray | None = None, *, block: int | None = None
) -> float:
    """Median shift between two images over textured static blocks.

    Phase correlation finds the whole pixels of each block's shift, one Lucas-Kanade step the rest: on fine,
    aliased texture phase correlation alone is off by 0.1 to 0.2 px.

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey display images, [0, 1].
    static : (H, W) bool array, optional
        Pixels that show the same thing in both; a block counts when all of its pixels do.
    block : int, optional
        Side of a block [px]; 64, or 32 on frames below 400 px, where few larger blocks would be static.

    Returns
    -------
    float
        [px]; NaN where no block could be compared.
    """
    block = block or (64 if min(target.shape) >= 400 else 32)
    window = cv2.createHanningWindow((block, block), cv2.CV_32F)
    shifts = []
    for y in range(0, target.shape[0] - block + 1, block):
        for x in range(0, target.shape[1] - block + 1, block):
            if static is not None and not static[y : y + block, x : x + block].all():
                continue
            first, second = (image[y : y + block, x : x + block] for image in (target, moving))
            if first.std() < _TEXTURE or second.std() < _TEXTURE:
                continue
            (dx, dy), _ = cv2.phaseCorrelate(first - first.mean(), second - second.mean(), window)
            whole_x, whole_y = round(dx), round(dy)
            top, left = y + whole_y, x + whole_x
            if 0 <= top <= moving.shape[0] - block and 0 <= left <= moving.shape[1] - block:
                second = moving[top : top + block, left : left + block]
                shift, sigma = block_shift(first, second, block)
                if np.isfinite(sigma[0, 0]):
                    dx, dy = whole_x + shift[0, 0, 0], whole_y + shift[0, 0, 1]
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
    if rows == 0 or columns == 0:
        return float("nan")
    blocks = second[: rows * block, : columns * block].reshape(rows, block, columns, block)
    sigma = 1.4826 * np.median(blocks, axis=(1, 3)) / np.sqrt(6)
    return float(np.percentile(sigma, 10))
