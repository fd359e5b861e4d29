"""One network, trained from its start or from where it was to the last step of its recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relo.atomic import write_text, writing_to
from relo.errors import ReloError, TrainingError
from relo.locks import locked
from relo.models import create_model, load_weights
from relo.shards.memory import in_memory
from relo.training.data import Patches, WholeImages
from relo.training.memory_errors import memory_explained
from relo.training.prior_stages import train_only_parts_of
from relo.training.recipe import recipe_yaml
from relo.training.run.files import (
    LAST,
    RECIPE,
    RUN,
    clear,
    may_resume,
    require_unused,
    resume_step,
    weights_file,
)
from relo.training.run.job import Job
from relo.training.run.loader import training_loader
from relo.training.run.record import announcement, parts_in_words, run_record, unused_terms
from relo.training.run.result import TrainingResult


def train_network(
    job: Job,
    *,
    stage_before: Path | None = None,
    more_follows: bool = False,
    keep: Callable[[Path], AbstractContextManager[None]] = locked,
) -> TrainingResult:
    """Train one network.

    Parameters
    ----------
    job : Job
    stage_before : Path, optional
        Folder of the stage whose weights this one starts from.
    more_follows : bool
        Whether a Ctrl-C in the last step still stops something: the stages that follow.
    keep : callable
        Keeps other processes out of the run folder meanwhile.

    Raises
    ------
    TrainingError, ConfigError
        As `relo.training.train` does.
    KeyboardInterrupt
        Ctrl-C; the step was finished and saved first.
    """
    from relo.training.run.folder import RunFolder
    from relo.training.run.loss_log import LossLog
    from relo.training.run.optimisation import RestorationTraining, lightning_trainer

    recipe, data, out, processes = job.recipe, job.data, job.out, job.processes
    patches = _patches(job)
    model, notes = _network(job, job.recipe.model.weights if stage_before is None else stage_before)
    with ExitStack() as stack:

        def begin() -> tuple[dict[str, Any], int]:
            with writing_to(out, "Give a folder that can be written (-o)."):
                stack.enter_context(keep(out))
            record = run_record(data, recipe, model, job.device, stage_before)
            if not job.resume:
                require_unused(out)
            elif may_resume(out, advice=f", with --set model.weights={out} to start from these weights"):
                return record, resume_step(out, recipe, record)
            clear(out)
            return record, 0

        record, start = processes.by_first(begin)
        if start >= recipe.steps:
            return TrainingResult(out, start, (*notes, f"nothing to do: the run has {start} steps already"))
        if processes.is_first:
            with writing_to(out, "Make room on its disk, or give another folder (-o)."):
                write_text(out / RECIPE, recipe_yaml(recipe))
                write_text(out / RUN, json.dumps(record, indent=2) + "\n")
            job.announce(announcement(record))
        losses = LossLog(processes)
        images = WholeImages(data.held_out, recipe.val_images, recipe.takes_short) if data.held_out else None
        folder = RunFolder(out, recipe, record, losses, images, processes, job.progress)
        with (
            folder.open(),
            lightning_trainer(recipe, job.device.type, out, folder, processes) as trainer,
            _errors_explained(out, lambda: bool(start) and not folder.started),
        ):
            trainer.fit(
                RestorationTraining(model, recipe, losses),
                training_loader(patches, data.pairs.mixture, recipe, start, processes, job.device),
                ckpt_path=out / LAST if start else None,
                weights_only=True,
            )
        if trainer.global_step < recipe.steps or (more_follows and folder.was_interrupted()):
            raise KeyboardInterrupt
        notes = (*notes, *unused_terms(recipe, losses))
        return TrainingResult(out, recipe.steps, notes, folder.steps_per_second, folder.loss, folder.validation)


def _patches(job: Job) -> Patches:
    dataset, cache_gb = job.data.pairs.dataset, job.recipe.cache_gb
    if cache_gb:
        dataset = in_memory(dataset, int(cache_gb * 1e9))
    return Patches(dataset, job.recipe, job.data.pairs.all_blurred)


def _network(job: Job, start_from: str | Path | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network at its start and what to tell of it; one that was trained already gets its weights later."""
    recipe = job.recipe
    notes = (
        [] if job.data.held_out else ["nothing was validated: that needs val_fraction above 0 and two train scenes"]
    )
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **recipe.model.options)
    started = job.resume and (job.out / LAST).is_file()
    untrained = load_weights(model, weights_file(start_from)) if start_from and not started else ()
    train_only_parts_of(model, recipe.prior.stage)
    notes += parts_in_words(model)
    notes += [f"{len(untrained)} tensors are not in the given weights and start untrained"] * bool(untrained)
    return model, tuple(notes)


@contextmanager
def _errors_explained(out: Path, was_restoring: Callable[[], bool]) -> Iterator[None]:
    """Tell what stops a training in one line.

    Parameters
    ----------
    out : Path
    was_restoring : callable
        Whether Lightning was still putting the last checkpoint back, which fails in whatever way its content
        happens to spell.
    """
    advice = "Use a smaller batch or crop, or --set precision=bf16-mixed."
    try:
        with memory_explained(advice):
            yield
    except ReloError as error:
        short = _in_one_line(error)
        raise short from (error if short is not error else error.__cause__)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        if not was_restoring():
            raise
        raise TrainingError(
            f"does not fit this run ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})",
            file=out / LAST,
            advice="Put the last.ckpt of this run back, or give another folder (-o).",
        ) from error


def _in_one_line(error: ReloError) -> ReloError:
    """Keep the last line of an error of a loader process, which arrives with its traceback as text."""
    last = error.reason.strip().splitlines()[-1]
    if last == error.reason:
        return error
    return TrainingError(last.partition(": ")[2] or last)
