"""Resampling along a flow with a constant-MTF interpolator (Freedman and Fleming, IEEE SPMB 2016).

The paper aligns with this interpolator "to better maintain edges" but gives no taps, and neither does the
reference; relo designs them: for each phase the taps whose frequency response is closest to a pure shift up to
0.4 cycles/px, with constants and ramps reproduced exactly. Linear or cubic interpolation would blur each pixel
by another amount, depending on where it falls between its neighbours.

"cmtf" keeps the contrast; at whole shifts it is the identity. Beyond 0.4 cycles/px no filter of this kind can be
the same at all phases (halfway between two pixels every one has no response at 0.5 cycles/px), so a little of
the noise still depends on the position. "cmtf-matched" applies one low-pass everywhere, at whole shifts too, and
so makes the noise stationary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numba
import numpy as np

from relo.kernels import kernel

WarpMethod = Literal["cmtf", "cmtf-matched", "cubic", "lanczos", "linear"]

TAPS = 12
MATCHED_TAPS = 16
PHASES = 64

# Half width of each method's footprint [px]: closer to the border a sample is made up.
_REACH = {"cmtf": TAPS // 2, "cmtf-matched": MATCHED_TAPS // 2, "lanczos": 4, "cubic": 2, "linear": 1}
# OpenCV keeps coordinates in int16.
_OPENCV_LIMIT = 32766


@lru_cache
def taps_table(
    taps: int = TAPS, phases: int = PHASES, pass_band: float = 0.40, *, matched: bool = False
) -> np.ndarray:
    """Taps of the interpolator for phases 0, 1/phases, ..., 1.

    For each phase d, min over h of the integral over f in [0, 0.5] of w(f) |sum_k h_k e^(i 2 pi f (k - d)) - T|^2
    subject to sum h = 1 and sum k h = d, k = -(taps/2 - 1) .. taps/2. Solved as one small linear system.

    Parameters
    ----------
    taps, phases : int
    pass_band : float
        [cycles/px]. T and w are 1 up to here.
    matched : bool
        Above the pass band: T stays 1 and w is 1e-3 (False), or T falls to 0 at 0.5 cycles/px as a raised cosine
        and w is 0.03 (True). "cmtf-matched" is `taps_table(MATCHED_TAPS, pass_band=0.36, matched=True)`.

    Returns
    -------
    (phases + 1, taps) float64 array
        Interpolating linearly between two rows keeps both constraints exactly.
    """
    offsets = np.arange(taps) - (taps // 2 - 1.0)
    frequency = np.linspace(0, 0.5, 1001)
    passes = frequency <= pass_band
    weight = np.where(passes, 1.0, 0.03 if matched else 1e-3)
    target = np.ones_like(frequency)
    if matched:
        target = np.where(passes, 1, 0.5 + 0.5 * np.cos(np.pi * (frequency - pass_band) / (0.5 - pass_band)))
    differences = offsets[:, None] - offsets[None, :]
    normal = np.cos(2 * np.pi * differences[..., None] * frequency) @ weight / len(frequency)
    constraints = np.stack([np.ones(taps), offsets])
    system = np.block([[normal, constraints.T], [constraints, np.zeros((2, 2))]])
    phase = np.arange(phases + 1) / phases
    angles = 2 * np.pi * (offsets[:, None] - phase)[..., None] * frequency
    right = np.cos(angles) @ (weight * target) / len(frequency)
    solution = np.linalg.solve(system, np.concatenate([right, np.ones((1, phases + 1)), phase[None]]))
    # Rounded, so that the zeros of whole shifts are zeros and pixels are copied bit by bit.
    table = solution[:taps].T.round(14)
    table.setflags(write=False)
    return table


def warp(image: np.ndarray, flow: np.ndarray, *, method: WarpMethod = "cmtf", clamp: bool = False) -> np.ndarray:
    """Resample an image along a flow.

    Convention: `flow[y, x]` is (dx, dy) [px], x right, y down; `out[y, x] = image[y + dy, x + dx]`. Samples
    beyond the border repeat the edge; `valid_area` tells where.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array
        Not clipped; edges may overshoot with all methods but "linear". 1 and 3 channels are fastest.
    flow : (H, W, 2) float array
    method : {"cmtf", "cmtf-matched", "cubic", "lanczos", "linear"}
        "cmtf-matched" low-passes the whole image, also where the flow is 0. The last three are OpenCV's, for
        sides up to 32766 px: "lanczos" quantises positions to 1/32 px, "cubic" is the kernel with a = -0.75 and
        does not reproduce ramps.
    clamp : bool
        Limit each result to the range of the 4 x 4 pixels around its position, channel by channel: a step edge
        no longer overshoots, but a peak that lies between pixels is cut to the highest of them. (2 x 2 pixels
        stop a step's overshoot no better and cut more.)

    Returns
    -------
    float32 array of the shape of `image`

    Raises
    ------
    ValueError
        The shapes differ, the flow holds NaN or infinite values, or the image is too large for OpenCV.

    Examples
    --------
    >>> shift = np.zeros((4, 5, 2), np.float32)
    >>> shift[..., 0] = 1
    >>> warp(np.tile(np.arange(5, dtype=np.float32), (4, 1)), shift)[0].tolist()
    [1.0, 2.0, 3.0, 4.0, 4.0]
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be (H, W) or (H, W, C), got {image.shape}")
    if flow.shape != (*image.shape[:2], 2):
        raise ValueError(f"an image of {image.shape} needs a flow of {(*image.shape[:2], 2)}, got {flow.shape}")
    image, flow = _frozen(image), _frozen(flow)
    out = np.empty(image.shape, np.float32)
    if out.size == 0:
        return out
    # Both extremes carry NaN on, without a mask of the flow's size.
    if not np.isfinite([flow.min(), flow.max()]).all():
        raise ValueError("the flow holds NaN or infinite values")
    resample = _constant_mtf if method in ("cmtf", "cmtf-matched") else _opencv
    if image.ndim == 2 or image.shape[2] == 3:
        resample(image, flow, method, out)
    else:
        # relo's kernels are made for 1 and 3 channels; OpenCV is less exact with 2 and refuses 5.
        plane = np.empty(image.shape[:2], np.float32)
        for channel in range(image.shape[2]):
            resample(_frozen(image[..., channel]), flow, method, plane)
            out[..., channel] = plane
    if clamp:
        shape = (*image.shape[:2], -1)
        _clamp(image.reshape(shape), flow, out.reshape(shape))
    return out


def valid_area(flow: np.ndarray, *, method: WarpMethod = "cmtf") -> np.ndarray:
    """Where the moving frame has all the pixels that a sample is made of.

    Returns
    -------
    (H, W) bool array
    """
    height, width = flow.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    # The last tap of a whole shift does not count: it is 0, or 1e-5 for "cmtf-matched".
    reach = _REACH[method] - 1
    dx, dy = flow[..., 0], flow[..., 1]
    # Bounds of the flow rather than of positions, which would be two more arrays of the flow's size.
    valid = dx >= reach - columns
    valid &= dx <= width - 1 - reach - columns
    valid &= dy >= reach - rows
    valid &= dy <= height - 1 - reach - rows
    return valid


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only contiguous float32 view or copy: numba would compile once more for writable arrays."""
    view = np.ascontiguousarray(array, np.float32).view()
    view.setflags(write=False)
    return view


def _opencv(image: np.ndarray, flow: np.ndarray, method: WarpMethod, out: np.ndarray) -> None:
    """Resample with `cv2.remap`."""
    import cv2

    height, width = image.shape[:2]
    if max(height, width) > _OPENCV_LIMIT:
        raise ValueError(f"{method!r} takes sides up to {_OPENCV_LIMIT} px, got {width}x{height}; 'cmtf' any")
    x, y = np.empty((2, height, width), np.float32)
    np.add(flow[..., 0], np.arange(width), out=x)
    np.add(flow[..., 1], np.arange(height)[:, None], out=y)
    # From 8 px outside on all taps lie on the edge; OpenCV wraps positions that leave its integers.
    np.clip(x, -8, width + 7, out=x)
    np.clip(y, -8, height + 7, out=y)
    mode = {"cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4, "linear": cv2.INTER_LINEAR}[method]
    cv2.remap(image, x, y, mode, dst=out, borderMode=cv2.BORDER_REPLICATE)


def _constant_mtf(image: np.ndarray, flow: np.ndarray, method: WarpMethod, out: np.ndarray) -> None:
    """Resample with the kernel for this method and number of channels."""
    channels = 3 if image.ndim == 3 else 1
    table, spread = _kernel_tables(method == "cmtf-matched", channels)
    gather = _gather(table.shape[1], channels)
    gather(image.reshape(-1), flow, table, spread, out.reshape(*image.shape[:2], channels))


@lru_cache
def _kernel_tables(matched: bool, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 taps (phases + 1, taps), and the same per channel, (phases + 1, channels, taps * channels).

    `spread[:, c]` holds zeros at the other channels' places in a row of interleaved pixels.
    """
    table = taps_table(MATCHED_TAPS, pass_band=0.36, matched=True) if matched else taps_table()
    spread = np.zeros((len(table), channels, table.shape[1] * channels))
    for channel in range(channels):
        spread[:, channel, channel::channels] = table
    return _frozen(table), _frozen(spread)


@kernel()
def _split(place: int, shift: float, size: int) -> tuple[int, float]:
    """Whole and fractional part of a position, which is kept in the frame.

    In float64: a float32 position beyond 2000 has only 1e-4 px left.
    """
    position = min(max(place + np.float64(shift), 0.0), size - 1.0)
    whole = int(position)
    return whole, position - whole


@lru_cache
def _gather(taps: int, channels: int) -> Callable[..., None]:
    """Compile the separable gather for a tap count and 1 or 3 channels.

    Both are constants of the kernel, so that the compiler unrolls the rows and vectorises along the contiguous
    taps * channels floats of each; numba's disk cache tells the kernels apart by them.
    """
    lanes = taps * channels
    before = taps // 2 - 1

    # "reassoc" lets the sum over the lanes be vectorised, "contract" lets products and sums fuse. The order is
    # fixed at compile time and pixels are independent: results do not depend on the number of threads.
    @kernel(parallel=True, fastmath={"contract", "reassoc"})
    def gather(
        source: np.ndarray, flow: np.ndarray, table: np.ndarray, spread: np.ndarray, out: np.ndarray
    ) -> None:
        height, width = out.shape[:2]
        phases = table.shape[0] - 1
        for strip in numba.prange((height + 1) // 2):
            patch = np.empty(taps * lanes, np.float32)
            upper = 2 * strip
            lower = upper + 1
            for x in range(width):
                # Two pixels one above the other share all rows but one where the flow is smooth, which is nearly
                # everywhere: together they take a fifth less than one by one.
                if lower < height:
                    ix, fx = _split(x, flow[upper, x, 0], width)
                    iy, fy = _split(upper, flow[upper, x, 1], height)
                    kx, gx = _split(x, flow[lower, x, 0], width)
                    ky, gy = _split(lower, flow[lower, x, 1], height)
                    left, top = ix - before, iy - before
                    inside = left >= 0 and top >= 0 and left + taps <= width and top + taps < height
                    if inside and kx == ix and ky == iy + 1:
                        jx, jy, lx, ly = int(fx * phases), int(fy * phases), int(gx * phases), int(gy * phases)
                        wx, wy = np.float32(fx * phases - jx), np.float32(fy * phases - jy)
                        vx, vy = np.float32(gx * phases - lx), np.float32(gy * phases - ly)
                        start, stride = np.uint64((top * width + left) * channels), np.uint64(width * channels)
                        a1 = a2 = a3 = b1 = b2 = b3 = np.float32(0)
                        for j in range(lanes):
                            a = b = np.float32(0)
                            for r in range(taps + 1):
                                value = source[start + np.uint64(j) + stride * np.uint64(r)]
                                if r < taps:
                                    a += (table[jy, r] + wy * (table[jy + 1, r] - table[jy, r])) * value
                                if r > 0:
                                    b += (table[ly, r - 1] + vy * (table[ly + 1, r - 1] - table[ly, r - 1])) * value
                            a1 += a * (spread[jx, 0, j] + wx * (spread[jx + 1, 0, j] - spread[jx, 0, j]))
                            b1 += b * (spread[lx, 0, j] + vx * (spread[lx + 1, 0, j] - spread[lx, 0, j]))
                            if channels == 3:
                                a2 += a * (spread[jx, 1, j] + wx * (spread[jx + 1, 1, j] - spread[jx, 1, j]))
                                a3 += a * (spread[jx, 2, j] + wx * (spread[jx + 1, 2, j] - spread[jx, 2, j]))
                                b2 += b * (spread[lx, 1, j] + vx * (spread[lx + 1, 1, j] - spread[lx, 1, j]))
                                b3 += b * (spread[lx, 2, j] + vx * (spread[lx + 1, 2, j] - spread[lx, 2, j]))
                        out[upper, x, 0], out[lower, x, 0] = a1, b1
                        if channels == 3:
                            out[upper, x, 1], out[lower, x, 1] = a2, b2
                            out[upper, x, 2], out[lower, x, 2] = a3, b3
                        continue
                for y in range(upper, min(lower + 1, height)):
                    ix, fx = _split(x, flow[y, x, 0], width)
                    iy, fy = _split(y, flow[y, x, 1], height)
                    jx, jy = int(fx * phases), int(fy * phases)
                    wx, wy = np.float32(fx * phases - jx), np.float32(fy * phases - jy)
                    left, top = ix - before, iy - before
                    # Unsigned indices need no test for negative ones, which would keep loads from being vectors.
                    if left >= 0 and top >= 0 and left + taps <= width and top + taps <= height:
                        pixels = source
                        start, stride = np.uint64((top * width + left) * channels), np.uint64(width * channels)
                    else:
                        # Not a function of its own: handing over `patch` costs every pixel a sixth more.
                        for r in range(taps):
                            row = min(max(top + r, 0), height - 1)
                            for k in range(taps):
                                column = min(max(left + k, 0), width - 1)
                                for c in range(channels):
                                    patch[r * lanes + k * channels + c] = source[
                                        (row * width + column) * channels + c
                                    ]
                        pixels = patch
                        start, stride = np.uint64(0), np.uint64(lanes)
                    first = second = third = np.float32(0)
                    for j in range(lanes):
                        total = np.float32(0)
                        for r in range(taps):
                            weight = table[jy, r] + wy * (table[jy + 1, r] - table[jy, r])
                            total += weight * pixels[start + np.uint64(j) + stride * np.uint64(r)]
                        first += total * (spread[jx, 0, j] + wx * (spread[jx + 1, 0, j] - spread[jx, 0, j]))
                        if channels == 3:
                            second += total * (spread[jx, 1, j] + wx * (spread[jx + 1, 1, j] - spread[jx, 1, j]))
                            third += total * (spread[jx, 2, j] + wx * (spread[jx + 1, 2, j] - spread[jx, 2, j]))
                    out[y, x, 0] = first
                    if channels == 3:
                        out[y, x, 1] = second
                        out[y, x, 2] = third

    return gather


@kernel(parallel=True)
def _clamp(image: np.ndarray, flow: np.ndarray, out: np.ndarray) -> None:
    """Limit `out` in place to the range of the 4 x 4 pixels of `image` around each position."""
    height, width, channels = image.shape
    for y in numba.prange(height):
        for x in range(width):
            ix, _ = _split(x, flow[y, x, 0], width)
            iy, _ = _split(y, flow[y, x, 1], height)
            for c in range(channels):
                low = high = image[iy, ix, c]
                # Constant ranges are unrolled; clipped to the frame they would take half as long again.
                for r in range(-1, 3):
                    row = min(max(iy + r, 0), height - 1)
                    for k in range(-1, 3):
                        value = image[row, min(max(ix + k, 0), width - 1), c]
                        low, high = min(low, value), max(high, value)
                out[y, x, c] = min(max(out[y, x, c], low), high)
