"""How close `relo process` comes to the truth of a simulated session.

    python benchmarks/pipeline_accuracy.py --size 538x359 --seed 11
    python benchmarks/pipeline_accuracy.py --session s --shards s-shards --json

Without --session it simulates and processes a session in a temporary folder first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relo.capture import open_session
from relo.postprocess import demosaic_menon, develop
from relo.postprocess.polynomial import evaluate
from relo.shards import open_dataset

BORDER = 16


def measure(session_dir: Path, shards_dir: Path) -> dict[str, Any]:
    """Errors of each correction against truth.h5; see `main` for the units."""
    session, dataset = open_session(session_dir), open_dataset(shards_dir)
    figures: dict[str, Any] = {"scenes": {}}
    with h5py.File(session_dir / "truth.h5", "r") as truth:
        cast = {}
        for camera in ("B", "S"):
            true_alpha = truth[f"cameras/{camera}/alpha"][()]
            stored = dataset.shards[0].file[f"calibration/colour_{camera}"][()]
            ratio = evaluate(stored, true_alpha.shape[1:]) / true_alpha
            cast[camera] = [float(np.ptp(plane)) for plane in ratio]
        figures["cast_residual"] = cast
        true_gain = truth["cameras/B/gain"][()]
        for shard in dataset.shards:
            flow = truth[f"scenes/{shard.scene}/flow"][()]
            error = np.hypot(*np.moveaxis(shard.flow - flow, -1, 0))[BORDER:-BORDER, BORDER:-BORDER]
            gain = shard.file["calibration/gain"][()]
            overlap, before, after = [], [], []
            for index, pair_id in enumerate(shard.ids):
                true_mask = truth[f"scenes/{shard.scene}/pairs/{pair_id}/mask"][()] > 0
                mask = shard.file["mask"][index] > 0
                overlap.append(float((mask & true_mask).sum() / max(1, (mask | true_mask).sum())))
                static = ~true_mask & (shard.valid > 0)
                top = np.iinfo(shard.file["blur"].dtype).max
                after.append(_psnr(shard.file["blur"][index] / top, shard.file["sharp"][index] / top, static))
                scene = next(scene for scene in session.scenes if scene.name == shard.scene)
                pair = next(pair for pair in scene.pairs if pair.id == pair_id)
                frames = session.read_pair(pair)
                plain = [develop(demosaic_menon(f.normalised(), f.pattern), f.wb, f.colour_matrix) for f in frames]
                before.append(_psnr(*plain, static))
            figures["scenes"][shard.scene] = {
                "gain_error": float(np.abs(gain / true_gain - 1).max()),
                "flow_error_mean": float(error.mean()),
                "flow_error_p95": float(np.percentile(error, 95)),
                "flow_method": shard.flow_model.method,
                "mask_iou": overlap,
                "psnr_before": before,
                "psnr_after": after,
            }
    scenes = figures["scenes"].values()
    figures["summary"] = {
        "cast_residual_max": max(max(values) for values in figures["cast_residual"].values()),
        "gain_error_max": max(scene["gain_error"] for scene in scenes),
        "flow_error_mean_max": max(scene["flow_error_mean"] for scene in scenes),
        "mask_iou_mean": float(np.mean([value for scene in scenes for value in scene["mask_iou"]])),
        "psnr_gain_min": min(
            b - a for scene in scenes for a, b in zip(scene["psnr_before"], scene["psnr_after"], strict=True)
        ),
        "psnr_after_mean": float(np.mean([value for scene in scenes for value in scene["psnr_after"]])),
    }
    return figures


def _psnr(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> float:
    return float(-10 * np.log10(((first - second)[where] ** 2).mean()))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--session", type=Path)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--size", default="538x359")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--bits", type=int, default=14)
    parser.add_argument("--pattern", default="RGGB")
    parser.add_argument("--set", action="append", default=[], help="setting of the simulator")
    parser.add_argument("--process", action="append", default=[], help="setting of relo process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.session:
        figures = measure(options.session, options.shards or Path(f"{options.session}-shards"))
    else:
        from relo.capture import SimulationConfig, simulate_session
        from relo.config import apply_overrides
        from relo.shards import ProcessConfig, process_session

        width, height = map(int, options.size.split("x"))
        values = {
            "width": width, "height": height, "seed": options.seed, "scenes": options.scenes,
            "pairs": options.pairs, "bits": options.bits, "pattern": options.pattern,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            session = Path(folder) / "session"
            simulate_session(session, SimulationConfig(**apply_overrides(values, options.set)))
            process_session(session, config=ProcessConfig(**apply_overrides({}, options.process)))
            figures = measure(session, Path(f"{session}-shards"))
    if options.json:
        print(json.dumps(figures))
        return
    s = figures["summary"]
    print(f"colour cast left, peak to peak, worst channel   {100 * s['cast_residual_max']:.2f} %")
    print(f"gain error, worst channel and scene             {100 * s['gain_error_max']:.3f} %")
    print(f"flow error, mean, worst scene                   {s['flow_error_mean_max']:.4f} px")
    print(f"mask IoU, mean over pairs                       {s['mask_iou_mean']:.3f}")
    print(f"static PSNR gained over developed only, worst   {s['psnr_gain_min']:.1f} dB")
    print(f"static PSNR, mean                               {s['psnr_after_mean']:.1f} dB")


if __name__ == "__main__":
    main()
