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
    """Green interpolated along both directions, the direction with the smoother colour difference chosen.

    Every other site of a row is red or blue. Compact rows hold only those: place k is site 2 k + shift, where
    the shift changes from row to row. What is chosen stands at both sites of a place.
    """
    rows, columns = values.shape
    places = (columns + 1) // 2
    # [parity of the column, row, place]
    split = np.zeros((2, rows, places), np.float32)
    for i in range(rows):
        for parity in range(2):
            line, to = values[i, parity:], split[parity, i]
            for k in range((columns - parity + 1) // 2):
                to[k] = line[2 * k]
    green_h, green_v = np.zeros((rows, places), np.float32), np.zeros((rows, places), np.float32)
    difference_h, difference_v = np.zeros((rows, places)), np.zeros((rows, places))
    for i in range(2, rows - 2):
        shift = 0 if coloured[i % 2, 0] else 1
        own, other = split[shift], split[1 - shift, i, shift:]
        w2, c, e2, w1, e1 = own[i], own[i, 1:], own[i, 2:], other, other[1:]
        n2, n1, s1, s2 = own[i - 2, 1:], own[i - 1, 1:], own[i + 1, 1:], own[i + 2, 1:]
        to_h, to_v, dh, dv = green_h[i, 1:], green_v[i, 1:], difference_h[i, 1:], difference_v[i, 1:]
        for k in range(places - 2):
            # float64: the decision must not hang on rounding.
            x = np.float64(c[k])
            h = 0.5 * (np.float64(w1[k]) + np.float64(e1[k]) + x) - 0.25 * (np.float64(w2[k]) + np.float64(e2[k]))
            v = 0.5 * (np.float64(n1[k]) + np.float64(s1[k]) + x) - 0.25 * (np.float64(n2[k]) + np.float64(s2[k]))
            to_h[k], to_v[k] = h, v
            dh[k], dv[k] = x - h, x - v
    # Absolute differences to the next site of the same colour, 0 outside the frame; in place, since each
    # site is read for the last time when it is overwritten. By way of a row of their own: loops that read and
    # write one array do not become vector instructions.
    fresh = np.zeros(places)
    for i in range(rows - 2):
        shift = 0 if coloured[i % 2, 0] else 1
        first = max(_HALO - left - shift + 1, 0) // 2
        last = max(min(width - left + _HALO, columns - 2) - shift + 1, 0) // 2
        dh, dh2, dv, dv2 = difference_h[i], difference_h[i, 1:], difference_v[i], difference_v[i + 2]
        if not 0 <= top - _HALO + i < height:
            dh[:] = 0.0
            dv[:] = 0.0
            continue
        for k in range(places - 1):
            fresh[k] = abs(dh[k] - dh2[k])
        dh[:] = fresh
        for k in range(places):
            fresh[k] = abs(dv[k] - dv2[k])
        dv[:] = fresh
        dh[:first] = dv[:first] = 0.0
        dh[last:] = dv[last:] = 0.0
    green, horizontal = values.copy(), np.zeros((rows, columns), np.bool_)
    edge = (_HALO - _REACH) // 2
    inner = (columns - _HALO + _REACH) // 2 - edge
    chosen, choice = np.empty(inner, np.float32), np.empty(inner, np.bool_)
    for i in range(_HALO - _REACH, rows - _HALO + _REACH):
        if not 0 <= top - _HALO + i < height:
            continue
        shift = 0 if coloured[i % 2, 0] else 1
        beside = edge - 1 + shift
        h0, h0w, h1 = difference_h[i - 2, edge:], difference_h[i - 2, edge - 1 :], difference_h[i - 1, beside:]
        h2, h2w, h3 = difference_h[i, edge:], difference_h[i, edge - 1 :], difference_h[i + 1, beside:]
        h4, h4w = difference_h[i + 2, edge:], difference_h[i + 2, edge - 1 :]
        v0, v0w, v0e = difference_v[i - 2, edge:], difference_v[i - 2, edge - 1 :], difference_v[i - 2, edge + 1 :]
        v2, v2w, v2e = difference_v[i, edge:], difference_v[i, edge - 1 :], difference_v[i, edge + 1 :]
        v1w, v1e = difference_v[i - 1, beside:], difference_v[i - 1, beside + 1 :]
        g_h, g_v = green_h[i, edge:], green_v[i, edge:]
        for k in range(inner):
            along = (h0[k] + h0w[k]) + (h1[k] + h3[k]) + 3 * (h2[k] + h2w[k]) + (h4[k] + h4w[k])
            across = (v2w[k] + v0w[k]) + (v1w[k] + v1e[k]) + 3 * (v2[k] + v0[k]) + (v2e[k] + v0e[k])
            choice[k] = across >= along
            chosen[k] = g_h[k] if across >= along else g_v[k]
        to, to_choice, rest = green[i, 2 * edge :], horizontal[i, 2 * edge :], split[1 - shift, i, edge:]
        even, odd = (chosen, rest) if shift == 0 else (rest, chosen)
        for k in range(inner):
            to[2 * k], to[2 * k + 1] = even[k], odd[k]
            to_choice[2 * k], to_choice[2 * k + 1] = choice[k], choice[k]
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
