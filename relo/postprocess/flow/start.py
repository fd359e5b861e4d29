"""Where Gauss-Newton starts: a rough dense flow, and the cubic that most of it agrees with."""

from __future__ import annotations

import cv2
import numpy as np

from relo.postprocess import polynomial

_TERMS = len(polynomial.exponents(3))
# Widest frame that the rough flow is computed on [px].
_WIDTH = 640
# The fit looks at every so many pixels.
_STEP = 6


def estimate_start(target: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """Cubic flow good to a pixel or so, by dense inverse search (Kroeger et al. 2016, OpenCV's DIS).

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey images, about [0, 1].

    Returns
    -------
    (2, 10) float64 array or None
        Coefficients (see `relo.postprocess.polynomial`) [px]; None where they explain the pair no better than
        no motion at all.
    """
    scale = min(1.0, _WIDTH / target.shape[1])
    size = round(target.shape[1] * scale), round(target.shape[0] * scale)
    small = [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) for image in (target, moving)]
    first, second = (_to_bytes(image / max(float(image.mean()), 1e-6) * 0.4) for image in small)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(first, second, np.zeros((*first.shape, 2), np.float32))
    shape = first.shape
    u, v = polynomial.axes((shape[0], shape[1]))
    grid_u, grid_v = np.meshgrid(u[::_STEP], v[::_STEP])
    matrix = polynomial.design_matrix(grid_u.ravel(), grid_v.ravel(), 3)
    texture = np.sqrt(np.maximum(cv2.cornerMinEigenVal(small[0], 7)[::_STEP, ::_STEP].ravel(), 0))
    coefficients = np.zeros((2, _TERMS))
    for axis in range(2):
        values = flow[::_STEP, ::_STEP, axis].ravel().astype(np.float64)
        weights = texture
        for _ in range(10):
            weighted = matrix * (weights + 1e-9)[:, None]
            fit = np.linalg.solve(matrix.T @ weighted, weighted.T @ values)
            distance = np.abs(values - matrix @ fit)
            weights = texture / (1 + (distance / max(2.385 * 1.4826 * float(np.median(distance)), 1e-3)) ** 2)
        coefficients[axis] = fit
    dx, dy = polynomial.evaluate(coefficients, (shape[0], shape[1]))
    rows, columns = np.indices(shape, np.float32)
    warped = cv2.remap(second, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    before, after = (float(np.abs(image.astype(np.float32) - first).mean()) for image in (second, warped))
    return coefficients / scale if after < before else None


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """DIS takes 8-bit images only."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
