"""Bivariate polynomials over a frame: the model of colour casts and of smooth flows.

Convention: u = (x - (W-1)/2) / (W/2) and v = (y - (H-1)/2) / (H/2), so that a frame spans [-1, 1] on both
axes. Li et al. 2023, eq. 5 use raw pixel coordinates; the condition number of the ten-column design matrix
is then about 4e10, here it is about 9. Coefficients have the order of eq. 5:
u^3, u^2 v, u v^2, v^3, u^2, u v, v^2, u, v, 1 for degree 3, and alike for other degrees.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache
def exponents(degree: int) -> tuple[tuple[int, int], ...]:
    """Powers (of u, of v) of each coefficient, highest total degree first."""
    return tuple((total - power, power) for total in range(degree, -1, -1) for power in range(total + 1))


def degree_of(count: int) -> int:
    """Degree of a polynomial with `count` coefficients.

    Raises
    ------
    ValueError
        No full polynomial has that many.
    """
    for degree in range(10):
        if len(exponents(degree)) == count:
            return degree
    raise ValueError(f"{count} coefficients form no full bivariate polynomial")


def axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised coordinates u (W,) and v (H,) of the pixel centres of a frame of `shape` (H, W), float64."""
    height, width = shape
    u = (np.arange(width) - (width - 1) / 2) / (width / 2)
    v = (np.arange(height) - (height - 1) / 2) / (height / 2)
    return u, v


def design_matrix(u: np.ndarray, v: np.ndarray, degree: int) -> np.ndarray:
    """(n, terms) float64 matrix of the monomials at the points (`u`, `v`), each (n,)."""
    return np.stack([u**i * v**j for i, j in exponents(degree)], axis=-1)


def evaluate(coefficients: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Evaluate polynomials on every pixel of a frame.

    Parameters
    ----------
    coefficients : (K, terms) float array
    shape : (H, W)

    Returns
    -------
    (K, H, W) float32 array
    """
    coefficients = np.asarray(coefficients, np.float64)
    degree = degree_of(coefficients.shape[1])
    u, v = axes(shape)
    powers_u = np.vander(u, degree + 1, increasing=True)
    powers_v = np.vander(v, degree + 1, increasing=True)
    result = np.empty((len(coefficients), *shape), np.float32)
    for plane, terms in zip(result, coefficients, strict=True):
        matrix = np.zeros((degree + 1, degree + 1))
        for (i, j), term in zip(exponents(degree), terms, strict=True):
            matrix[j, i] = term
        # A polynomial is a matrix of rank degree + 1 in (v, u): two thin products instead of ten powers.
        np.matmul((powers_v @ matrix).astype(np.float32), powers_u.T.astype(np.float32), out=plane)
    return result
