"""Demosaicing by Menon, Andriani and Calvagno (2007), as the paper uses it.

An own kernel, because the reference implementation (colour-demosaicing) takes more than ten times as long,
and because importing it replaces a missing matplotlib by a mock-up for the whole process. It works on tiles,
each with the margin it depends on, so that memory stays a few tiles and threads share nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal
from unittest.mock import NonCallableMock

import numba
import numpy as np

from relo.capture.frame import PATTERNS, channel_of_position
from relo.kernels import kernel

DemosaicBackend = Literal["relo", "colour-demosaicing"]

# A tile's planes stay in a core's cache; both even, so that tiles start with a whole cell.
_TILE_ROWS, _TILE_COLUMNS = 128, 512
# Rows and columns beyond a pixel that its result depends on: refining 4, decision 4, interpolation 2.
_HALO = 10
# How far beyond a tile green and the decision are needed.
_REACH = 4


def demosaic_menon(
    mosaic: np.ndarray, pattern: str, refine: bool = True, *, backend: DemosaicBackend = "relo"
) -> np.ndarray:
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
    backend : {"relo", "colour-demosaicing"}
        The kernel of this module, on as many threads as numba is set to, or the reference implementation,
        in float64, many times as slow: to check the other.

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
    if backend == "colour-demosaicing":
        return _reference()(mosaic.astype(np.float64), pattern, refining_step=refine).astype(np.float32)
    if backend != "relo":
        raise ValueError(f"backend must be 'relo' or 'colour-demosaicing', got {backend!r}")
    channels = np.array(channel_of_position(pattern), np.int64).reshape(2, 2)
    out = np.empty((*mosaic.shape, 3), np.float32)
    _demosaic(np.ascontiguousarray(mosaic, np.float32), channels, refine, out)
    return out


def _reference() -> Callable[..., np.ndarray]:
    """colour-demosaicing's function, without what importing it does to others.

    Where matplotlib is missing, colour puts mock-ups into sys.modules; other packages then find a matplotlib
    that is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "matplotlib" and isinstance(module, NonCallableMock):
            del sys.modules[name]
    return demosaicing_CFA_Bayer_Menon2007


@kernel()
def _mirror(index: int, size: int) -> int:
    """Index reflected into [0, size) about the border pixels."""
    period = 2 * (size - 1)
    index = abs(index) % period
    return index if index < size else period - index


def _demosaic(mosaic: np.ndarray, channels: np.ndarray, refine: bool, out: np.ndarray) -> None:
    """Demosaic tile by tile on as many threads as numba is set to; the kernels release the interpreter lock."""
    height, width = mosaic.shape
    corners = [(top, left) for top in range(0, height, _TILE_ROWS) for left in range(0, width, _TILE_COLUMNS)]

    def demosaic(corner: tuple[int, int]) -> None:
        _demosaic_tile(mosaic, channels, refine, corner, out)

    threads = min(numba.get_num_threads(), len(corners))
    if threads == 1:
        for corner in corners:
            demosaic(corner)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(demosaic, corners):
            pass


def _demosaic_tile(
    mosaic: np.ndarray, channels: np.ndarray, refine: bool, corner: tuple[int, int], out: np.ndarray
) -> None:
    """One tile of the result, from `corner` (top, left) on.

    Local index i is row top - _HALO + i, j is column left - _HALO + j; tiles start at even sites and the halo
    is even, so local sites keep the parity of the frame's, and mirroring keeps it too. The loops run over whole
    rows and select by site, so that they become vector instructions. (One kernel that calls the others would
    take three times as long to compile.)
    """
    (height, width), (top, left) = mosaic.shape, corner
    rows, columns = min(_TILE_ROWS, height - top) + 2 * _HALO, min(_TILE_COLUMNS, width - left) + 2 * _HALO
    # [parity of the row, j]: whether the site is red or blue
    coloured = np.tile(channels != 1, columns // 2 + 1)[:, :columns]
    red_row = int((channels[1] == 0).any())
    values = np.empty((rows, columns), np.float32)
    _cut(mosaic, top - _HALO, left - _HALO, values)
    green, horizontal = _choose_green(values, coloured, top, left, height, width)
    _mirror_borders(green, horizontal, top, left, height, width)
    red, blue = np.empty_like(values), np.empty_like(values)
    edge = _HALO - 3
    _at_green(values, green, red, blue, coloured, red_row, edge)
    _at_opposite(values, red, blue, horizontal, coloured, red_row, edge + 1, False)
    if refine:
        _refine_green(values, green, red, blue, horizontal, coloured, red_row, edge + 1)
        _at_green(values, green, red, blue, coloured, red_row, edge + 2)
        _at_opposite(values, red, blue, horizontal, coloured, red_row, edge + 3, True)
    _join(red, green, blue, out[top : top + _TILE_ROWS, left : left + _TILE_COLUMNS])


@kernel()
def _cut(mosaic: np.ndarray, top: int, left: int, values: np.ndarray) -> None:
    """Fill `values` with the part of the mosaic that begins at (top, left), mirrored beyond the frame."""
    height, width = mosaic.shape
    rows, columns = values.shape
    first, last = max(left, 0), min(left + columns, width)
    for i in range(rows):
        y = _mirror(top + i, height)
        for j in range(first - left):
            values[i, j] = mosaic[y, _mirror(left + j, width)]
        values[i, first - left : last - left] = mosaic[y, first:last]
        for j in range(last - left, columns):
            values[i, j] = mosaic[y, _mirror(left + j, width)]


@kernel()
def _join(red: np.ndarray, green: np.ndarray, blue: np.ndarray, tile: np.ndarray) -> None:
    """Copy the inner part of three planes to a tile of an image."""
    for i in range(tile.shape[0]):
        r, g, b = red[i + _HALO, _HALO:], green[i + _HALO, _HALO:], blue[i + _HALO, _HALO:]
        line = tile[i]
        for j in range(tile.shape[1]):
            line[j, 0], line[j, 1], line[j, 2] = r[j], g[j], b[j]


@kernel()
def _choose_green(
    values: np.ndarray, coloured: np.ndarray, top: int, left: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Green interpolated along both directions, the direction with the smoother colour difference chosen."""
    rows, columns = values.shape
    inner = columns - 4
    green = values.copy()
    vertical = values.copy()
    difference_h, difference_v = np.zeros((rows, columns)), np.zeros((rows, columns))
    for i in range(2, rows - 2):
        c = values[i, 2 : inner + 2]
        w2, w1, e1, e2 = values[i, :inner], values[i, 1 : inner + 1], values[i, 3 : inner + 3], values[i, 4:]
        n2, n1 = values[i - 2, 2 : inner + 2], values[i - 1, 2 : inner + 2]
        s1, s2 = values[i + 1, 2 : inner + 2], values[i + 2, 2 : inner + 2]
        site = coloured[i % 2, 2 : inner + 2]
        to_h, to_v = green[i, 2 : inner + 2], vertical[i, 2 : inner + 2]
        dh, dv = difference_h[i, 2 : inner + 2], difference_v[i, 2 : inner + 2]
        for j in range(inner):
            # float64: the decision must not hang on rounding.
            x = np.float64(c[j])
            h = 0.5 * (np.float64(w1[j]) + np.float64(e1[j]) + x) - 0.25 * (np.float64(w2[j]) + np.float64(e2[j]))
            v = 0.5 * (np.float64(n1[j]) + np.float64(s1[j]) + x) - 0.25 * (np.float64(n2[j]) + np.float64(s2[j]))
            if site[j]:
                to_h[j], to_v[j] = h, v
                dh[j], dv[j] = x - h, x - v
    # Absolute differences to the next site of the same colour, 0 outside the frame; in place, since each
    # site is read for the last time when it is overwritten. By way of a row of their own: loops that read and
    # write one array do not become vector instructions.
    fresh = np.empty(columns)
    first, last = max(_HALO - left, 0), min(width - left + _HALO, columns - 2)
    for i in range(rows - 2):
        inside = 0 <= top - _HALO + i < height
        dh, dh2, dv, dv2 = difference_h[i], difference_h[i, 2:], difference_v[i], difference_v[i + 2]
        if not inside:
            dh[:] = 0.0
            dv[:] = 0.0
            continue
        for j in range(columns - 2):
            fresh[j] = abs(dh[j] - dh2[j])
        dh[: columns - 2] = fresh[: columns - 2]
        for j in range(columns):
            fresh[j] = abs(dv[j] - dv2[j])
        dv[:] = fresh
        dh[:first] = dv[:first] = 0.0
        dh[last:] = dv[last:] = 0.0
    horizontal = np.zeros((rows, columns), np.bool_)
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        if not 0 <= top - _HALO + i < height:
            continue
        h0, h1, h2, h3, h4 = (
            difference_h[i - 2],
            difference_h[i - 1],
            difference_h[i],
            difference_h[i + 1],
            difference_h[i + 2],
        )
        v0, v1, v2 = difference_v[i - 2], difference_v[i - 1], difference_v[i]
        choice, to, other = horizontal[i], green[i], vertical[i]
        for j in range(_HALO - _REACH, columns - _HALO + _REACH):
            along = (h0[j] + h0[j - 2]) + (h1[j - 1] + h3[j - 1]) + 3 * (h2[j] + h2[j - 2]) + (h4[j] + h4[j - 2])
            across = (
                (v2[j - 2] + v0[j - 2]) + (v1[j - 1] + v1[j + 1]) + 3 * (v2[j] + v0[j]) + (v2[j + 2] + v0[j + 2])
            )
            choice[j] = across >= along
            to[j] = to[j] if across >= along else other[j]
    return green, horizontal


@kernel()
def _mirror_borders(
    green: np.ndarray, horizontal: np.ndarray, top: int, left: int, height: int, width: int
) -> None:
    """Continue green and the decision beyond the frame by mirroring them."""
    rows, columns = green.shape
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        for j in range(_HALO - _REACH, columns - _HALO + _REACH):
            x = left - _HALO + j
            if x < 0 or x >= width:
                source = _mirror(x, width) - left + _HALO
                green[i, j] = green[i, source]
                horizontal[i, j] = horizontal[i, source]
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        y = top - _HALO + i
        if y < 0 or y >= height:
            source = _mirror(y, height) - top + _HALO
            green[i] = green[source]
            horizontal[i] = horizontal[source]


@kernel()
def _at_green(
    values: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    blue: np.ndarray,
    coloured: np.ndarray,
    red_row: int,
    edge: int,
) -> None:
    """Red and blue at green sites: green plus the mean colour difference of the two neighbours of that colour."""
    half = np.float32(0.5)
    rows, columns = values.shape
    inner = columns - 2 * edge
    fresh_own, fresh_other = np.empty(inner, np.float32), np.empty(inner, np.float32)
    for i in range(edge, rows - edge):
        own, other = (red, blue) if i % 2 == red_row else (blue, red)
        to_own, to_other = own[i, edge : edge + inner], other[i, edge : edge + inner]
        site, x, g = coloured[i % 2, edge:], values[i, edge:], green[i, edge:]
        xw, xe, gw, ge = values[i, edge - 1 :], values[i, edge + 1 :], green[i, edge - 1 :], green[i, edge + 1 :]
        xn, xs, gn, gs = values[i - 1, edge:], values[i + 1, edge:], green[i - 1, edge:], green[i + 1, edge:]
        for j in range(inner):
            along = g[j] + half * (xw[j] - gw[j] + xe[j] - ge[j])
            across = g[j] + half * (xn[j] - gn[j] + xs[j] - gs[j])
            fresh_own[j] = x[j] if site[j] else along
            fresh_other[j] = to_other[j] if site[j] else across
        to_own[:] = fresh_own
        to_other[:] = fresh_other


@kernel()
def _at_opposite(
    values: np.ndarray,
    red: np.ndarray,
    blue: np.ndarray,
    horizontal: np.ndarray,
    coloured: np.ndarray,
    red_row: int,
    edge: int,
    centre: bool,
) -> None:
    """Red at blue sites and blue at red ones: the difference of the two along the chosen direction.

    Convention: the mean runs over the two neighbours or, with `centre`, over the site itself too.
    """
    rows, columns = values.shape
    inner = columns - 2 * edge
    weight = np.float32(1 / 3) if centre else np.float32(0.5)
    fresh = np.empty(inner, np.float32)
    for i in range(edge, rows - edge):
        own, other = (red, blue) if i % 2 == red_row else (blue, red)
        to = other[i, edge : edge + inner]
        site, choice, x = coloured[i % 2, edge:], horizontal[i, edge:], values[i, edge:]
        ow, oe, pw, pe = own[i, edge - 1 :], own[i, edge + 1 :], other[i, edge - 1 :], other[i, edge + 1 :]
        on, os, pn, ps = own[i - 1, edge:], own[i + 1, edge:], other[i - 1, edge:], other[i + 1, edge:]
        for j in range(inner):
            # own - other: red minus blue in a red row, blue minus red in a blue one
            along = ow[j] - pw[j] + oe[j] - pe[j]
            across = on[j] - pn[j] + os[j] - ps[j]
            total = along if choice[j] else across
            if centre:
                total += x[j] - to[j]
            fresh[j] = x[j] - weight * total if site[j] else to[j]
        to[:] = fresh


@kernel()
def _refine_green(
    values: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    blue: np.ndarray,
    horizontal: np.ndarray,
    coloured: np.ndarray,
    red_row: int,
    edge: int,
) -> None:
    """Green at red and blue sites from the mean colour difference of three sites along the chosen direction."""
    third = np.float32(1 / 3)
    rows, columns = values.shape
    inner = columns - 2 * edge
    fresh = np.empty(inner, np.float32)
    for i in range(edge, rows - edge):
        own = red if i % 2 == red_row else blue
        site, choice, x = coloured[i % 2, edge:], horizontal[i, edge:], values[i, edge:]
        g = green[i, edge : edge + inner]
        ow, oe, gw, ge = own[i, edge - 1 :], own[i, edge + 1 :], green[i, edge - 1 :], green[i, edge + 1 :]
        on, os, gn, gs = own[i - 1, edge:], own[i + 1, edge:], green[i - 1, edge:], green[i + 1, edge:]
        for j in range(inner):
            along = ow[j] - gw[j] + oe[j] - ge[j]
            across = on[j] - gn[j] + os[j] - gs[j]
            total = x[j] - g[j] + (along if choice[j] else across)
            fresh[j] = x[j] - third * total if site[j] else g[j]
        # The next row sees only green sites of this one, which have not changed: in place is safe.
        g[:] = fresh
