"""Steps a second of the trainer beside a bare PyTorch loop with the same network, loss, optimiser and patches.

    python benchmarks/trainer_overhead.py [--recipe lbag-tiny] [--steps 60] [--rounds 5] [--device cpu] [--json]

The bare loop has its patches in memory and does nothing but forward pass, loss, backward pass, Adam and the decay
of its rate. Beside it, in turns and in one process:

memory      relo's trainer, callbacks and logging through Lightning, patches in memory as well
shards      `relo.training.train` with patches from shards, decoded between the steps (workers=0)
worker      the same with one loader process (workers=1)

The shards are four simulated scenes of noise with a blurred square, 718 x 539 pixels. Start-up, the first step,
validation and saving are not counted; a line is logged every `log_every` steps of the recipe. Of each the median of
the rounds' ratios is given, and their range. `--threads 1` is the setting of the recipes for CPUs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from relo.atomic import file_sha256
from relo.models import create_model
from relo.shards import ShardWriter, open_dataset
from relo.training import load_recipe, train
from relo.training.data import EndlessBatches, Patches, to_float
from relo.training.losses import total_loss
from relo.training.recipe import Recipe
from relo.training.run.distributed import Processes
from relo.training.run.folder import RunFolder
from relo.training.run.loss_log import LossLog
from relo.training.run.optimisation import RestorationTraining, lightning_trainer

SIZE = (539, 718)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="lbag-tiny")
    parser.add_argument("--steps", type=int, default=60, help="of each run, the first one not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    endless = 1_000_000_000
    settings = [
        *(f"steps={options.steps}", f"threads={options.threads}", f"device={options.device}", "workers=0"),
        *("val_fraction=0", f"val_every={endless}", f"checkpoint_every={endless}"),
    ]
    recipe = load_recipe(options.recipe, settings)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_shards(root / "shards")
        batches = patches_in_memory(root / "shards", recipe)
        ways: dict[str, Callable[[Path], float]] = {
            "memory": lambda out: through_lightning(recipe, batches, out),
            "shards": lambda out: train(recipe, root / "shards", out).steps_per_second,
            "worker": lambda out: (
                train(recipe.model_copy(update={"workers": 1}), root / "shards", out).steps_per_second
            ),
        }
        bare_loop(recipe, batches)  # to warm up
        bare: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.rounds):
            for name, way in ways.items():
                # Before and after, so that a machine that gets slower or faster meanwhile does not decide.
                before = bare_loop(recipe, batches)
                rate = way(root / f"{name}-{turn}")
                after = bare_loop(recipe, batches)
                bare += [before, after]
                rates[name].append(rate / statistics.mean((before, after)))
    report = {
        "recipe": recipe.name,
        "device": options.device,
        "bare_steps_per_second": round(statistics.median(bare), 2),
        "ratios": {
            name: {
                "median": round(statistics.median(values), 3),
                "range": [round(min(values), 3), round(max(values), 3)],
            }
            for name, values in rates.items()
        },
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"{recipe.name} on {options.device}: a bare loop does {report['bare_steps_per_second']} steps a second")
    for name, ratio in report["ratios"].items():  # type: ignore[attr-defined]
        low, high = ratio["range"]
        print(f"{name:8} {ratio['median']:.3f} of it  ({low:.3f} to {high:.3f})")


def bare_loop(recipe: Recipe, batches: list[Any]) -> float:
    """Steps a second without any of relo's trainer."""
    torch.manual_seed(recipe.seed)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = create_model(recipe.model.name, **recipe.model.options).to(recipe.device)
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones), recipe.gamma)
    begun = 0.0
    for step, batch in enumerate(batches):
        if step == 1:
            begun = now(recipe)
        images = to_float({name: on_device(value, recipe) for name, value in batch.items()})  # type: ignore[arg-type]
        optimizer.zero_grad()
        restored = model(images["blur"].contiguous(memory_format=layout))
        loss = total_loss(restored, images["sharp"], images["mask"], recipe.loss)["total"]
        loss.backward()
        optimizer.step()
        scheduler.step()
    return (len(batches) - 1) / (now(recipe) - begun)


def through_lightning(recipe: Recipe, batches: list[Any], out: Path) -> float:
    """Steps a second of what `train` gives to Lightning."""
    out.mkdir()
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **recipe.model.options)
    losses = LossLog(Processes())
    folder = RunFolder(out, recipe, {}, losses, None, Processes(), None)
    with folder.open(), lightning_trainer(recipe, recipe.device, out, folder, Processes()) as trainer:
        trainer.fit(RestorationTraining(model, recipe, losses), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return folder.steps_per_second


def patches_in_memory(shards: Path, recipe: Recipe) -> list[Any]:
    """Batches that `train` would draw, collated."""
    patches = Patches(open_dataset(shards), recipe)
    draws = islice(EndlessBatches(len(patches), recipe.batch, recipe.seed), recipe.steps)
    return [default_collate([patches[draw] for draw in batch]) for batch in draws]


def on_device(value: Any, recipe: Recipe) -> Any:
    return value.to(recipe.device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def now(recipe: Recipe) -> float:
    if recipe.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def write_shards(root: Path) -> None:
    """Four scenes of four pairs: noise with a square that is smeared sideways."""
    root.mkdir()
    entries = []
    for scene in range(4):
        rng = np.random.default_rng(scene)
        path = root / f"scene_{scene}-000.h5"
        with ShardWriter(path, size=SIZE, scene=f"scene_{scene}", split="train") as writer:
            for pair in range(4):
                sharp = rng.integers(0, 255, (*SIZE, 3), np.uint8)
                mask = np.zeros(SIZE, np.uint8)
                mask[200:380, 250:430] = 255
                smeared = np.mean([np.roll(sharp, shift, axis=1) for shift in range(-8, 9)], axis=0).astype(
                    np.uint8
                )
                blur = np.where(mask[..., None] > 0, smeared, sharp)
                writer.append(f"{pair:04d}", blur=blur, sharp=sharp, mask=mask)
        entries.append({"file": path.name, "sha256": file_sha256(path)})
    (root / "dataset.json").write_text(json.dumps({"format": "relo-dataset", "version": 1, "shards": entries}))


if __name__ == "__main__":
    main()
