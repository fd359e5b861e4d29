"""Analytic pictures: their truth at any sub-pixel place needs no interpolation."""

from collections.abc import Callable

import numpy as np
import pytest

Picture = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_picture(seed: int = 0, waves: int = 60, highest: float = 0.15) -> Picture:
    """Sum of plane waves up to `highest` [cycles/px], about 0.5 with a standard deviation of 0.12.

    Every octave holds the same energy, as in photographs.
    """
    rng = np.random.default_rng(seed)
    length = highest * np.exp2(-rng.uniform(0, 5, waves))
    angle, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    fx, fy = length * np.cos(angle), length * np.sin(angle)

    def picture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        total = np.zeros(x.shape)
        for a, b, c in zip(fx, fy, phase, strict=True):
            total += np.sin(2 * np.pi * (a * x + b * y) + c)
        return 0.5 + 0.12 * np.sqrt(2 / waves) * total

    return picture


@pytest.fixture(scope="session")
def picture() -> Picture:
    return make_picture()
