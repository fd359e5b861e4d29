"""From linear camera RGB to a display image: white balance, colour matrix, sRGB curve, quantisation."""

from __future__ import annotations

from typing import Any

import numpy as np

# Weights of R, G, B in the luma of encoded light (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def develop(rgb: np.ndarray, wb: Any, colour_matrix: Any) -> np.ndarray:
    """White balance, colour matrix, sRGB encoding (Li et al. 2023, fig. 3 "ISP operations").

    Convention: the gains are scaled so that the smallest is 1, and values are clipped to [0, 1] after them:
    otherwise highlights, in which one channel saturates before the others, turn magenta.

    Parameters
    ----------
    rgb : (H, W, 3) float32 array
        Linear camera RGB, black 0, white 1.
    wb : 3 floats
        Gains of R, G, B.
    colour_matrix : (3, 3) array
        White-balanced camera RGB -> linear sRGB.

    Returns
    -------
    (H, W, 3) float32 array in [0, 1], sRGB-encoded
    """
    return srgb_encode(to_linear_srgb(rgb, wb, colour_matrix))


def to_linear_srgb(rgb: np.ndarray, wb: Any, colour_matrix: Any) -> np.ndarray:
    """White balance and colour matrix alone; see `develop`.

    Returns
    -------
    (H, W, 3) float32 array in [0, 1], linear sRGB
    """
    gains = np.asarray(wb, np.float32)
    balanced = np.clip(rgb * (gains / gains.min()), 0, 1)
    linear = balanced @ np.asarray(colour_matrix, np.float32).T
    return np.clip(linear, 0, 1, out=linear)


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


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 luma of an (H, W, 3) display image in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, np.float32) @ _LUMA)


def quantise(image: np.ndarray, bits: int) -> np.ndarray:
    """Round an image in [0, 1] to uint8 (`bits` 8) or uint16 (`bits` 16); values outside are clipped."""
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    scaled = np.clip(image, 0, 1) * np.float32(2**bits - 1)
    return np.rint(scaled, out=scaled).astype(np.uint8 if bits == 8 else np.uint16)


def halve(image: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 pixels of an (H, W[, C]) float array; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width]
    return np.float32(0.25) * (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])
