"""Accuracy and speed of the flow methods on pairs whose flow is known.

    python benchmarks/flow.py [--seeds N] [--skip-large] [--json]

The pairs are "dead leaves": discs of all sizes and colours, drawn at twice the resolution and sampled by cubic
spline. Camera B is turned by 0.1 degree, scaled by 1.001, tilted a little, distorted (k1 = 1.2e-3) and shifted by
(2.37, -1.83) px, and 5 % brighter; both have noise of 0.01 and 8 bits. With parallax a large ellipse in the middle
lies 0.8 px off, with a hard edge or a soft one. Errors are end-point errors without a border of 16 px, means over
the seeds. Seconds are CPU seconds, medians over runs and seeds, after everything has been compiled. OpenCV's DIS
and DeepFlow stand by as references.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from relo.postprocess.flow.auto import FlowConfig, FlowMethod, fit_flow
from relo.postprocess.isp import grey

BORDER = 16
MARGIN = 16
PARALLAX = (0.64, 0.48)

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Case(NamedTuple):
    """Size of the frames, and softness of the foreground's edge, in its radii; None without parallax."""

    width: int
    height: int
    edge: float | None

    @property
    def name(self) -> str:
        """What it is called in the table."""
        kind = "coaxial" if self.edge is None else f"0.8 px parallax, {'soft' if self.edge else 'hard'} edge"
        return f"{self.width}x{self.height} {kind}"


SMALL = (Case(538, 359, None), Case(538, 359, 0.0), Case(538, 359, 0.25))
LARGE = Case(2152, 1436, None)


def dead_leaves(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) float32 picture of discs; their radii have a density of r^-3."""
    image = np.full((height, width, 3), 0.5, np.float32)
    count = height * width // 120
    radii = np.clip(3 / np.sqrt(rng.random(count) + 1e-4), 2, 0.25 * width)
    for radius in radii:
        centre = int(rng.integers(width) * 16), int(rng.integers(height) * 16)  # in sixteenths of a pixel
        colour = tuple(float(value) for value in rng.uniform(0.08, 0.9, 3))
        cv2.circle(image, centre, int(radius * 16), colour, -1, cv2.LINE_8, 4)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.8))


def true_flow(case: Case) -> np.ndarray:
    """(H, W, 2) float64 [px]: `target[y, x]` shows what `moving[y + dy, x + dx]` shows."""
    rows, columns = np.indices((case.height, case.width), np.float64)
    x, y = columns - (case.width - 1) / 2, rows - (case.height - 1) / 2
    u, v = x / (case.width / 2), y / (case.height / 2)
    angle = np.deg2rad(0.1)
    factor = 1.001 * (1 + 1.2e-3 * (u * u + v * v)) / (1 + 1e-4 * u - 1.5e-4 * v)
    dx = factor * (np.cos(angle) * x - np.sin(angle) * y) - x + 2.37
    dy = factor * (np.sin(angle) * x + np.cos(angle) * y) - y - 1.83
    if case.edge is not None:
        distance = np.hypot(x / (0.28 * case.width), (rows - 0.52 * case.height) / (0.3 * case.height))
        inside = 0.5 - 0.5 * np.tanh((distance - 1) / case.edge) if case.edge else (distance < 1).astype(float)
        dx, dy = dx + PARALLAX[0] * inside, dy + PARALLAX[1] * inside
    return np.stack([dx, dy], axis=-1)


def make_pair(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a pair.

    Returns
    -------
    target, moving : (H, W, 3) float32 arrays
        Multiples of 1 / 255.
    flow : (H, W, 2) float64 array
    """
    rng = np.random.default_rng(seed)
    canvas = dead_leaves(2 * (case.height + 2 * MARGIN), 2 * (case.width + 2 * MARGIN), rng)
    splines = [ndimage.spline_filter(canvas[..., channel], order=3, mode="mirror") for channel in range(3)]
    rows, columns = np.indices((case.height, case.width), np.float64)
    flow = true_flow(case)

    def seen(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Mean of four points in each pixel; pixel 0 covers the canvas' pixels 0 and 1 beyond the margin."""
        image = np.zeros((case.height, case.width, 3))
        for right in (-0.25, 0.25):
            for down in (-0.25, 0.25):
                place = [2 * (y + down + MARGIN) + 0.5, 2 * (x + right + MARGIN) + 0.5]
                for channel, spline in enumerate(splines):
                    image[..., channel] += ndimage.map_coordinates(
                        spline, place, order=3, mode="mirror", prefilter=False
                    )
        return image / 4

    def recorded(image: np.ndarray) -> np.ndarray:
        noisy = np.clip(image + rng.normal(0, 0.01, image.shape), 0, 1)
        return np.rint(noisy * 255).astype(np.float32) / np.float32(255)

    target, moving = seen(columns + flow[..., 0], rows + flow[..., 1]), 1.05 * seen(columns, rows)
    return recorded(target), recorded(moving), flow


def dis(target: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """OpenCV's dense inverse search, preset "medium"."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(*_matched_bytes(target, moving), np.zeros((*target.shape[:2], 2), np.float32)))


def deep_flow(target: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """OpenCV's DeepFlow."""
    search = cv2.optflow.createOptFlow_DeepFlow()
    return np.asarray(search.calc(*_matched_bytes(target, moving), np.zeros((*target.shape[:2], 2), np.float32)))


def _matched_bytes(target: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both want grey bytes, of equal brightness."""
    first, second = grey(target), grey(moving)
    second = np.clip(second * (first.mean() / second.mean()), 0, 1)
    return np.rint(first * 255).astype(np.uint8), np.rint(second * 255).astype(np.uint8)


def relo_method(method: FlowMethod) -> Method:
    """One of relo's methods, gain matching included.

    The dense method runs astray on a few pixels of some seeds, which `FlowConfig.limit` would refuse.
    """
    config = FlowConfig(method=method, limit=0.5)
    return lambda target, moving: fit_flow(target, moving, config).dense()


RELO_METHODS: tuple[FlowMethod, ...] = ("auto", "parametric", "coarse2fine")
RELO: dict[str, Method] = {method: relo_method(method) for method in RELO_METHODS}
REFERENCES: dict[str, Method] = {"OpenCV DIS": dis, "OpenCV DeepFlow": deep_flow}


def measure(case: Case, methods: dict[str, Method], seeds: int) -> dict[str, dict[str, float]]:
    """Errors [px] and CPU seconds of each method."""
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    for seed in range(seeds):
        target, moving, truth = make_pair(case, seed)
        for name, method in methods.items():
            seconds: list[float] = []
            while sum(seconds) < 3:
                start = time.process_time()
                flow = method(target, moving)
                seconds.append(time.process_time() - start)
            error = np.hypot(*np.moveaxis(flow - truth, -1, 0))[BORDER:-BORDER, BORDER:-BORDER]
            runs[name].append((float(error.mean()), float(np.percentile(error, 95)), float(np.median(seconds))))
            print(f"{case.name}, seed {seed}, {name}: {np.median(seconds):.2f} s", file=sys.stderr)
    figures = {}
    for name, rows in runs.items():
        means, tails, times = np.array(rows).T
        figures[name] = {
            "mean_px": float(means.mean()),
            "worst_mean_px": float(means.max()),
            "p95_px": float(tails.mean()),
            "cpu_s": float(np.median(times)),
        }
    return figures


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="pairs a case; 3 at 538x359, 1 at 2152x1436 if not given")
    parser.add_argument("--skip-large", action="store_true", help="leave 2152x1436 out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    target, moving, _ = make_pair(SMALL[1], 1000)
    for method in RELO.values():
        method(target, moving)  # compile; the parallax takes "auto" through all of its code
    figures: dict[str, Any] = {case.name: measure(case, RELO | REFERENCES, options.seeds or 3) for case in SMALL}
    if not options.skip_large:
        large = measure(LARGE, RELO, options.seeds or 1)
        figures[LARGE.name] = large
        figures["cpu_coarse2fine_to_auto"] = large["coarse2fine"]["cpu_s"] / large["auto"]["cpu_s"]
    if options.json:
        print(json.dumps(figures))
        return
    for case in (*SMALL, LARGE):
        if case.name not in figures:
            continue
        print(f"{case.name}: end-point error [px] mean, worst seed's mean, 95th percentile; CPU seconds")
        for name, row in figures[case.name].items():
            errors = f"{row['mean_px']:.4f}, {row['worst_mean_px']:.4f}, {row['p95_px']:.4f}"
            print(f"  {name:16} {errors}; {row['cpu_s']:.2f} s")
    if not options.skip_large:
        print(f"coarse2fine takes {figures['cpu_coarse2fine_to_auto']:.0f} times auto's CPU seconds at that size")


if __name__ == "__main__":
    main()
