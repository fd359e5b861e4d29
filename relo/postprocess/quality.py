"""Numbers that tell how good an aligned pair is: misalignment, PSNR of the static area, noise."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from relo.postprocess.flow.auto import block_shift

# Blocks with less contrast than this (standard deviation of a [0, 1] image) hold nothing to compare.
_TEXTURE = 0.02
# A median needs no more blocks than this.
_MOST_BLOCKS = 64


class Displacement(NamedTuple):
    """What is left between two images that should be aligned.

    Attributes
    ----------
    length : float
        Median length of the blocks' shifts [px]: noise and all that is uneven over the frame included.
    dx, dy : float
        Median shift [px]: what the frame as a whole has moved by, free of noise.
    """

    length: float
    dx: float
    dy: float

    @property
    def bump(self) -> float:
        """How far the frame as a whole has moved [px]."""
        return float(np.hypot(self.dx, self.dy))


def misalignment(
    target: np.ndarray, moving: np.ndarray, static: np.ndarray | None = None, *, block: int | None = None
) -> Displacement:
    """Shift between two images over textured static blocks.

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
    Displacement
        Medians over 64 blocks at most, evenly spaced; NaN where no block could be compared.
    """
    block = block or (64 if min(target.shape) >= 400 else 32)
    rows, columns = target.shape[0] // block, target.shape[1] // block
    usable = np.ones((rows, columns), bool)
    if static is not None:
        cut = static[: rows * block, : columns * block].reshape(rows, block, columns, block)
        usable = np.logical_and.reduce(cut, axis=(1, 3))
    corners = [(int(y) * block, int(x) * block) for y, x in zip(*np.nonzero(usable), strict=True)]
    step = max(1, -(-len(corners) // _MOST_BLOCKS))
    window = cv2.createHanningWindow((block, block), cv2.CV_32F)
    shifts = []
    for y, x in corners[::step]:
        first, second = (image[y : y + block, x : x + block] for image in (target, moving))
        if first.std() < _TEXTURE or second.std() < _TEXTURE:
            continue
        (dx, dy), _ = cv2.phaseCorrelate(first - first.mean(), second - second.mean(), window)
        whole_x, whole_y = round(dx), round(dy)
        top, left = y + whole_y, x + whole_x
        if 0 <= top <= moving.shape[0] - block and 0 <= left <= moving.shape[1] - block:
            second = moving[top : top + block, left : left + block]
            rest = block_shift(first, second, block)
            if np.isfinite(rest.sigma[0, 0]):
                dx, dy = whole_x + rest.shift[0, 0, 0], whole_y + rest.shift[0, 0, 1]
        shifts.append((dx, dy, np.hypot(dx, dy)))
    if not shifts:
        return Displacement(float("nan"), float("nan"), float("nan"))
    dx, dy, length = np.median(shifts, axis=0).tolist()
    return Displacement(length, dx, dy)


def psnr(target: np.ndarray, image: np.ndarray, static: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of two display images over static pixels [dB].

    Parameters
    ----------
    target, image : (H, W, 3) uint8, uint16 or float32 arrays of one dtype
        The peak is the dtype's largest value, 1 for floats.
    static : (H, W) bool array, optional

    Returns
    -------
    float
        NaN without any static pixel, infinite for equal images.
    """
    count = target[..., 0].size if static is None else int(np.count_nonzero(static))
    if count == 0:
        return float("nan")
    peak = np.iinfo(target.dtype).max if np.issubdtype(target.dtype, np.integer) else 1.0
    mask = None if static is None else static.view(np.uint8)
    error = cv2.norm(target, image, cv2.NORM_L2SQR, mask) / (count * target.shape[2] * peak**2)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def noise_level(image: np.ndarray, *, block: int = 16) -> float:
    """Standard deviation of the noise in the flattest blocks of an (H, W) grey image in [0, 1].

    The second difference along x removes ramps; the tenth percentile over blocks removes texture, so what
    is left is noise where the image has flat parts, and an upper bound where it has none.
    """
    # Eight rows of blocks tell it.
    rows, columns = image.shape[0] // block, (image.shape[1] - 2) // block
    if rows == 0 or columns == 0:
        return float("nan")
    step = max(1, rows // 8)
    lines = image[: rows * block].reshape(rows, block, -1)[::step]
    second = np.abs(lines[..., 2:] - 2 * lines[..., 1:-1] + lines[..., :-2])[..., : columns * block]
    blocks = second.reshape(len(lines), block, columns, block)
    sigma = 1.4826 * np.median(blocks, axis=(1, 3)) / np.sqrt(6)
    return float(np.percentile(sigma, 10))
