"""Bivariate polynomials against numpy's and against the frame's geometry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.postprocess import polynomial


@settings(max_examples=40, deadline=None)
@given(degree=st.integers(0, 5), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_evaluate_equals_polyval2d(degree, height, width, seed):
    terms = (degree + 1) * (degree + 2) // 2
    coefficients = np.random.default_rng(seed).normal(size=(2, terms))
    result = polynomial.evaluate(coefficients, (height, width))
    assert result.shape == (2, height, width)
    assert result.dtype == np.float32
    u = (2 * np.arange(width) - (width - 1)) / width
    v = (2 * np.arange(height) - (height - 1)) / height
    powers = [(i, j) for total in range(degree, -1, -1) for i in range(total, -1, -1) for j in [total - i]]
    for plane, row in zip(result, coefficients, strict=True):
        matrix = np.zeros((degree + 1, degree + 1))
        for (i, j), value in zip(powers, row, strict=True):
            matrix[i, j] = value
        grid_u, grid_v = np.meshgrid(u, v)
        assert plane == pytest.approx(np.polynomial.polynomial.polyval2d(grid_u, grid_v, matrix), abs=3e-5)


def test_order_of_the_cubic_is_that_of_the_paper():
    # u^3, u^2 v, u v^2, v^3, u^2, u v, v^2, u, v, 1 at u = 2, v = 3
    row = polynomial.design_matrix(np.array([2.0]), np.array([3.0]), 3)[0]
    assert row.tolist() == [8, 12, 18, 27, 4, 6, 9, 2, 3, 1]


@pytest.mark.parametrize("size", [2, 3, 4304, 4303])
def test_axes_span_the_frame_symmetrically(size):
    u, v = polynomial.axes((2, size))
    assert len(u) == size
    assert len(v) == 2
    assert u == pytest.approx(-u[::-1], abs=1e-15)
    assert np.diff(u) == pytest.approx(2 / size, abs=1e-12)
    assert abs(u).max() < 1


def test_the_design_matrix_is_well_conditioned_and_raw_pixels_are_not():
    height, width = 1436, 2152
    u, v = polynomial.axes((height, width))
    grid_u, grid_v = (grid.ravel() for grid in np.meshgrid(u[::20], v[::20]))
    assert np.linalg.cond(polynomial.design_matrix(grid_u, grid_v, 3)) < 12
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(width)[::20], np.arange(height)[::20]))
    assert np.linalg.cond(polynomial.design_matrix(x.astype(float), y.astype(float), 3)) > 1e9


def test_numbers_of_coefficients():
    assert [polynomial.degree_of(count) for count in (1, 3, 6, 10, 15, 21)] == [0, 1, 2, 3, 4, 5]
    for count in (0, 2, 9, 11):
        with pytest.raises(ValueError, match="no full"):
            polynomial.degree_of(count)
