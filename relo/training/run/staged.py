"""A BlurDM trained in three stages, each of which is a run that starts from the weights of the one before."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from relo.atomic import write_text, writing_to
from relo.errors import TrainingError
from relo.locks import locked
from relo.models import create_model
from relo.progress import Progress
from relo.training.checkpoint import FILE_NAME
from relo.training.data import Patches
from relo.training.recipe import PriorStage, Recipe, recipe_yaml
from relo.training.run.files import (
    LAST,
    STAGES,
    may_resume,
    require_same_settings,
    require_unused,
    steps_done,
    weights_file,
)
from relo.training.run.job import Job
from relo.training.run.result import TrainingResult
from relo.training.run.single import train_network


def train_in_stages(job: Job) -> TrainingResult:
    """Train stage by stage; the last one in the run folder itself, so that it stands for the run.

    Raises
    ------
    TrainingError, ConfigError, KeyboardInterrupt
        As `relo.training.train` does.
    """
    stages = job.recipe.in_stages()
    *earlier, last = stages
    folders = {stage: job.out / stage for stage in earlier} | {last: job.out}
    _require_suitable(job, stages, folders)
    with ExitStack() as stack:
        job.processes.by_first(lambda: _begin(job, stages, folders, stack))
        done, notes, before = 0, [], None
        for stage, own in stages.items():
            part = replace(
                job,
                recipe=own,
                out=folders[stage],
                progress=_part_of_progress(job, stages, stage),
                announce=partial(_announce, job, _name(stages, stage)),
            )
            result = train_network(part, stage_before=before, more_follows=stage != last, keep=_kept_already)
            notes += [f"stage {stage}: {note}" for note in result.notes]
            before, done = folders[stage], done + result.steps
    return replace(result, steps=done, notes=tuple(notes))


def _require_suitable(job: Job, stages: dict[PriorStage, Recipe], folders: dict[PriorStage, Path]) -> None:
    """Refuse patches, networks and weights that do not suit, of any stage, before a folder is made."""
    for own in stages.values():
        Patches(job.data.pairs.dataset, own, job.data.pairs.all_blurred)
        with torch.device("meta"):
            create_model(own.model.name, **own.model.options)
    given, (first, *_) = job.recipe.model.weights, folders.values()
    if given and not (job.resume and (first / LAST).is_file()):
        weights_file(given)


def _begin(job: Job, stages: dict[PriorStage, Recipe], folders: dict[PriorStage, Path], stack: ExitStack) -> None:
    """Take all folders until the end, refuse those that hold another run, and say what the stages are."""
    *earlier, last = folders.values()
    advice = "Give a folder that can be written (-o)."
    with writing_to(job.out, advice):
        stack.enter_context(locked(last))
    if job.resume:
        _require_in_order(stages, folders)
    else:
        for folder in folders.values():
            require_unused(folder)
    with writing_to(job.out, advice):
        for folder in earlier:
            stack.enter_context(locked(folder))
    with writing_to(job.out, "Make room on its disk, or give another folder (-o)."):
        write_text(job.out / STAGES, recipe_yaml(job.recipe))


def _require_in_order(stages: dict[PriorStage, Recipe], folders: dict[PriorStage, Path]) -> None:
    """Refuse stages that a later one was begun from, but whose files or steps are others now.

    Raises
    ------
    TrainingError
    """
    begun = [stage for stage, folder in folders.items() if (folder / LAST).is_file()]
    for stage in begun:
        require_same_settings(folders[stage], stages[stage])
    before_another = list(stages)[: list(stages).index(begun[-1])] if begun else []
    for stage in before_another:
        folder = folders[stage]
        for name in (LAST, FILE_NAME):
            if not (folder / name).is_file():
                raise TrainingError(
                    f"holds no {name}, though the stage '{begun[-1]}' was begun",
                    file=folder,
                    advice="Put it back, or give another folder (-o).",
                )
        done = steps_done(folder)
        if done < stages[stage].steps:
            raise TrainingError(
                f"cannot go on beyond {done} steps: the stage '{begun[-1]}' was begun from its weights",
                file=folder,
                advice=f"Use --set stages.{stage}.steps={done}, or give another folder (-o).",
            )
    for folder in folders.values():
        may_resume(folder)


def _kept_already(folder: Path) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()


def _name(stages: dict[PriorStage, Recipe], stage: PriorStage) -> str:
    return f"{stage} {list(stages).index(stage) + 1}/{len(stages)}"


def _announce(job: Job, name: str, text: str) -> None:
    job.announce(f"stage {name}: {text}")


def _part_of_progress(job: Job, stages: dict[PriorStage, Recipe], stage: PriorStage) -> Progress:
    """Progress of a stage within that of the run."""
    before = sum(own.steps for own in list(stages.values())[: list(stages).index(stage)])
    total = sum(own.steps for own in stages.values())

    def report(steps: int, _: int, text: str) -> None:
        job.progress(before + steps, total, f"{_name(stages, stage)} {text}".strip())

    return report
