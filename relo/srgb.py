"""The sRGB curve."""

from __future__ import annotations

import numpy as np


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB code values in [0, 1] (IEC 61966-2-1); float32, any shape."""
    linear = np.asarray(linear, np.float32)
    curve = np.float32(1.055) * np.power(np.maximum(linear, 0), np.float32(1 / 2.4)) - np.float32(0.055)
    return np.where(linear <= np.float32(0.0031308), np.float32(12.92) * linear, curve)


def srgb_decode(encoded: np.ndarray) -> np.ndarray:
    """Inverse of `srgb_encode`; float32, any shape."""
    encoded = np.asarray(encoded, np.float32)
    curve = np.power((np.maximum(encoded, 0) + np.float32(0.055)) / np.float32(1.055), np.float32(2.4))
    return np.where(encoded <= np.float32(0.04045), encoded / np.float32(12.92), curve)
