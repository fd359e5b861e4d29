"""How well blur masks find what moved, and what they cost.

    python benchmarks/masks.py [--seed N] [--json]

Simulated scenes of three kinds at 538x359: objects scattered over the frame, staying in one area, crossing the
border. relo processes each with 20 pairs; masks of its first 3, 5, 10 and 20 pairs are compared with the truth,
made without the static pair by every method of relo and by OpenCV's MOG2 with its own settings and no clean-up.
Mean over the pairs of IoU, precision and recall within the valid area. A scene without motion gives the largest
share of false mask. Times: CPU seconds a frame of 2152x1436, one thread, reading not included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from relo.capture.simulator import SimulationConfig, simulate_session
from relo.masks.config import MaskConfig
from relo.masks.lbfmg import PLAIN_MOG2
from relo.masks.scene import scene_masks
from relo.shards import ProcessConfig, open_dataset, process_session

KINDS: dict[str, dict[str, Any]] = {
    "scattered": {},
    "one area": {"same_area": True},
    "border crossers": {"cross_border": True},
}
COUNTS = (3, 5, 10, 20)
METHODS = {
    "fused": MaskConfig(),
    "pair": MaskConfig(method="pair"),
    "lbfmg": MaskConfig(method="lbfmg"),
    "plain MOG2": MaskConfig(method="lbfmg", **PLAIN_MOG2),
}
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def process(folder: Path, **options: Any) -> Path:
    """Simulate one scene and process it: folder with `session` and `shards`."""
    simulate_session(folder / "session", SimulationConfig(width=538, height=359, scenes=1, **options))
    if options.get("pairs") == 1:
        scene = folder / "session" / "scenes" / "scene_00"
        for camera in "BS":  # a scene in which nothing moves
            shutil.copy(scene / f"static_{camera}.dng", scene / f"0000_{camera}.dng")
    process_session(folder / "session", folder / "shards", config=ProcessConfig(short={"enabled": False}))
    return folder


def load(folder: Path) -> tuple[list[Pair], np.ndarray]:
    """(blurred, sharp, truth) of every pair, and the valid area."""
    dataset = open_dataset(folder / "shards")
    with h5py.File(folder / "session" / "truth.h5") as truth:
        group = truth["scenes/scene_00/pairs"]
        pairs = [(sample.blur, sample.sharp, group[sample.id]["mask"][()] > 0) for sample in dataset]
    return pairs, dataset[0].valid


def score(pairs: list[Pair], valid: np.ndarray, config: MaskConfig) -> tuple[float, float, float]:
    """Mean IoU, precision and recall."""
    figures = []
    for index, found in scene_masks(range(len(pairs)), lambda number: pairs[number][:2], config, valid=valid):
        mask, truth = (found.mask > 0) & (valid > 0), pairs[index][2] & (valid > 0)
        both = np.count_nonzero(mask & truth)
        sizes = np.count_nonzero(mask | truth), np.count_nonzero(mask), np.count_nonzero(truth)
        figures.append([both / max(size, 1) for size in sizes])
    iou, precision, recall = np.mean(figures, axis=0).tolist()
    return iou, precision, recall


def seconds(pairs: list[Pair], config: MaskConfig) -> float:
    """CPU seconds a pair, of ten pairs enlarged to 2152 columns."""
    large = [tuple(cv2.resize(frame, (2152, 1436)) for frame in pair[:2]) for pair in pairs[:10]]
    start = time.process_time()
    for _ in scene_masks(range(len(large)), lambda number: (large[number][0], large[number][1]), config):
        pass
    return (time.process_time() - start) / len(large)


def measure(seed: int, folder: Path) -> dict[str, Any]:
    """Everything that is printed."""
    table: dict[str, dict[str, Any]] = {}
    for number, (kind, options) in enumerate(KINDS.items()):
        pairs, valid = load(process(folder / f"{number}", seed=seed, pairs=max(COUNTS), **options))
        for count in COUNTS:
            row = {name: score(pairs[:count], valid, config) for name, config in METHODS.items()}
            table[f"{kind}, {count} pairs"] = row
    still = open_dataset(process(folder / "still", seed=seed, pairs=1) / "shards")
    return {
        "seed": seed,
        "iou_precision_recall": table,
        "false_mask_of_a_still_scene": float(max((sample.mask > 0).mean() for sample in still)),
        "cpu_s_per_frame": {name: seconds(pairs, config) for name, config in METHODS.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.seed, Path(folder))
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"seed {arguments.seed}, load average {os.getloadavg()[0]:.1f}; IoU (precision, recall)")
    print(f"{'':28}" + "".join(f"{name:>22}" for name in METHODS))
    for case, row in figures["iou_precision_recall"].items():
        print(
            f"{case:28}"
            + "".join(f"{row[name][0]:9.3f} ({row[name][1]:.2f}, {row[name][2]:.2f})" for name in METHODS)
        )
    print(
        f"{'CPU s a frame of 2152x1436':28}"
        + "".join(f"{value:22.3f}" for value in figures["cpu_s_per_frame"].values())
    )
    print(f"largest false mask of a still scene: {100 * figures['false_mask_of_a_still_scene']:.3f} %")


if __name__ == "__main__":
    main()
