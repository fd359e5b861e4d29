"""Training: a recipe and a dataset in, a run folder out.

A run folder holds `recipe.yaml` (every setting), `run.json` (dataset, scenes, versions), `metrics.jsonl` (one line
per logged step and per validation), `tensorboard` (the same, to look at), `samples` (pictures of each validation),
`last.ckpt` (for resuming), `model.safetensors` (weights of the last step) and `best.safetensors` (weights of the
best validation). A run in stages has a folder of this kind for each stage but the last, whose files lie in the run
folder itself, and `stages.yaml`, the recipe of them all.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from relo.atomic import write_text, writing_to
from relo.errors import ConfigError, MissingExtraError, ReloError, TrainingError
from relo.locks import locked
from relo.models import create_model, load_weights
from relo.parallel import reuse_freed_memory
from relo.resources import usable_cores
from relo.shards import Dataset
from relo.shards.memory import in_memory
from relo.training.checkpoint import BEST_NAME, FILE_NAME
from relo.training.data import EndlessBatches, Item, Patches, WholeImages, hold_out_scenes
from relo.training.mixture import Mixture
from relo.training.order import Groups
from relo.training.prior_stages import train_only_parts_of
from relo.training.recipe import Recipe, recipe_yaml
from relo.training.run.distributed import Processes
from relo.training.run.files import (
    LAST,
    RECIPE,
    RUN,
    STAGES,
    claim,
    require_all_before,
    require_same_settings,
    resume_step,
    weights_file,
)
from relo.training.run.record import parts_in_words, run_record, unused_terms
from relo.training.sources import TrainingPairs, combine, open_sources, training_split

if TYPE_CHECKING:
    pass

LOADER_GRACE_S = 30  # how long a loader process outlives a SIGTERM


@dataclass(frozen=True)
class TrainingResult:
    """What a training run gave.

    Attributes
    ----------
    run : Path
        The run folder.
    checkpoint : Path
        Its model.safetensors: weights of the last step, averaged if the recipe says so.
    best : Path or None
        Its best.safetensors: weights of the best validation; None if there was none.
    steps : int
        Optimiser steps in all, those before a resume and those of all stages included.
    steps_per_second : float
        Of the training steps of this call, of the last stage, loading of patches included; start-up, first step,
        validation and saving are not. NaN if fewer than two steps were left to do.
    loss : float
        Mean loss of the last logged interval; NaN if nothing was left to do.
    validation : dict of str to float
        Last validation: psnr, psnr_w and the same of the input, in dB; of a blur detector the shares of
        `relo.training.detection.PatchCounts.quality`; empty if there was none.
    notes : tuple of str
        What the user should know, for example why nothing was validated.
    """

    run: Path
    checkpoint: Path
    best: Path | None
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

    Started by `torchrun`, all its processes train one model: they share out each batch and each validation, and the
    first one alone writes and reports. The patches of a step do not depend on how many there are.

    A recipe with `stages` is trained stage by stage, each from the best weights of the one before. Stages whose
    steps are done are left alone when the run is resumed.

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
        lightning or tensorboard is not installed.
    ConfigError
        This machine cannot do what the recipe asks for.
    TrainingError
        The folder holds another run, the dataset does not suit the recipe, or the loss became NaN.
    KeyboardInterrupt
        Ctrl-C; the step was finished and `last.ckpt` written first.
    """
    for package in ("lightning", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train")
    processes, device = Processes.of_torchrun(), _device(recipe)
    stages = recipe.in_stages()
    for own in stages.values():
        _device(own)  # refuses what a stage cannot have here
    for batch in (batch for own in stages.values() for batch in own.batches):
        if batch % processes.size:
            raise ConfigError(
                f"a batch of {batch} cannot be shared out equally among {processes.size} processes",
                advice=f"Use --set batch={-(-batch // processes.size) * processes.size}"
                f"{' and such batches in `progressive`' if recipe.progressive else ''}.",
            )
    with processes.connected(device), torch.random.fork_rng(devices=[]), _cpu_threads(recipe.threads):
        if not recipe.stages:
            return _train(recipe, src, Path(out), resume, progress, processes, device)
        return _train_in_stages(recipe, src, Path(out), resume, progress, processes, device)


def _train_in_stages(
    recipe: Recipe,
    src: str | Path,
    out: Path,
    resume: bool,
    progress: Callable[[int, int, str], None] | None,
    processes: Processes,
    device: str,
) -> TrainingResult:
    """Train stage by stage; the last one in `out` itself, so that it stands for the run."""
    stages = recipe.in_stages()
    *earlier, last = stages
    folders = {stage: out / stage for stage in earlier} | {last: out}
    total = sum(own.steps for own in stages.values())

    for own in stages.values():
        pairs = _pairs(own, src).pairs
        Patches(pairs.dataset, own, pairs.all_blurred)  # refuses what does not suit before anything is trained

    def begin() -> None:
        for stage, folder in folders.items():
            if not resume:
                claim(folder)
            elif (folder / LAST).is_file():
                require_same_settings(folder, stages[stage])
        require_all_before(list(folders.values()))
        with writing_to(out, "Give a folder that can be written (-o)."):
            write_text(out / STAGES, recipe_yaml(recipe))

    processes.by_first(begin)
    done, notes, before = 0, [], None
    for number, (stage, own) in enumerate(stages.items(), 1):

        def shown(steps: int, _: int, loss: str, done: int = done, name: str = f"{stage} {number}/3") -> None:
            if progress:
                progress(done + steps, total, f"{name} {loss}".strip())

        result = _train(own, src, folders[stage], resume, shown, processes, device, before, more=stage != last)
        notes += [f"stage {stage}: {note}" for note in result.notes]
        before, done = folders[stage], done + result.steps
    return replace(result, steps=done, notes=tuple(notes))


def _train(
    recipe: Recipe,
    src: str | Path,
    out: Path,
    resume: bool,
    progress: Callable[[int, int, str], None] | None,
    processes: Processes,
    device: str,
    stage_before: Path | None = None,
    more: bool = False,
) -> TrainingResult:
    from relo.training.optimisation import RestorationTraining, lightning_trainer
    from relo.training.run.folder import RunFolder
    from relo.training.run.loss_log import LossLog

    dataset, others, part, held_out, pairs = _pairs(recipe, src)
    notes = [] if held_out else ["nothing was validated: that needs val_fraction above 0 and two train scenes"]
    if recipe.cache_gb:
        pairs = replace(pairs, dataset=in_memory(pairs.dataset, int(recipe.cache_gb * 1e9)))
    patches = Patches(pairs.dataset, recipe, pairs.all_blurred)
    start_from = stage_before or recipe.model.weights
    model, untrained = _network(recipe, start_from, started=resume and (out / LAST).is_file())
    train_only_parts_of(model, recipe.prior.stage)
    notes += parts_in_words(model)
    notes += [f"{untrained} tensors are not in the given weights and start untrained"] * bool(untrained)
    with ExitStack() as stack:

        def begin() -> tuple[dict[str, Any], int]:
            with writing_to(out, "Give a folder that can be written (-o)."):
                stack.enter_context(locked(out))
            record = run_record(part, held_out, dataset, others, recipe, model, stage_before)
            return record, resume_step(out, recipe, record) if resume else claim(out)

        record, start = processes.by_first(begin)
        if start >= recipe.steps:
            notes.append(f"nothing to do: the run has {start} steps already")
            return _result(out, start, notes)
        if processes.is_first:
            with writing_to(out, "Make room on its disk, or give another folder (-o)."):
                write_text(out / RECIPE, recipe_yaml(recipe))
                write_text(out / RUN, json.dumps(record, indent=2) + "\n")
        losses = LossLog(processes)
        images = WholeImages(held_out, recipe.val_images, recipe.takes_short) if held_out else None
        folder = RunFolder(out, recipe, record, losses, images, processes, progress)
        with folder.open(), lightning_trainer(recipe, device, out, folder, processes) as trainer:
            try:
                trainer.fit(
                    RestorationTraining(model, recipe, losses),
                    _loader(patches, pairs.mixture, recipe, start, processes, device),
                    ckpt_path=out / LAST if start else None,
                    weights_only=True,
                )
            except ReloError as error:
                raise _in_one_line(error) from error
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    "the memory of the GPU is too small",
                    advice="Use a smaller batch or crop, or --set precision=bf16-mixed.",
                ) from error
            except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
                if not start or folder.started:
                    raise
                raise TrainingError(  # Lightning was still putting the checkpoint back
                    f"does not fit this run ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})",
                    file=out / LAST,
                    advice="Put the last.ckpt of this run back, or give another folder (-o).",
                ) from error
        # What stops the last step of a stage is for the stages to come too.
        if trainer.global_step < recipe.steps or (more and folder.was_interrupted()):
            raise KeyboardInterrupt
        notes += unused_terms(recipe, losses)
        return _result(out, recipe.steps, notes, folder.steps_per_second, folder.loss, folder.validation)


class _Pairs(NamedTuple):
    """What a recipe draws from."""

    dataset: Dataset
    others: list[Dataset]
    part: Dataset
    held_out: Dataset | None
    pairs: TrainingPairs


def _pairs(recipe: Recipe, src: str | Path) -> _Pairs:
    """Open what a recipe draws from."""
    dataset = training_split(src)
    others = open_sources(recipe.sources, dataset)
    part, held_out = hold_out_scenes(dataset, recipe.val_fraction, recipe.seed)
    return _Pairs(dataset, others, part, held_out, combine(part, others, recipe.sources))


def _network(recipe: Recipe, start_from: str | Path | None, *, started: bool) -> tuple[nn.Module, int]:
    """The network at its start, and how many tensors the given weights lack; a started run has its own weights."""
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **recipe.model.options)
    if started or not start_from:
        return model, 0
    return model, len(load_weights(model, weights_file(start_from)))


def _result(
    out: Path,
    steps: int,
    notes: list[str],
    speed: float = math.nan,
    loss: float = math.nan,
    validation: dict[str, float] | None = None,
) -> TrainingResult:
    best = out / BEST_NAME if (out / BEST_NAME).is_file() else None
    return TrainingResult(out, out / FILE_NAME, best, steps, speed, loss, validation or {}, tuple(notes))


def _device(recipe: Recipe) -> str:
    """Which device to train on; refuse what it cannot do, before anything is written."""
    there = torch.cuda.is_available()
    device = ("cuda" if there else "cpu") if recipe.device == "auto" else recipe.device
    if device == "cuda" and not there:
        raise ConfigError(
            "device is cuda but torch finds no GPU", advice="Use --set device=cpu, or see relo doctor."
        )
    if device == "cpu" and recipe.precision == "16-mixed":
        raise ConfigError(
            "precision 16-mixed needs a GPU", advice="On the CPU use --set precision=bf16-mixed or 32-true."
        )
    bf16 = device == "cuda" and recipe.precision == "bf16-mixed"
    if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU has no bfloat16 for bf16-mixed", advice="Use --set precision=16-mixed.")
    if recipe.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(
            "compile needs a C++ compiler, g++ or clang++", advice="Install one, or --set compile=false."
        )
    return device


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loader(
    patches: Patches, mixture: Mixture, recipe: Recipe, start: int, processes: Processes, device: str
) -> DataLoader[Item]:
    groups = Groups.of(patches.dataset, recipe.shards_at_once) if recipe.order == "scenes" else None
    share = processes.rank, processes.size
    return DataLoader(
        patches,
        batch_sampler=EndlessBatches(
            mixture, recipe.batch, recipe.seed, start, groups, share, stages=recipe.progressive
        ),
        num_workers=min(recipe.workers, usable_cores()),
        worker_init_fn=_start_loader,
        pin_memory=device == "cuda",
    )


def _start_loader(number: int) -> None:  # noqa: ARG001
    """Leave Ctrl-C and SIGTERM to the process that trains: it still needs a patch or two to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not for ever: a process that is left waiting for patches to ask for must end.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LOADER_GRACE_S))
    reuse_freed_memory()


def _in_one_line(error: ReloError) -> ReloError:
    """Keep the last line of an error of a loader process, which arrives with its traceback as text."""
    last = error.reason.strip().splitlines()[-1]
    if last == error.reason:
        return error
    return TrainingError(last.partition(": ")[2] or last)
