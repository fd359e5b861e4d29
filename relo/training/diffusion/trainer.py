"""`relo train exprdiff`: a guide trained on shards, in a plain loop that resumes exactly.

A run folder holds `recipe.yaml`, `run.json` (dataset, versions), `metrics.jsonl`, `last.safetensors` (for resuming)
and `model.safetensors` (the guide, its prompt's embeddings and how it was made).
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from relo import __version__
from relo.atomic import unfinished, write_text, writing_to
from relo.errors import TrainingError
from relo.locks import locked
from relo.models.exprdiff.diffusion.weights import write_guide
from relo.progress import Progress
from relo.training.checkpoint import FILE_NAME
from relo.training.data import EndlessBatches, Item, Patches
from relo.training.devices import choose_device, device_in_words
from relo.training.diffusion.batches import Batches
from relo.training.diffusion.folder import start_of
from relo.training.diffusion.objective import Batch, Draws, draw, objective
from relo.training.diffusion.parts import Parts, base_of, build_parts
from relo.training.diffusion.recipe import DiffusionRecipe, diffusion_recipe_yaml, what_changes_the_result
from relo.training.diffusion.state import FILE as STATE
from relo.training.diffusion.state import restore_state, save_state
from relo.training.memory_errors import memory_explained
from relo.training.run.files import METRICS, RECIPE, RUN
from relo.training.run.finite import require_finite
from relo.training.run.hardware import cpu_threads
from relo.training.run.interrupts import finishing_steps
from relo.training.run.loader import load_batches
from relo.training.run.metrics_file import keep_lines_until
from relo.training.run.record import in_one_line
from relo.training.sources import describe, training_split

_MEMORY_ADVICE = "Use --set at_once=1, a smaller crop, gradient_checkpointing=true or precision=bf16-mixed."


@dataclass(frozen=True)
class DiffusionTrainingResult:
    """What a training gave.

    Attributes
    ----------
    run : Path
        The run folder.
    checkpoint : Path
        Its model.safetensors.
    steps : int
        In all, those before a resume included.
    steps_per_second : float
        Of this call, without start-up, the first step and saving; NaN if fewer than two were left.
    loss : float
        Mean of the last logged interval; NaN if nothing was left to do.
    notes : tuple of str
        What the user should know.
    """

    run: Path
    checkpoint: Path
    steps: int
    steps_per_second: float
    loss: float
    notes: tuple[str, ...]


def train_exprdiff(
    recipe: DiffusionRecipe,
    src: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> DiffusionTrainingResult:
    """Train a guide on the `train` split of a dataset with short exposures. The test split is never touched.

    Stopping after n steps and resuming to m gives, on the CPU, the same bits as m steps straight.

    Parameters
    ----------
    recipe : DiffusionRecipe
    src : path
        Dataset folder or shard.
    out : path
        Run folder; must hold no run yet unless `resume`.
    resume : bool
        Continue from `last.safetensors`, if it is there.
    progress : callable, optional
        Called with (steps done, steps in all, text on the loss).
    announce : callable, optional
        Called with a line on what is trained on what, before the first step.

    Raises
    ------
    MissingExtraError
        diffusers or transformers is not installed.
    ConfigError
        No base model is given, or there is no such device.
    TrainingError
        The base model, the dataset or the folder does not suit, the memory does not suffice, or the loss became
        NaN.
    KeyboardInterrupt
        Ctrl-C; the step was finished and the state saved first.
    """
    out, device = Path(out), choose_device(recipe.device)
    base_of(recipe)  # refuses at once to go on without one
    dataset = training_split(src)
    patches = Patches(dataset, recipe)
    record = {
        "dataset": describe(dataset),
        "pairs": len(dataset),
        "base": recipe.base,
        "device": device_in_words(device),
        "precision": recipe.precision,
        "versions": {"relo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    about = {"settings": what_changes_the_result(recipe), "fingerprint": dataset.fingerprint}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(cpu_threads(recipe.threads))
        with writing_to(out, "Give a folder that can be written (-o)."):
            stack.enter_context(locked(out))
        start = start_of(out, about, resume=resume)
        if start >= recipe.steps:
            note = f"nothing to do: the run has {start} steps already"
            return DiffusionTrainingResult(out, out / FILE_NAME, start, math.nan, math.nan, (note,))
        stack.enter_context(memory_explained(_MEMORY_ADVICE))
        run = _Run(recipe, out, record, about, build_parts(recipe, device), device)
        if start:
            restore_state(out / STATE, run.parts.model.guide, run.optimizer)
        with writing_to(out, "Make room on its disk, or give another folder (-o)."):
            write_text(out / RECIPE, diffusion_recipe_yaml(recipe))
            write_text(out / RUN, json.dumps(record, indent=2) + "\n")
            keep_lines_until(out / METRICS, start)
        if announce:
            size = sum(values.numel() for values in run.guide.parameters())
            what = f"a guide for {recipe.base}"
            announce(in_one_line(what, size, device_in_words(device), len(dataset), len(dataset.scenes)))
        batches = EndlessBatches(len(patches), recipe.batch, recipe.seed, start)
        return run.train(load_batches(patches, batches, recipe.workers, device), start, progress)


class _Run:
    """A training in progress."""

    def __init__(
        self,
        recipe: DiffusionRecipe,
        out: Path,
        record: dict[str, Any],
        about: dict[str, Any],
        parts: Parts,
        device: torch.device,
    ) -> None:
        self.recipe, self.out, self.record, self.about = recipe, out, record, about
        self.parts, self.device = parts, device
        self.guide = parts.model.guide.train()
        self.optimizer = torch.optim.AdamW(
            self.guide.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.batches = Batches(recipe, device)
        self.losses: list[dict[str, Tensor]] = []

    def train(self, loader: DataLoader[Item], start: int, progress: Progress | None) -> DiffusionTrainingResult:
        """Do the steps from `start` on."""
        recipe, loss, first, saving = self.recipe, math.nan, 0.0, 0.0
        with finishing_steps() as interrupts, memory_explained(_MEMORY_ADVICE):
            for step, item in enumerate(loader, start + 1):
                self.losses.append(self.step(self.batches.of(item), step))
                stopping = interrupts.received  # asked once: what comes later is for the next step
                leaving = stopping or step == recipe.steps
                if leaving or step % recipe.log_every == 0:
                    loss = self._log(step)
                if leaving or step % recipe.checkpoint_every == 0:
                    began = time.perf_counter()
                    self._save(step)
                    saving += (time.perf_counter() - began) if first else 0.0
                first = first or time.perf_counter()
                if progress:
                    progress(step, recipe.steps, "" if math.isnan(loss) else f"loss {loss:.4f}")
                if stopping:
                    raise KeyboardInterrupt
                if step == recipe.steps:
                    break
        done = recipe.steps - start - 1
        speed = done / (time.perf_counter() - first - saving) if done else math.nan
        return DiffusionTrainingResult(self.out, self.out / FILE_NAME, recipe.steps, speed, loss, ())

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; return the terms of the loss."""
        recipe, parts = self.recipe, self.parts
        count, _, height, width = batch.sharp.shape
        channels = parts.vae.config.latent_channels
        draws = draw(
            recipe.seed,
            step,
            (count, channels, height // 8, width // 8),
            parts.scheduler.config.num_train_timesteps,
        )
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for begin in range(0, count, recipe.at_once):
            some = slice(begin, begin + recipe.at_once)
            part = Batch(*(images[some] for images in batch))
            share = len(part.sharp) / count
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
                terms = objective(
                    parts.model,
                    parts.vae,
                    parts.scheduler,
                    parts.prompt,
                    part,
                    Draws(*(values[some].to(self.device) for values in draws)),
                    **recipe.condition_options,
                    degradation_weight=recipe.degradation_weight,
                )
            (terms["loss"] * share).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.guide.parameters(), recipe.clip)
        self.optimizer.step()
        return sums

    def _log(self, step: int) -> float:
        """Write the means of the last interval."""
        means = {name: float(torch.stack([terms[name] for terms in self.losses]).mean()) for name in self.losses[0]}
        self.losses = []
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"the loss became infinite or not a number by step {step}",
                advice="Lower lr; what was saved before is good, --resume continues from it.",
            )
        with self._writing(), (self.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "lr": self.recipe.lr} | means, allow_nan=False) + "\n")
        return means["loss"]

    def _save(self, step: int) -> None:
        require_finite(self.guide.parameters(), step, "Lower lr")
        recipe = self.recipe
        about = {
            "base": {"name": recipe.base, "variant": recipe.variant},
            "guide": recipe.model_dump(mode="json", include=set(recipe.guide_options)),
            "condition": recipe.condition_options,
            "training": self.record | {"steps": step, "recipe": recipe.model_dump(mode="json")},
        }
        with self._writing():
            with unfinished(self.out / FILE_NAME) as part:
                write_guide(part, self.guide, self.parts.prompt, about)
            save_state(self.out / STATE, step, self.guide, self.optimizer, self.about)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self.out, "Make room on its disk, then continue with --resume."):
            yield
