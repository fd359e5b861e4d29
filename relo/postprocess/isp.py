"""From linear camera RGB to a display image: white balance, colour matrix, sRGB curve, quantisation."""

from __future__ import annotations

from typing import Any

import cv2
import numba
import numpy as np
from numpy.polynomial import chebyshev

from relo.kernels import kernel
from relo.srgb import srgb_decode, srgb_encode

__all__ = ["develop", "grey", "halve", "quantise", "srgb_decode", "srgb_encode", "to_linear_srgb"]

# Weights of R, G, B in the luma of encoded light (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Where the sRGB curve leaves its straight part, in fourth roots of the light.
_SMALLEST_ROOT = 0.0031308**0.25


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
    return _develop(rgb, wb, colour_matrix, encode=True)


def to_linear_srgb(rgb: np.ndarray, wb: Any, colour_matrix: Any) -> np.ndarray:
    """White balance and colour matrix alone; see `develop`.

    Returns
    -------
    (H, W, 3) float32 array in [0, 1], linear sRGB
    """
    return _develop(rgb, wb, colour_matrix, encode=False)


def _develop(rgb: np.ndarray, wb: Any, colour_matrix: Any, *, encode: bool) -> np.ndarray:
    gains = np.asarray(wb, np.float32)
    out = np.empty(rgb.shape, np.float32)
    rows = np.ascontiguousarray(rgb, np.float32).reshape(-1, 3 * rgb.shape[-2] if rgb.ndim > 1 else 3)
    matrix = np.asarray(colour_matrix, np.float32).ravel()
    _develop_rows(rows, gains / gains.min(), matrix, _curve(), encode, out.reshape(rows.shape))
    return out


def _curve() -> np.ndarray:
    """Coefficients of the sRGB curve above its straight part, a polynomial in the fourth root of the light.

    Over the root, mapped to [-1, 1], the curve is so smooth that eight powers follow it to 1e-7: a third of the
    time of a table.
    """
    half = 0.5 * (1 - _SMALLEST_ROOT)
    nodes = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    light = (_SMALLEST_ROOT + half * (nodes + 1)) ** 4
    code = 1.055 * light ** (1 / 2.4) - 0.055
    return np.asarray(chebyshev.cheb2poly(chebyshev.chebfit(nodes, code, 8)), np.float32)


# "contract" lets products and sums fuse.
@kernel(parallel=True, fastmath={"contract"})
def _develop_rows(
    rgb: np.ndarray, gains: np.ndarray, matrix: np.ndarray, curve: np.ndarray, encode: bool, out: np.ndarray
) -> None:
    """Clip, matrix, clip and, if asked, encode each pixel in one pass over memory; NaN becomes 0."""
    zero, one = np.float32(0), np.float32(1)
    slope = np.float32(2 / (1 - _SMALLEST_ROOT))
    # Numbers of their own: read from the arrays they would be read for every pixel, `out` might be the same.
    gain_r, gain_g, gain_b = gains[0], gains[1], gains[2]
    rr, rg, rb, gr, gg, gb, br, bg, bb = (
        matrix[0], matrix[1], matrix[2], matrix[3], matrix[4], matrix[5], matrix[6], matrix[7], matrix[8],
    )  # fmt: skip
    c0, c1, c2, c3, c4, c5, c6, c7, c8 = (
        curve[0], curve[1], curve[2], curve[3], curve[4], curve[5], curve[6], curve[7], curve[8],
    )  # fmt: skip
    for y in numba.prange(rgb.shape[0]):
        line, to = rgb[y], out[y]
        for x in range(0, rgb.shape[1], 3):
            r = line[x] * gain_r
            r = min(r, one) if r > zero else zero
            g = line[x + 1] * gain_g
            g = min(g, one) if g > zero else zero
            b = line[x + 2] * gain_b
            b = min(b, one) if b > zero else zero
            to[x] = min(max(rr * r + rg * g + rb * b, zero), one)
            to[x + 1] = min(max(gr * r + gg * g + gb * b, zero), one)
            to[x + 2] = min(max(br * r + bg * g + bb * b, zero), one)
        if encode:
            for x in range(rgb.shape[1]):
                value = to[x]
                t = (np.sqrt(np.sqrt(value)) - one) * slope + one
                code = c4 + t * (c5 + t * (c6 + t * (c7 + t * c8)))
                code = c0 + t * (c1 + t * (c2 + t * (c3 + t * code)))
                to[x] = np.float32(12.92) * value if value <= np.float32(0.0031308) else min(code, one)


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 luma of an (H, W, 3) display image in [0, 1]."""
    return np.asarray(cv2.transform(np.asarray(image, np.float32), _LUMA[None]))


def quantise(image: np.ndarray, bits: int) -> np.ndarray:
    """Round an image in [0, 1] to uint8 (`bits` 8) or uint16 (`bits` 16); values outside are clipped."""
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    flat = np.ascontiguousarray(image, np.float32).reshape(-1)
    out = np.empty(flat.shape, np.uint8 if bits == 8 else np.uint16)
    _quantise(flat, np.float32(2**bits - 1), out)
    return out.reshape(np.shape(image))


@kernel()
def _quantise(flat: np.ndarray, top: np.float32, out: np.ndarray) -> None:
    """Scale, round half to even and clip in one pass; NaN becomes 0."""
    for index in range(flat.size):
        out[index] = np.rint(min(max(flat[index] * top, np.float32(0)), top))


def halve(image: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 pixels of an (H, W[, C]) float array; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width]
    return np.float32(0.25) * (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])
