"""The optical flow of C. Liu's thesis (MIT 2009, appendix A), which the tool pyflow offers as `coarse2fine_flow`.

Minimises sum mean_F psi((F2(x + w) - F1(x))^2) + alpha sum phi(|grad u|^2 + |grad v|^2) over the flow w = (u, v)
with psi(s) = phi(s) = sqrt(s + 1e-6); the features F are brightness, its two slopes and two colour differences.
On each level of a pyramid they are linearised about the flow so far, psi and phi become weights, and the linear
system for the increment is relaxed by SOR. Levels, filters, interpolation, order of the sweeps and precision are
pyflow's, hence the flow too, up to rounding; its noise estimate, which weighs nothing, and its own warping are not
here.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from relo.kernels import kernel

_SMOOTH = (0.02, 0.11, 0.74, 0.11, 0.02)
_SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)
_EPSILON_SQUARED = 1e-6
_OMEGA = 1.8
# A small multiple of the identity keeps the system regular where nothing has texture.
_RIDGE = 0.05
# Rows that go through all filters at a time, so that what is between them stays in the cache; two filters of
# five taps in a row reach four rows beyond.
_STRIP, _HALO = 32, 4

# Contraction fuses a product and a sum into one rounding; no other liberty is taken.
_compiled = kernel(fastmath={"contract"})


def estimate_coarse2fine(
    target: np.ndarray,
    moving: np.ndarray,
    *,
    alpha: float = 0.012,
    ratio: float = 0.75,
    min_width: int = 20,
    outer: int = 7,
    inner: int = 1,
    sor: int = 30,
) -> np.ndarray:
    """Dense flow by coarse to fine refinement (Liu 2009); the defaults are those of pyflow's demo.

    Convention: `moving[y + dy, x + dx]` shows what `target[y, x]` shows, see `relo.postprocess.resample.warp`.
    Match the brightness of the frames before: a gain of 5 % raises the error by half.

    Parameters
    ----------
    target, moving : (H, W, 3) or (H, W) float arrays
        RGB or grey images in [0, 1].
    alpha : float
        Weight of the smoothness. 30 sweeps do not converge from 0.2 on.
    ratio : float
        Size of each level relative to the finer one, 0.4 to 0.98.
    min_width : int
        No level but the frame itself is narrower than this [px].
    outer, inner, sor : int
        Linearisations on the finest level, reweightings in each, SOR sweeps in each on the finest level. Level k
        has k linearisations and 3 k sweeps more.

    Returns
    -------
    (H, W, 2) float32 array
        (dx, dy) [px].

    Raises
    ------
    ValueError
        The frames differ in size, are neither grey nor RGB or hold NaN or infinite values; a setting is out of
        its range.
    """
    if target.shape != moving.shape:
        raise ValueError(f"frames differ in size: {target.shape} and {moving.shape}")
    if target.size == 0 or not (target.ndim == 2 or (target.ndim == 3 and target.shape[2] == 3)):
        raise ValueError(f"frames are (H, W) or (H, W, 3), got {target.shape}")
    if not (np.isfinite(target).all() and np.isfinite(moving).all()):
        raise ValueError("a frame to align holds NaN or infinite values")
    if not 0.4 <= ratio <= 0.98:
        raise ValueError(f"ratio is 0.4 to 0.98, got {ratio:g}")
    if not (alpha > 0 and min(min_width, outer, inner, sor) >= 1):
        raise ValueError("alpha is positive; min_width, outer, inner and sor are 1 at least")
    pyramids = [_pyramid(_planes(image), ratio, min_width) for image in (target, moving)]
    coarsest = len(pyramids[0]) - 1
    flow = np.zeros((2, *pyramids[0][-1].shape[1:]))
    for level in range(coarsest, -1, -1):
        # Popped, not indexed: nothing needs a level any more once it has its features.
        first, second = (_features(pyramid.pop()) for pyramid in pyramids)
        if level < coarsest:
            height, width = first.shape[1:]
            scale = (height / flow.shape[1], width / flow.shape[2])
            flow = _resize(flow, (height, width), scale) * (1 / ratio)
        _refine(first, second, flow, alpha, outer + level, inner, sor + 3 * level)
    return np.ascontiguousarray(np.moveaxis(flow, 0, -1), np.float32)


def _planes(image: np.ndarray) -> np.ndarray:
    """(C, H, W) float64 copy."""
    planes = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
    return np.array(planes, np.float64, order="C")


def _pyramid(planes: np.ndarray, ratio: float, min_width: int) -> list[np.ndarray]:
    """(C, H, W) levels, finest first; the first few are made from the frame, the others from one a few above."""
    width = planes.shape[2]
    jump = int(math.log(0.25) / math.log(ratio))
    levels = [planes]
    for level in range(1, int(math.log(min_width / width) / math.log(ratio))):
        steps = min(level, jump)
        source = levels[level - steps]
        scale = ratio**level
        if level > jump:
            scale = scale * width / source.shape[2]
        size = (int(source.shape[1] * scale), int(source.shape[2] * scale))
        if min(size) < 1:
            break
        levels.append(_resize(_blur(source, (1 / ratio - 1) * steps), size, (scale, scale)))
    return levels


def _blur(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian cut off at 3 sigma, rounded down."""
    radius = int(3 * sigma)
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    return _correlate(planes, taps / taps.sum(), taps / taps.sum())


def _correlate(planes: np.ndarray, taps_x: np.ndarray, taps_y: np.ndarray) -> np.ndarray:
    """Separable correlation of each plane; the edge repeats."""
    repeat = cv2.BORDER_REPLICATE
    return np.stack([cv2.sepFilter2D(plane, -1, taps_x, taps_y, borderType=repeat) for plane in planes])


def _resize(planes: np.ndarray, size: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """Bilinear, (rows, columns); the last pixels of both coincide: j lies at (j + 1) / scale - 1 of the source."""
    for axis, count, factor in zip((1, 2), size, scale, strict=True):
        place = np.arange(1, count + 1) / factor - 1
        before = place.astype(np.intp)
        weight = np.clip(place - before, 0, 1)
        if axis == 1:
            weight = weight[:, None]
        low, high = (planes.take(index, axis, mode="clip") for index in (before, before + 1))
        planes = (1 - weight) * low + weight * high
    return planes


def _features(planes: np.ndarray) -> np.ndarray:
    """Brightness, its slopes along x and y and, for RGB, G - R and G - B; (3 or 5, H, W)."""
    grey = planes if len(planes) == 1 else 0.299 * planes[:1] + 0.587 * planes[1:2] + 0.114 * planes[2:]
    slope, one = np.array(_SLOPE), np.ones(1)
    features = [grey, _correlate(grey, slope, one), _correlate(grey, one, slope)]
    if len(planes) == 3:
        features += [planes[1:2] - planes[:1], planes[1:2] - planes[2:]]
    return np.concatenate(features)


@_compiled
def _refine(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, alpha: float, outer: int, inner: int, sweeps: int
) -> None:
    """Refine the flow on one level, in place; features are (C, H, W), the flow is (2, H, W)."""
    height, width = flow.shape[1:]
    increment = np.zeros((2, height + 2, width + 2))
    system = np.zeros((6, height + 2, width + 2))
    for _ in range(outer):
        increment[:] = 0
        for _ in range(inner):
            _add_data(first, second, flow, increment, system)
            _add_smoothness(flow, increment, alpha, system)
            increment[:] = 0
            _relax(system, increment, sweeps)
        flow += increment[:, 1:-1, 1:-1]


@_compiled
def _add_data(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, increment: np.ndarray, system: np.ndarray
) -> None:
    """Planes 1-5 of the system: means over the features of psi' times (xx, yy, xy, xt, yt).

    Slopes are those of a blend of both frames; psi' is taken at the increment so far.
    """
    channels, height, width = first.shape
    system[1:] = 0
    rows = min(_STRIP + 2 * _HALO, height)
    warped = np.empty((channels, rows, width))
    blend, change = np.empty((rows, width)), np.empty((rows, width))
    slope_x, slope_y = np.empty((rows, width)), np.empty((rows, width))
    weight = np.empty(width)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        start, stop = max(top - _HALO, 0), min(bottom + _HALO, height)
        count = stop - start
        _warp(first, second, flow, start, warped[:, :count])
        for c in range(channels):
            _along_x(first[c, start:stop], _SMOOTH, slope_x)
            _along_y(slope_x[:count], _SMOOTH, blend)
            _along_x(warped[c, :count], _SMOOTH, slope_x)
            _along_y(slope_x[:count], _SMOOTH, change)
            for y in range(count):
                for x in range(width):
                    one, two = blend[y, x], change[y, x]
                    blend[y, x] = 0.4 * one + 0.6 * two
                    change[y, x] = two - one
            _along_x(blend[:count], _SLOPE, slope_x)
            _along_y(blend[:count], _SLOPE, slope_y)
            for y in range(top, bottom):
                gx, gy, gt = slope_x[y - start], slope_y[y - start], change[y - start]
                du, dv = increment[0, y + 1], increment[1, y + 1]
                for x in range(width):
                    rest = gt[x] + gx[x] * du[x + 1] + gy[x] * dv[x + 1]
                    weight[x] = 0.5 / channels / np.sqrt(rest * rest + _EPSILON_SQUARED)
                _add_product(weight, gx, gx, system[1, y + 1])
                _add_product(weight, gy, gy, system[2, y + 1])
                _add_product(weight, gx, gy, system[3, y + 1])
                _add_product(weight, gx, gt, system[4, y + 1])
                _add_product(weight, gy, gt, system[5, y + 1])


@_compiled
def _add_product(weight: np.ndarray, one: np.ndarray, two: np.ndarray, out: np.ndarray) -> None:
    for x in range(weight.size):
        out[x + 1] += weight[x] * one[x] * two[x]


@_compiled
def _warp(first: np.ndarray, second: np.ndarray, flow: np.ndarray, start: int, out: np.ndarray) -> None:
    """Rows from `start` of the second features along the flow, bilinear; the first's where it leaves the frame."""
    channels, height, width = first.shape
    for row in range(out.shape[1]):
        y = start + row
        for x in range(width):
            px, py = x + flow[0, y, x], y + flow[1, y, x]
            if px < 0 or px > width - 1 or py < 0 or py > height - 1:
                for c in range(channels):
                    out[c, row, x] = first[c, y, x]
                continue
            left, upper = int(px), int(py)
            right, lower = min(left + 1, width - 1), min(upper + 1, height - 1)
            fx, fy = px - left, py - upper
            for c in range(channels):
                out[c, row, x] = (1 - fx) * (1 - fy) * second[c, upper, left] + (
                    (1 - fx) * fy * second[c, lower, left]
                    + fx * (1 - fy) * second[c, upper, right]
                    + fx * fy * second[c, lower, right]
                )


@_compiled
def _along_x(image: np.ndarray, taps: tuple[float, ...], out: np.ndarray) -> None:
    """Correlate rows with five taps; the edge repeats."""
    height, width = image.shape
    line = np.empty(width + 4)
    for y in range(height):
        for x in range(width + 4):
            line[x] = image[y, min(max(x - 2, 0), width - 1)]
        for x in range(width):
            out[y, x] = (
                taps[0] * line[x]
                + taps[1] * line[x + 1]
                + taps[2] * line[x + 2]
                + taps[3] * line[x + 3]
                + taps[4] * line[x + 4]
            )


@_compiled
def _along_y(image: np.ndarray, taps: tuple[float, ...], out: np.ndarray) -> None:
    """Correlate columns with five taps; the edge repeats."""
    height, width = image.shape
    for y in range(height):
        a, b, c = image[max(y - 2, 0)], image[max(y - 1, 0)], image[y]
        d, e = image[min(y + 1, height - 1)], image[min(y + 2, height - 1)]
        for x in range(width):
            out[y, x] = taps[0] * a[x] + taps[1] * b[x] + taps[2] * c[x] + taps[3] * d[x] + taps[4] * e[x]


@_compiled
def _add_smoothness(flow: np.ndarray, increment: np.ndarray, alpha: float, system: np.ndarray) -> None:
    """From the planes of `_add_data` those that `_relax` takes: alpha phi', two step sizes, xy, two right sides.

    phi' of a pixel weighs the edges to its right and lower neighbour, by forward differences of flow and increment.
    """
    height, width = flow.shape[1:]
    u, v = flow
    du, dv = increment[0, 1:-1, 1:-1], increment[1, 1:-1, 1:-1]
    weight = system[0, 1:-1, 1:-1]
    for y in range(height):
        upper, lower = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            ux = u[y, right] + du[y, right] - u[y, x] - du[y, x]
            uy = u[lower, x] + du[lower, x] - u[y, x] - du[y, x]
            vx = v[y, right] + dv[y, right] - v[y, x] - dv[y, x]
            vy = v[lower, x] + dv[lower, x] - v[y, x] - dv[y, x]
            here = 0.5 * alpha / np.sqrt(ux * ux + uy * uy + vx * vx + vy * vy + _EPSILON_SQUARED)
            weight[y, x] = here
            # Where there is no neighbour, the clamped index makes the difference 0 below; only the sum needs care.
            before, above = weight[y, left], weight[upper, x]
            total = (x > 0) * before + (y > 0) * above + ((x < width - 1) + (y < height - 1)) * here
            bend_u = here * (u[y, right] + u[lower, x] - 2 * u[y, x])
            bend_u -= before * (u[y, x] - u[y, left]) + above * (u[y, x] - u[upper, x])
            bend_v = here * (v[y, right] + v[lower, x] - 2 * v[y, x])
            bend_v -= before * (v[y, x] - v[y, left]) + above * (v[y, x] - v[upper, x])
            system[1, y + 1, x + 1] = _OMEGA / (system[1, y + 1, x + 1] + _RIDGE * alpha + total)
            system[2, y + 1, x + 1] = _OMEGA / (system[2, y + 1, x + 1] + _RIDGE * alpha + total)
            system[4, y + 1, x + 1] = bend_u - system[4, y + 1, x + 1]
            system[5, y + 1, x + 1] = bend_v - system[5, y + 1, x + 1]


@_compiled
def _relax(system: np.ndarray, increment: np.ndarray, sweeps: int) -> None:
    """Lexicographic SOR in place, u before v in each pixel; a border of zeros stands for missing neighbours."""
    height = increment.shape[1] - 2
    # Sweep s may enter a row as soon as sweep s - 1 has left the next one: a few rows stay in the cache for all
    # sweeps. The order within each pixel's neighbourhood, and so the result, is that of one sweep after the other.
    for front in range(height + sweeps - 1):
        for sweep in range(max(front - height + 1, 0), min(front + 1, sweeps)):
            _relax_row(system, increment, front - sweep + 1)


@_compiled
def _relax_row(system: np.ndarray, increment: np.ndarray, y: int) -> None:
    weight, step_u, step_v, cross, right_u, right_v = system[:, y]
    weight_up = system[0, y - 1]
    u, u_up, u_down = increment[0, y], increment[0, y - 1], increment[0, y + 1]
    v, v_up, v_down = increment[1, y], increment[1, y - 1], increment[1, y + 1]
    new_u = new_v = before = 0.0
    for x in range(1, u.size - 1):
        here, up = weight[x], weight_up[x]
        # What the left neighbour adds comes last: only that waits for the previous pixel.
        rest_u = right_u[x] - cross[x] * v[x] + (here * (u[x + 1] + u_down[x]) + up * u_up[x])
        rest_v = right_v[x] + (here * (v[x + 1] + v_down[x]) + up * v_up[x])
        rest_u = (1 - _OMEGA) * u[x] + step_u[x] * rest_u
        rest_v = (1 - _OMEGA) * v[x] + step_v[x] * rest_v
        new_u = rest_u + step_u[x] * before * new_u
        new_v = rest_v - step_v[x] * cross[x] * new_u + step_v[x] * before * new_v
        u[x], v[x] = new_u, new_v
        before = here
