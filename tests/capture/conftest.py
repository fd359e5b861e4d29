"""Frames to write and read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from relo.capture.frame import RawFrame

# Rows sum to 1, as every white-balanced camera matrix; about a current full-frame sensor.
MATRIX = np.array([[1.62, -0.47, -0.15], [-0.21, 1.53, -0.32], [0.02, -0.48, 1.46]])


@pytest.fixture
def make_frame() -> Callable[..., RawFrame]:
    """Make a noisy 14-bit frame: `make_frame(shape=(30, 41), pattern="GBRG", black=...)`."""

    def make(shape: tuple[int, int] = (30, 40), seed: int = 0, **values: Any) -> RawFrame:
        mosaic = np.random.default_rng(seed).integers(0, 16384, shape).astype(np.uint16)
        defaults = {
            "pattern": "RGGB",
            "black": (512.0, 513.0, 515.0, 518.0),
            "white": 16383.0,
            "wb": (2.1, 1.0, 1.6),
            "colour_matrix": MATRIX,
            "exposure_s": 0.0125,
        }
        return RawFrame(mosaic, **(defaults | values))

    return make
