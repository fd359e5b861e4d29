"""A cubic flow by Gauss-Newton on the images themselves: the geometry of a coaxial rig.

Homography, lens distortion and sensor shift of two cameras behind one splitter are together a cubic
polynomial to better than 1e-4 px, so twenty numbers are estimated from every pixel at once, together with a
gain and an offset, instead of a vector per pixel from a few.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from relo.errors import ProcessError
from relo.postprocess import polynomial
from relo.postprocess.flow.model import FlowModel

_DEGREE = 3
_TERMS = polynomial.exponents(_DEGREE)

# The pyramid stops where the shorter side would fall below this [px].
_COARSEST = 48


def estimate_parametric(
    target: np.ndarray, moving: np.ndarray, *, weights: np.ndarray | None = None, iterations: int = 8
) -> FlowModel:
    """Fit the cubic flow that maps `target` into `moving`.

    Minimises sum w (target(x) - g moving(x + d(x)) - o)^2 over the coefficients of d and g, o, with Cauchy
    weights w, coarse to fine (affine on the coarse levels).

    Parameters
    ----------
    target, moving : (H, W) float32 arrays
        Grey images of the same brightness, about [0, 1].
    weights : (H, W) float32 array, optional
        0 where a pixel must not count (saturated, moving).
    iterations : int
        Gauss-Newton steps a level.

    Returns
    -------
    FlowModel

    Raises
    ------
    ProcessError
        The images hold too little texture.
    """
    levels = list(_pyramid(target, moving, weights))
    coefficients = np.zeros((2, len(_TERMS)))
    for number, (target_level, moving_level, weights_level) in enumerate(reversed(levels)):
        if number:
            coefficients *= 2.0  # displacements are counted in pixels of the level
        degree = _DEGREE if number >= len(levels) - 2 else 1
        coefficients = _gauss_newton(target_level, moving_level, weights_level, coefficients, degree, iterations)
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


def _gauss_newton(
    target: np.ndarray,
    moving: np.ndarray,
    weights: np.ndarray,
    coefficients: np.ndarray,
    degree: int,
    iterations: int,
) -> np.ndarray:
    shape = (target.shape[0], target.shape[1])
    u, v = polynomial.axes(shape)
    powers_u = np.vander(u, 2 * _DEGREE + 1, increasing=True).astype(np.float32)
    powers_v = np.vander(v, 2 * _DEGREE + 1, increasing=True).astype(np.float32)
    active = [index for index, (i, j) in enumerate(_TERMS) if i + j <= degree]
    terms = [_TERMS[index] for index in active]
    # Sums of products of two monomials are entries of one small table of moments.
    pair_row = np.array([[a[1] + b[1] for b in terms] for a in terms])
    pair_column = np.array([[a[0] + b[0] for b in terms] for a in terms])
    row, column = np.array([term[1] for term in terms]), np.array([term[0] for term in terms])

    def moments(image: np.ndarray) -> np.ndarray:
        """Sum over the frame of image * v^j u^i, at [j, i]."""
        return (powers_v.T @ (image @ powers_u)).astype(np.float64)

    rows, columns = np.indices(shape, np.float32)
    gain, offset = 1.0, 0.0
    count = len(terms)
    for _ in range(iterations):
        flow = polynomial.evaluate(coefficients, shape)
        x, y = columns + flow[0], rows + flow[1]
        warped = cv2.remap(moving, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (x >= 3) & (y >= 3) & (x <= shape[1] - 4) & (y <= shape[0] - 4)
        error = target - np.float32(gain) * warped - np.float32(offset)
        gx, gy = gradients(np.float32(gain) * warped)
        use = weights * inside
        w = use * _cauchy(error, use)
        wx, wy = w * gx, w * gy
        matrix = np.zeros((2 * count + 2, 2 * count + 2))
        right = np.zeros(2 * count + 2)
        matrix[:count, :count] = moments(wx * gx)[pair_row, pair_column]
        matrix[:count, count : 2 * count] = moments(wx * gy)[pair_row, pair_column]
        matrix[count : 2 * count, count : 2 * count] = moments(wy * gy)[pair_row, pair_column]
        for block, weighted in enumerate((wx, wy)):
            part = slice(block * count, (block + 1) * count)
            matrix[part, -2] = moments(weighted * warped)[row, column]
            matrix[part, -1] = moments(weighted)[row, column]
            right[part] = moments(weighted * error)[row, column]
        ww = w * warped
        matrix[-2, -2], matrix[-2, -1], matrix[-1, -1] = _sum(ww * warped), _sum(ww), _sum(w)
        right[-2], right[-1] = _sum(ww * error), _sum(w * error)
        matrix = np.triu(matrix) + np.triu(matrix, 1).T
        step = _solve(matrix, right)
        coefficients = coefficients.copy()
        coefficients[0, active] += step[:count]
        coefficients[1, active] += step[count : 2 * count]
        gain, offset = gain + step[-2], offset + step[-1]
        if np.abs(step[: 2 * count]).max() < 1e-5:
            break
    return coefficients


def _cauchy(error: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Weights 1 / (1 + (error / c)^2), c = 2.385 robust standard deviations of the used pixels."""
    used = np.abs(error[use > 0])
    sigma = 1.4826 * float(np.median(used[:: max(1, used.size // 200_000)])) if used.size else 0.0
    scale = np.float32(1.0 / max(2.385 * sigma, 1e-6))
    return 1 / (1 + (error * scale) ** 2)


def _sum(image: np.ndarray) -> float:
    return float(image.sum(dtype=np.float64))


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
