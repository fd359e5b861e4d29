"""Speed of relo's warp against cv2.remap, and how true its interpolators are.

    python benchmarks/warp.py [--json]

One thread each; the median of the ratios of alternating runs along a smooth flow. cv2.remap gets its maps ready
made, warp makes its positions itself. The rest does not depend on the machine: spread of the MTF over the phases
and error of the shift up to 0.35 cycles/px, noise gain (largest over smallest), and what a shift of a photograph
by 15/32 px and back costs, relative to Keys' cubic.
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numba
import numpy as np
from skimage import data

from relo.postprocess.resample import MATCHED_TAPS, WarpMethod, taps_table, warp

SHAPE = (1436, 2152)
WAYS: dict[str, tuple[WarpMethod, bool]] = {
    "cmtf": ("cmtf", False),
    "cmtf, clamped": ("cmtf", True),
    "cmtf-matched": ("cmtf-matched", False),
    "cmtf-matched, clamped": ("cmtf-matched", True),
}
REFERENCES = {"lanczos": cv2.INTER_LANCZOS4, "cubic": cv2.INTER_CUBIC}


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median times [s], and time relative to the references, for three channels of `SHAPE`."""
    image = np.random.default_rng(0).random((*SHAPE, 3), dtype=np.float32)
    y, x = np.indices(SHAPE, np.float32)
    flow = np.stack([3 + 2 * np.sin(x / 300 + y / 200), 1.5 * np.cos(y / 250 - x / 400) - 2], axis=-1)
    x, y = x + flow[..., 0], y + flow[..., 1]
    for method, clamp in WAYS.values():
        warp(image[:32, :32], flow[:32, :32], method=method, clamp=clamp)  # compile
    times: dict[str, list[float]] = {name: [] for name in (*WAYS, *REFERENCES)}
    for _ in range(runs):
        for name, mode in REFERENCES.items():
            start = time.perf_counter()
            cv2.remap(image, x, y, mode, borderMode=cv2.BORDER_REPLICATE)
            times[name].append(time.perf_counter() - start)
        for name, (method, clamp) in WAYS.items():
            start = time.perf_counter()
            warp(image, flow, method=method, clamp=clamp)
            times[name].append(time.perf_counter() - start)
    figures = {}
    for name, own in times.items():
        figures[name] = {"seconds": float(np.median(own))}
        for reference in REFERENCES:
            figures[name][f"to_{reference}"] = float(np.median(np.array(own) / np.array(times[reference])))
    return figures


def keys_table(phases: int = 64) -> np.ndarray:
    """Taps of the cubic convolution of Keys (1981), a = -0.5, at offsets -1..2: (phases + 1, 4)."""
    s = np.abs(np.arange(-1, 3) - np.arange(phases + 1)[:, None] / phases)
    return np.where(s <= 1, 1.5 * s**3 - 2.5 * s**2 + 1, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2)


def quality(table: np.ndarray) -> dict[str, float]:
    """Spread of the MTF, largest error of the shift [px], ratio of the noise gains."""
    taps = table.shape[1]
    frequency = np.linspace(0.005, 0.35, 200)
    offsets = np.arange(taps) - (taps // 2 - 1) - np.linspace(0, 1, len(table))[:, None]
    response = np.einsum("pk,pkf->pf", table, np.exp(2j * np.pi * offsets[..., None] * frequency))
    gain = (table**2).sum(axis=1)
    return {
        "mtf_spread": float(np.ptp(np.abs(response), axis=0).max()),
        "shift_error_px": float(np.abs(np.angle(response) / (2 * np.pi * frequency)).max()),
        "noise_gain_ratio": float(gain.max() / gain.min()),
    }


def keys_shift(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Shift along both axes, wrapping round: the border is not looked at."""
    for axis in (0, 1):
        image = sum(tap * np.roll(image, 1 - k, axis) for k, tap in enumerate(taps))
    return image


def round_trips() -> dict[str, float]:
    """RMS error of a shift by (15/32, 15/32) px and back, relative to Keys' cubic."""
    image = data.camera().astype(np.float32)
    flow = np.full((*image.shape, 2), 15 / 32, np.float32)

    def error(result: np.ndarray) -> float:
        return float(np.sqrt(((result - image)[32:-32, 32:-32] ** 2).mean()))

    taps = keys_table(32)
    # The way back from phase 15/32 is phase 17/32 one pixel earlier.
    reference = error(np.roll(keys_shift(keys_shift(image, taps[15]), taps[17]), 1, (0, 1)))
    figures = {}
    for name, (method, clamp) in WAYS.items():
        there = warp(image, flow, method=method, clamp=clamp)
        figures[name] = error(warp(there, -flow, method=method, clamp=clamp)) / reference
    return figures


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numba.set_num_threads(1)
    cv2.setNumThreads(1)
    tables = {
        "cmtf": taps_table(),
        "cmtf-matched": taps_table(MATCHED_TAPS, pass_band=0.36, matched=True),
        "Keys": keys_table(),
    }
    speed = measure(options.runs)
    qualities = {name: quality(table) for name, table in tables.items()}
    trips = round_trips()
    if options.json:
        print(json.dumps({"speed": speed, "quality": qualities, "round_trip": trips}))
        return
    print(f"{SHAPE[1]}x{SHAPE[0]}x3, time relative to cv2.remap's:")
    for name, row in speed.items():
        print(f"  {name:22} {row['seconds']:.3f} s, {row['to_lanczos']:.2f} Lanczos4, {row['to_cubic']:.2f} cubic")
    print("MTF spread, error of the shift, noise gain ratio:")
    for name, row in qualities.items():
        print(f"  {name:22} {row['mtf_spread']:.4f}, {row['shift_error_px']:.4f} px, {row['noise_gain_ratio']:.3f}")
    print("Error of a shift by 15/32 px and back, relative to Keys' cubic:")
    for name, ratio in trips.items():
        print(f"  {name:22} {ratio:.2f}")


if __name__ == "__main__":
    main()
