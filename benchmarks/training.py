"""What the tiny recipes learn on simulated pairs in minutes; on a GPU also the speed and memory of full-size LBAG.

    python benchmarks/training.py [--out DIR] [--recipes lbag-tiny mimo_unet-tiny] [--json]

Simulates the preset "bench" (seeded), processes it with the last quarter of its scenes as test split, trains each
recipe on the CPU and scores input and output on the test split. Whatever DIR holds already is used again, so that a
stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from relo.capture.simulator import PRESETS, SimulationConfig, simulate_session
from relo.config import load_config
from relo.models import create_model
from relo.shards import ProcessConfig, open_dataset, process_session
from relo.training import evaluate, load_recipe, train
from relo.training.losses import total_loss

RECIPES = ("lbag-tiny", "mimo_unet-tiny")
SHOWN = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "psnr_w": "PSNR_w [dB]",
    "ssim_w": "SSIM_w",
    "psnr_static": "PSNR, static area [dB]",
}


def bench_shards(out: Path) -> Path:
    """Simulate and process the preset, unless `out` holds it."""
    config = load_config(SimulationConfig, PRESETS["bench"])
    if not (out / "session").exists():
        simulate_session(out / "session", config)
    test = [f"scene_{number:02d}" for number in range(config.scenes - config.scenes // 4, config.scenes)]
    process_session(out / "session", out / "shards", ProcessConfig(split={"test": test}))
    return out / "shards"


def train_and_score(recipe: str, shards: Path, run: Path) -> dict[str, Any]:
    """Means over the test split, mask IoU where there is one, minutes of training."""
    result = train(load_recipe(recipe, ["device=cpu"]), shards, run, resume=True)
    scores = evaluate(run, shards, device="cpu")
    record = run / "minutes.json"
    minutes = result.steps / result.steps_per_second / 60
    if result.steps_per_second == result.steps_per_second:
        record.write_text(json.dumps(minutes))
    else:  # trained by an earlier call
        minutes = json.loads(record.read_text()) if record.is_file() else float("nan")
    return {"minutes": minutes, "images": len(scores.rows), **scores.overall}


def full_size(seconds: float = 20.0) -> list[dict[str, Any]]:
    """Steps a second and peak memory of LBAG as published (batch 12, 256 px) on the GPU."""
    recipe = load_recipe("lbag")
    rows = []
    for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True)):
        torch.manual_seed(0)
        torch.cuda.reset_peak_memory_stats()
        model = create_model(recipe.model.name, **recipe.model.options).cuda()
        if compiled:
            model.compile()
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
        blur, sharp = torch.rand(2, recipe.batch, 3, recipe.crop, recipe.crop, device="cuda")
        mask = (torch.rand(recipe.batch, 1, recipe.crop, recipe.crop, device="cuda") > 0.9).float()

        def step(
            model: torch.nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            batch: tuple[torch.Tensor, ...] = (blur, sharp, mask),
            bf16: bool = precision == "bf16",
        ) -> None:
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                restored = model(batch[0])
            optimizer.zero_grad()
            total_loss(restored.to(torch.float32), batch[1], batch[2], recipe.loss)["total"].backward()
            optimizer.step()

        for _ in range(3):
            step()
        torch.cuda.synchronize()
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            step()
            torch.cuda.synchronize()
            count += 1
        rows.append(
            {
                "precision": precision,
                "compile": compiled,
                "steps_per_second": count / (time.perf_counter() - begun),
                "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to work in and to keep [default: a temporary one]")
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        shards = bench_shards(out)
        dataset = open_dataset(shards)
        figures: dict[str, Any] = {"pairs": len(dataset), "recipes": {}}
        for recipe in options.recipes:
            print(f"training {recipe}", file=sys.stderr)
            figures["recipes"][recipe] = train_and_score(recipe, shards, out / f"run-{recipe}")
        if torch.cuda.is_available():
            figures["lbag_full_size"] = full_size()
    if options.json:
        print(json.dumps(figures))
        return
    for recipe, row in figures["recipes"].items():
        print(f"{recipe}: {row['minutes']:.1f} minutes, {row['images']} test images")
        print(f"{'':24}{'input':>10}{'output':>10}{'gain':>10}")
        for key, label in SHOWN.items():
            before, after = row[f"{key}_input"], row[f"{key}_output"]
            print(f"{label:24}{before:10.4f}{after:10.4f}{after - before:+10.4f}")
        if row.get("mask_iou") == row.get("mask_iou") and "mask_iou" in row:
            print(f"{'mask IoU':24}{'':10}{row['mask_iou']:10.4f}")
    for row in figures.get("lbag_full_size", []):
        name = row["precision"] + (" compiled" if row["compile"] else "")
        print(f"lbag, {name}: {row['steps_per_second']:.2f} steps a second, {row['peak_gb']:.1f} GB")


if __name__ == "__main__":
    main()
