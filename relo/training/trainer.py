"""Training: a recipe and a dataset in, a run folder out.

A run folder holds `recipe.yaml` (every setting), `run.json` (dataset, scenes, versions),
`metrics.jsonl` (one line per logged step), `last.ckpt` (for resuming) and `model.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from relo import __version__
from relo.atomic import file_sha256, write_text
from relo.config import build_config, read_yaml
from relo.errors import MissingExtraError, ReloError, TrainingError
from relo.models import create_model, load_weights
from relo.shards import Dataset, open_dataset
from relo.shards.memory import in_memory
from relo.shards.reader import read_index
from relo.shards.schema import DATASET_FILE
from relo.training.checkpoint import FILE_NAME
from relo.training.data import EndlessBatches, Groups, Patches, WholeImages, hold_out_scenes
from relo.training.recipe import Recipe, recipe_yaml, what_changes_the_result
from relo.training.run_files import LAST, METRICS, RECIPE, RUN


@dataclass(frozen=True)
class TrainingResult:
    """What a training run gave.

    Attributes
    ----------
    run : Path
        The run folder.
    checkpoint : Path
        Its model.safetensors.
    steps : int
        Optimiser steps in all, those before a resume included.
    steps_per_second : float
        Of this call, validation included; NaN if there was nothing left to do.
    loss : float
        Mean loss of the last logged interval; NaN likewise.
    validation : dict of str to float
        Last validation: psnr, psnr_w and the same of the input, in dB; empty if there was none.
    notes : tuple of str
        What the user should know, for example why nothing was validated.
    """

    run: Path
    checkpoint: Path
    steps: int
    steps_per_second: float
    loss: float
    validation: dict[str, float]
    notes: tuple[str, ...]


def train(
    recipe: Recipe,
    src: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> TrainingResult:
    """Train a model on the `train` split of a dataset.

    Stopping after n steps and resuming to m gives, on the CPU, the same bits as m steps straight: patches
    and dropout are decided by the seed and the step. The test split is never touched.

    Parameters
    ----------
    recipe : Recipe
    src : path
        Dataset folder or shard.
    out : path
        Run folder; must not hold a trained model yet unless `resume`.
    resume : bool
        Continue from `last.ckpt`; `steps` and settings that do not change the result may differ.
    progress : callable, optional
        Called with (steps done, steps in all, text on the loss).

    Returns
    -------
    TrainingResult

    Raises
    ------
    MissingExtraError
        lightning is not installed.
    TrainingError
        The folder holds another run, the dataset does not suit the recipe, or the loss became NaN.
    KeyboardInterrupt
        Ctrl-C; the step was finished and `last.ckpt` written first.
    """
    if importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("lightning", "train")
    from relo.training.optimisation import RestorationTraining, RunFolder, lightning_trainer

    out, dataset = Path(out), _training_split(src)
    part, held_out = hold_out_scenes(dataset, recipe.val_fraction, recipe.seed)
    notes = [] if held_out else ["nothing was validated: that needs val_fraction above 0 and two train scenes"]
    if recipe.cache_gb:
        part = in_memory(part, int(recipe.cache_gb * 1e9))
    patches = Patches(part, recipe)
    images = DataLoader(WholeImages(held_out, recipe.val_images)) if held_out else None
    record = _describe(dataset, part, held_out)
    start = _resume_step(out, recipe, record) if resume else _claim(out)
    if start >= recipe.steps:
        notes.append(f"nothing to do: the run has {start} steps already")
        return TrainingResult(out, out / FILE_NAME, start, math.nan, math.nan, {}, tuple(notes))
    groups = Groups.of(part, recipe.shards_at_once) if recipe.order == "scenes" else None
    batches = DataLoader(
        patches,
        batch_sampler=EndlessBatches(len(part), recipe.batch, recipe.seed, start, groups),
        num_workers=recipe.workers,
        pin_memory=torch.cuda.is_available() and recipe.device != "cpu",
    )
    folder = RunFolder(out, recipe, record, progress)
    with torch.random.fork_rng(devices=[]), _cpu_threads(recipe.threads):
        torch.manual_seed(recipe.seed)
        model = create_model(recipe.model.name, **recipe.model.options)
        if recipe.model.weights:
            fresh = load_weights(model, recipe.model.weights)
            notes += [f"{len(fresh)} tensors are not in the given weights and start untrained"] * bool(fresh)
        write_text(out / RECIPE, recipe_yaml(recipe))
        write_text(out / RUN, json.dumps(record, indent=2) + "\n")
        begun = time.monotonic()
        with lightning_trainer(recipe, out, folder, validate=images is not None) as trainer:
            try:
                trainer.fit(
                    RestorationTraining(model, recipe),
                    batches,
                    images,
                    ckpt_path=out / LAST if start else None,
                    weights_only=True,
                )
            except ReloError as error:
                raise _in_one_line(error) from error
        elapsed = time.monotonic() - begun
    if trainer.global_step < recipe.steps:
        raise KeyboardInterrupt
    speed = (recipe.steps - start) / elapsed
    return TrainingResult(out, out / FILE_NAME, recipe.steps, speed, folder.loss, folder.validation, tuple(notes))


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _training_split(src: str | Path) -> Dataset:
    dataset = open_dataset(src)
    train_split = dataset.select(split="train")
    if len(train_split) == 0:
        splits = ", ".join(dataset.splits) or "none"
        raise TrainingError(f"has no pairs to train on: no split 'train' (splits: {splits})", file=src)
    return train_split


def _describe(dataset: Dataset, part: Dataset, held_out: Dataset | None) -> dict[str, Any]:
    return {
        "dataset": {"fingerprint": dataset.fingerprint, "shards": _shard_hashes(dataset)},
        "train_scenes": part.scenes,
        "validation_scenes": held_out.scenes if held_out else [],
        "pairs": len(part),
        "versions": {"relo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _shard_hashes(dataset: Dataset) -> dict[str, str]:
    names = {shard.path.name for shard in dataset.shards}
    if not (dataset.root / DATASET_FILE).is_file():
        return {shard.path.name: file_sha256(shard.path) for shard in dataset.shards}
    entries = read_index(dataset.root)["shards"]
    return {entry["file"]: entry["sha256"] for entry in entries if entry["file"] in names}


def _claim(out: Path) -> int:
    """Refuse a folder that holds trained weights; clear what a run without any left behind."""
    if (out / LAST).exists() or (out / FILE_NAME).exists():
        raise TrainingError(
            "holds a training run already",
            file=out,
            advice="Continue it with --resume, or give another folder (-o).",
        )
    (out / METRICS).unlink(missing_ok=True)
    return 0


def _resume_step(out: Path, recipe: Recipe, record: dict[str, Any]) -> int:
    """Check that `out` holds the same run, drop metrics from after its checkpoint; return its steps."""
    if not (out / LAST).is_file():
        return _claim(out)
    before = what_changes_the_result(build_config(Recipe, read_yaml(out / RECIPE), str(out / RECIPE)))
    now = what_changes_the_result(recipe)
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise TrainingError(
            f"was trained with another {', '.join(changed)}",
            file=out,
            advice="Resume with the settings in its recipe.yaml, or give another folder (-o).",
        )
    try:
        trained_on = json.loads((out / RUN).read_text(encoding="utf-8"))["dataset"]["fingerprint"]
        step = int(torch.load(out / LAST, map_location="cpu", weights_only=True)["global_step"])
    # A damaged checkpoint can fail in any way its bytes happen to spell; nothing of it is executed.
    except Exception as error:
        raise TrainingError(
            "is damaged: run.json or last.ckpt cannot be read", file=out, advice="Give another folder (-o)."
        ) from error
    if trained_on != record["dataset"]["fingerprint"]:
        raise TrainingError(
            "was trained on another dataset",
            file=out,
            advice="Give the same dataset, or another folder (-o).",
        )
    lines = (out / METRICS).read_text(encoding="utf-8").splitlines() if (out / METRICS).is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    write_text(out / METRICS, "".join(line + "\n" for line in kept))
    return step


def _in_one_line(error: ReloError) -> ReloError:
    """Keep the last line of an error of a loader process, which arrives with its traceback as text."""
    last = error.reason.strip().splitlines()[-1]
    if last == error.reason:
        return error
    return TrainingError(last.partition(": ")[2] or last)
