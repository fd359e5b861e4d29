"""Demosaicing by Menon, Andriani and Calvagno (2007), as the paper uses it.

An own kernel, because the reference implementation (colour-demosaicing) takes more than ten times as long,
and because importing it replaces a missing matplotlib by a mock-up for the whole process. It works on strips
of rows, each with the margin it depends on, so that memory stays a few rows and threads share nothing.
"""

from __future__ import annotations

import numba
import numpy as np

from relo.capture.frame import PATTERNS, channel_of_position

_STRIP = 128
# Rows and columns beyond a pixel that its result depends on: refining 4, decision 4, interpolation 2.
_HALO = 10
# How far beyond a strip green and the decision are needed.
_REACH = 4


def demosaic_menon(mosaic: np.ndarray, pattern: str, refine: bool = True) -> np.ndarray:
    """Interpolate a Bayer mosaic to RGB (directional filtering with a-posteriori decision).

    Borders are mirrored without repeating the edge. Gradients are compared in float64, so that the decisions
    equal those of a float64 implementation; the rest is float32.

    Parameters
    ----------
    mosaic : (H, W) float array
        Linear light, about [0, 1].
    pattern : {"RGGB", "BGGR", "GRBG", "GBRG"}
    refine : bool
        Whether to run the method's refining step.

    Returns
    -------
    (H, W, 3) float32 array
        Not clipped: overshoots at edges leave [0, 1].

    Raises
    ------
    ValueError
        Unknown pattern, or the mosaic is no float array with at least one 2 x 2 cell.

    References
    ----------
    Menon, Andriani, Calvagno, "Demosaicing with directional filtering and a posteriori decision", IEEE
    Transactions on Image Processing 16(1), 2007; checked against colour-demosaicing.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    if mosaic.ndim != 2 or min(mosaic.shape) < 2:
        raise ValueError(f"mosaic must be (H, W) with at least one 2 x 2 cell, got {mosaic.shape}")
    if not np.issubdtype(mosaic.dtype, np.floating):
        raise ValueError(f"mosaic must be normalised to floats, got {mosaic.dtype}")
    channels = np.array(channel_of_position(pattern), np.int64).reshape(2, 2)
    out = np.empty((*mosaic.shape, 3), np.float32)
    _demosaic(np.ascontiguousarray(mosaic, np.float32), channels, refine, out)
    return out


@numba.njit(cache=True)
def _mirror(index: int, size: int) -> int:
    """Index reflected into [0, size) about the border pixels."""
    period = 2 * (size - 1)
    index = abs(index) % period
    return index if index < size else period - index


@numba.njit(cache=True, parallel=True, nogil=True)
def _demosaic(mosaic: np.ndarray, channels: np.ndarray, refine: bool, out: np.ndarray) -> None:
    strips = (mosaic.shape[0] + _STRIP - 1) // _STRIP
    for strip in numba.prange(strips):
        top = strip * _STRIP
        bottom = min(top + _STRIP, mosaic.shape[0])
        _demosaic_strip(mosaic, channels, refine, top, bottom, out)


@numba.njit(cache=True, nogil=True)
def _demosaic_strip(
    mosaic: np.ndarray, channels: np.ndarray, refine: bool, top: int, bottom: int, out: np.ndarray
) -> None:
    """Rows `top` to `bottom` of the result. Local index i is row top - _HALO + i, j is column j - _HALO."""
    height, width = mosaic.shape
    rows, columns = bottom - top + 2 * _HALO, width + 2 * _HALO
    # Local sites keep the parity of the frame's: the halo is even, and mirroring keeps it.
    parity = top % 2
    values = np.empty((rows, columns), np.float32)
    for i in range(rows):
        y = _mirror(top - _HALO + i, height)
        for j in range(_HALO):
            values[i, j] = mosaic[y, _mirror(j - _HALO, width)]
            values[i, _HALO + width + j] = mosaic[y, _mirror(width + j, width)]
        values[i, _HALO : _HALO + width] = mosaic[y]

    green, horizontal = _choose_green(values, channels, parity, top, height, width)
    _mirror_borders(green, horizontal, top, height, width)

    red, blue = values.copy(), values.copy()
    first, last = _HALO - 3, rows - _HALO + 3
    left, right = _HALO - 3, columns - _HALO + 3
    _red_blue_at_green(values, green, red, blue, channels, parity, first, last, left, right)
    for i in range(first + 1, last - 1):
        for j in range(left + 1, right - 1):
            kind = channels[(i + parity) % 2, j % 2]
            if kind == 1:
                continue
            di, dj = (0, 1) if horizontal[i, j] else (1, 0)
            before, after = (i - di, j - dj), (i + di, j + dj)
            mean = np.float32(0.5) * (red[before] - blue[before] + red[after] - blue[after])
            if kind == 2:
                red[i, j] = values[i, j] + mean
            else:
                blue[i, j] = values[i, j] - mean
    if refine:
        _refine(values, green, red, blue, horizontal, channels, parity, first, last, left, right)

    for i in range(_HALO, rows - _HALO):
        for j in range(width):
            out[top + i - _HALO, j, 0] = red[i, j + _HALO]
            out[top + i - _HALO, j, 1] = green[i, j + _HALO]
            out[top + i - _HALO, j, 2] = blue[i, j + _HALO]


@numba.njit(cache=True, nogil=True)
def _choose_green(
    values: np.ndarray, channels: np.ndarray, parity: int, top: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Green interpolated along both directions, the direction with the smoother colour difference chosen."""
    rows, columns = values.shape
    quarter, half = np.float32(0.25), np.float32(0.5)
    green_h, green_v = values.copy(), values.copy()
    difference_h = np.zeros((rows, columns))
    difference_v = np.zeros((rows, columns))
    for i in range(2, rows - 2):
        line = (i + parity) % 2
        for j in range(2 + (channels[line, 0] == 1), columns - 2, 2):
            centre = values[i, j]
            green_h[i, j] = half * (values[i, j - 1] + values[i, j + 1] + centre) - quarter * (
                values[i, j - 2] + values[i, j + 2]
            )
            green_v[i, j] = half * (values[i - 1, j] + values[i + 1, j] + centre) - quarter * (
                values[i - 2, j] + values[i + 2, j]
            )
            # The same once more in float64: the decision must not hang on rounding.
            c = np.float64(centre)
            difference_h[i, j] = (
                c
                - 0.5 * (np.float64(values[i, j - 1]) + values[i, j + 1] + c)
                + 0.25 * (np.float64(values[i, j - 2]) + values[i, j + 2])
            )
            difference_v[i, j] = (
                c
                - 0.5 * (np.float64(values[i - 1, j]) + values[i + 1, j] + c)
                + 0.25 * (np.float64(values[i - 2, j]) + values[i + 2, j])
            )
    # Absolute differences to the next site of the same colour, 0 outside the frame; in place, since each
    # site is read for the last time when it is overwritten.
    for i in range(2, rows - 4):
        inside = 0 <= top - _HALO + i < height
        for j in range(2, columns - 4):
            if inside and _HALO <= j < _HALO + width:
                difference_h[i, j] = abs(difference_h[i, j] - difference_h[i, j + 2])
                difference_v[i, j] = abs(difference_v[i, j] - difference_v[i + 2, j])
            else:
                difference_h[i, j] = 0.0
                difference_v[i, j] = 0.0
    horizontal = np.zeros((rows, columns), np.bool_)
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        y = top - _HALO + i
        if y < 0 or y >= height:
            continue
        for j in range(_HALO, _HALO + width):
            dh, dv = difference_h, difference_v
            along_h = (
                dh[i - 2, j] + dh[i - 2, j - 2] + dh[i - 1, j - 1] + 3 * dh[i, j]
                + 3 * dh[i, j - 2] + dh[i + 1, j - 1] + dh[i + 2, j] + dh[i + 2, j - 2]
            )  # fmt: skip
            along_v = (
                dv[i, j - 2] + dv[i - 2, j - 2] + dv[i - 1, j - 1] + 3 * dv[i, j]
                + 3 * dv[i - 2, j] + dv[i - 1, j + 1] + dv[i, j + 2] + dv[i - 2, j + 2]
            )  # fmt: skip
            horizontal[i, j] = along_v >= along_h
            if not horizontal[i, j]:
                green_h[i, j] = green_v[i, j]
    return green_h, horizontal


@numba.njit(cache=True, nogil=True)
def _mirror_borders(green: np.ndarray, horizontal: np.ndarray, top: int, height: int, width: int) -> None:
    """Continue green and the decision beyond the frame by mirroring them."""
    rows = green.shape[0]
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        for j in range(_REACH):
            for column in (_HALO - 1 - j, _HALO + width + j):
                source = _HALO + _mirror(column - _HALO, width)
                green[i, column] = green[i, source]
                horizontal[i, column] = horizontal[i, source]
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        y = top - _HALO + i
        if 0 <= y < height:
            continue
        source = _mirror(y, height) - top + _HALO
        green[i] = green[source]
        horizontal[i] = horizontal[source]


@numba.njit(cache=True, nogil=True)
def _red_blue_at_green(
    values: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    blue: np.ndarray,
    channels: np.ndarray,
    parity: int,
    first: int,
    last: int,
    left: int,
    right: int,
) -> None:
    """Red and blue at green sites: green plus the mean colour difference of the two neighbours of that colour."""
    half = np.float32(0.5)
    for i in range(first, last):
        line = (i + parity) % 2
        red_line = channels[line, 0] == 0 or channels[line, 1] == 0
        start = left + (channels[line, left % 2] != 1)
        for j in range(start, right, 2):
            along = green[i, j] + half * (values[i, j - 1] - green[i, j - 1] + values[i, j + 1] - green[i, j + 1])
            across = green[i, j] + half * (values[i - 1, j] - green[i - 1, j] + values[i + 1, j] - green[i + 1, j])
            if red_line:
                red[i, j], blue[i, j] = along, across
            else:
                red[i, j], blue[i, j] = across, along


@numba.njit(cache=True, nogil=True)
def _refine(
    values: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    blue: np.ndarray,
    horizontal: np.ndarray,
    channels: np.ndarray,
    parity: int,
    first: int,
    last: int,
    left: int,
    right: int,
) -> None:
    """Smooth the colour differences along the chosen direction, site by site in place."""
    third = np.float32(1 / 3)
    for i in range(first + 1, last - 1):
        for j in range(left + 1, right - 1):
            kind = channels[(i + parity) % 2, j % 2]
            if kind == 1:
                continue
            di, dj = (0, 1) if horizontal[i, j] else (1, 0)
            before, after = (i - di, j - dj), (i + di, j + dj)
            own = red if kind == 0 else blue
            total = own[before] - green[before] + own[i, j] - green[i, j] + own[after] - green[after]
            green[i, j] = values[i, j] - third * total
    _red_blue_at_green(values, green, red, blue, channels, parity, first + 2, last - 2, left + 2, right - 2)
    for i in range(first + 3, last - 3):
        for j in range(left + 3, right - 3):
            kind = channels[(i + parity) % 2, j % 2]
            if kind == 1:
                continue
            di, dj = (0, 1) if horizontal[i, j] else (1, 0)
            before, after = (i - di, j - dj), (i + di, j + dj)
            total = red[before] - blue[before] + red[i, j] - blue[i, j] + red[after] - blue[after]
            if kind == 2:
                red[i, j] = values[i, j] + third * total
            else:
                blue[i, j] = values[i, j] - third * total
