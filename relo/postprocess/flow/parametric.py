"""A cubic flow by Gauss-Newton on the images themselves: the geometry of a coaxial rig.

Homography, lens distortion and sensor shift of two cameras behind one splitter are together a cubic
polynomial to better than 1e-4 px, so twenty numbers are estimated from every pixel at once, together with a
gain and an offset, instead of a vector per pixel from a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from relo.errors import ProcessError
from relo.kernels import kernel
from relo.postprocess import polynomial
from relo.postprocess.flow.model import FlowModel
from relo.postprocess.resample import warp

_DEGREE = 3
_TERMS = polynomial.exponents(_DEGREE)

# The pyramid stops where the shorter side would fall below this [px].
_COARSEST = 48
# So near the border the interpolation makes pixels up [px].
_MARGIN = 6
# Steps end when no pixel moves by more than about this [px]; what linear interpolation leaves is larger.
_COARSE_PX, _FINE_PX = 0.01, 1e-3
_FINAL_STEPS = 4


def estimate_parametric(
    target: np.ndarray,
    moving: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    start: np.ndarray | None = None,
    iterations: int = 8,
) -> FlowModel:
    """Fit the cubic flow that maps `target` into `moving`.

    Minimises sum w (target(x) - g moving(x + d(x)) - o)^2 over the coefficients of d and g, o, with Cauchy
    weights w. The last steps interpolate with constant MTF: linear interpolation smooths each pixel by what
    its phase happens to be, which alone costs 0.005 px.

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey images, about [0, 1].
    weights : (H, W) float32 array, optional
        0 where a pixel must not count (saturated, moving).
    start : (2, 10) float array, optional
        Coefficients to start from, good to a pixel or two; without them it starts from zero, coarse to fine,
        affine on the coarse levels.
    iterations : int
        Gauss-Newton steps a level, at most.

    Returns
    -------
    FlowModel

    Raises
    ------
    ProcessError
        The images hold too little texture.
    """
    levels = list(_pyramid(target, moving, weights))
    if start is None:
        coefficients = np.zeros((2, len(_TERMS)))
    else:
        levels = levels[:2]
        coefficients = start / 2.0 ** (len(levels) - 1)
    for number, (target_level, moving_level, weights_level) in enumerate(reversed(levels)):
        if number:
            coefficients = coefficients * 2.0  # displacements are counted in pixels of the level
        degree = _DEGREE if start is not None or number >= len(levels) - 2 else 1
        problem = _Level(target_level, moving_level, weights_level, degree)
        if number == 0 or number < len(levels) - 1:
            coefficients = _gauss_newton(problem, coefficients, _linear, iterations, _COARSE_PX)
        if number == len(levels) - 2:
            # Cheaper here than on the finest level, where one or two steps are then enough.
            coefficients = _gauss_newton(problem, coefficients, _constant_mtf, iterations, _FINE_PX)
    coefficients = _gauss_newton(problem, coefficients, _constant_mtf, _FINAL_STEPS, _FINE_PX)
    height, width = target.shape
    return FlowModel((height, width), coefficients)


def _pyramid(
    target: np.ndarray, moving: np.ndarray, weights: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Levels, finest first; each is smoothed a little so that gradients and interpolation are trustworthy."""
    if weights is None:
        weights = np.ones(target.shape, np.float32)
    while True:
        yield _smooth(target, 1.0), _smooth(moving, 1.0), weights
        height, width = target.shape[0] // 2, target.shape[1] // 2
        if min(height, width) < _COARSEST:
            return
        # Area means keep the pixel centres of the halves where the normalised coordinates expect them.
        target, moving = (_halve(image, height, width) for image in (target, moving))
        weights = (_halve(weights, height, width) > 0.99).astype(np.float32)


def _halve(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal and vertical derivative by the five-tap stencil [1, -8, 0, 8, -1] / 12, (H, W) float32 each."""
    stencil = np.array([1, -8, 0, 8, -1], np.float32) / 12
    unit = np.ones(1, np.float32)
    return (
        cv2.sepFilter2D(image, cv2.CV_32F, stencil, unit, borderType=cv2.BORDER_REPLICATE),
        cv2.sepFilter2D(image, cv2.CV_32F, unit, stencil, borderType=cv2.BORDER_REPLICATE),
    )


Interpolation = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _linear(moving: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.remap(moving, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _constant_mtf(moving: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(moving.shape, np.float32)
    return warp(moving, np.stack([x - columns, y - rows], axis=-1))


@dataclass(frozen=True, eq=False)
class _Level:
    """Two images to align, which pixels count, and the degree of the polynomials."""

    target: np.ndarray
    moving: np.ndarray
    weights: np.ndarray
    degree: int


def _gauss_newton(
    level: _Level, coefficients: np.ndarray, interpolate: Interpolation, iterations: int, tolerance: float
) -> np.ndarray:
    target, moving = level.target, level.moving
    shape = (target.shape[0], target.shape[1])
    u, v = polynomial.axes(shape)
    powers_u, powers_v = (np.vander(axis, 2 * _DEGREE + 1, increasing=True) for axis in (u, v))
    active = [index for index, (i, j) in enumerate(_TERMS) if i + j <= level.degree]
    terms = [_TERMS[index] for index in active]
    # Sums of products of two monomials are entries of one small table of moments.
    pair_row = np.array([[a[1] + b[1] for b in terms] for a in terms])
    pair_column = np.array([[a[0] + b[0] for b in terms] for a in terms])
    row, column = np.array([term[1] for term in terms]), np.array([term[0] for term in terms])
    rows, columns = np.indices(shape, np.float32)
    gain, offset = np.float32(1), np.float32(0)
    count = len(terms)
    for _ in range(iterations):
        flow = polynomial.evaluate(coefficients, shape)
        x, y = columns + flow[0], rows + flow[1]
        warped = interpolate(moving, x, y)
        inside = (x >= _MARGIN) & (y >= _MARGIN) & (x <= shape[1] - 1 - _MARGIN) & (y <= shape[0] - 1 - _MARGIN)
        use = level.weights * inside
        scale = _cauchy_scale(target, gain * warped + offset, use)
        # [row, sum, i], and [sum, j, i] once they are added up with v^j
        row_sums = np.zeros((shape[0], _SUMS, powers_u.shape[1]))
        for top in range(_MARGIN, shape[0] - _MARGIN, _STRIP):
            strip = np.zeros((min(_STRIP, shape[0] - _MARGIN - top), _SUMS, shape[1]), np.float32)
            _products(target, warped, use, gain, offset, scale, top, strip)
            row_sums[top : top + len(strip)] = strip @ powers_u.astype(np.float32)
        moments = np.einsum("ysi,yj->sji", row_sums, powers_v)
        matrix = np.zeros((2 * count + 2, 2 * count + 2))
        right = np.zeros(2 * count + 2)
        matrix[:count, :count] = moments[_XX][pair_row, pair_column]
        matrix[:count, count : 2 * count] = moments[_XY][pair_row, pair_column]
        matrix[count : 2 * count, count : 2 * count] = moments[_YY][pair_row, pair_column]
        for block, first in enumerate((_X, _Y)):
            part = slice(block * count, (block + 1) * count)
            matrix[part, -2] = moments[first][row, column]
            matrix[part, -1] = moments[first + 1][row, column]
            right[part] = moments[first + 2][row, column]
        matrix[-2, -2], matrix[-2, -1], matrix[-1, -1], right[-2], right[-1] = moments[_ONE : _ONE + 5, 0, 0]
        matrix = np.triu(matrix) + np.triu(matrix, 1).T
        step = _solve(matrix, right)
        coefficients = coefficients.copy()
        coefficients[0, active] += step[:count]
        coefficients[1, active] += step[count : 2 * count]
        gain, offset = np.float32(gain + step[-2]), np.float32(offset + step[-1])
        if np.abs(step[: 2 * count]).max() < tolerance:
            break
    return coefficients


def _cauchy_scale(target: np.ndarray, warped: np.ndarray, use: np.ndarray) -> np.float32:
    """1 / c of the weights 1 / (1 + (error / c)^2), c = 2.385 robust standard deviations of the used pixels."""
    step = max(1, target.shape[0] // 200)  # some hundred rows tell it
    error = np.abs(target[::step] - warped[::step])[use[::step] > 0]
    sigma = 1.4826 * float(np.median(error)) if error.size else 0.0
    return np.float32(1.0 / max(2.385 * sigma, 1e-6))


# What `_products` computes, to be summed with u^i v^j; w: weight, e: error, m: warped image, gx and gy: its
# slopes times the gain. _X and _Y are three each: w g m, w g and w g e; _ONE are w m m, w m, w, w m e and w e.
_XX, _XY, _YY, _X, _Y, _ONE, _SUMS = 0, 1, 2, 3, 6, 9, 14
# Rows at a time, so that their products stay in the cache.
_STRIP = 8


@kernel()
def _products(
    target: np.ndarray,
    warped: np.ndarray,
    use: np.ndarray,
    gain: np.float32,
    offset: np.float32,
    scale: np.float32,
    top: int,
    out: np.ndarray,
) -> None:
    """Products of one Gauss-Newton step, (rows, _SUMS, W), for the rows from `top` on."""
    near, far, one = np.float32(8 / 12), np.float32(1 / 12), np.float32(1)
    for row in range(out.shape[0]):
        y = top + row
        for x in range(_MARGIN, target.shape[1] - _MARGIN):
            m = warped[y, x]
            error = target[y, x] - gain * m - offset
            gx = gain * (near * (warped[y, x + 1] - warped[y, x - 1]) - far * (warped[y, x + 2] - warped[y, x - 2]))
            gy = gain * (near * (warped[y + 1, x] - warped[y - 1, x]) - far * (warped[y + 2, x] - warped[y - 2, x]))
            ratio = error * scale
            w = use[y, x] / (one + ratio * ratio)
            wx, wy, wm = w * gx, w * gy, w * m
            out[row, _XX, x], out[row, _XY, x], out[row, _YY, x] = wx * gx, wx * gy, wy * gy
            out[row, _X, x], out[row, _X + 1, x], out[row, _X + 2, x] = wx * m, wx, wx * error
            out[row, _Y, x], out[row, _Y + 1, x], out[row, _Y + 2, x] = wy * m, wy, wy * error
            out[row, _ONE, x], out[row, _ONE + 1, x], out[row, _ONE + 2, x] = wm * m, wm, w
            out[row, _ONE + 3, x], out[row, _ONE + 4, x] = wm * error, w * error


def compile_kernels() -> None:
    """Run the kernel of this module on a few pixels."""
    image, one = np.zeros((16, 16), np.float32), np.float32(1)
    _products(image, image, image, one, one, one, _MARGIN, np.zeros((1, _SUMS, 16), np.float32))


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve the normal equations after scaling them to a unit diagonal; too little texture shows there."""
    diagonal = np.sqrt(np.diag(matrix))
    if not np.isfinite(diagonal).all() or diagonal.min() <= 0:
        raise ProcessError(_NO_TEXTURE, advice=_NO_TEXTURE_ADVICE)
    scaled = matrix / diagonal[:, None] / diagonal[None, :]
    if np.linalg.cond(scaled) > 1e9:
        raise ProcessError(_NO_TEXTURE, advice=_NO_TEXTURE_ADVICE)
    return np.linalg.solve(scaled, right / diagonal) / diagonal


_NO_TEXTURE = "the static pair holds too little texture to align the cameras"
_NO_TEXTURE_ADVICE = "Photograph a still scene with detail all over the frame."
