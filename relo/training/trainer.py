"""Training: a recipe and a dataset in, a run folder out.

A run folder holds `recipe.yaml` (every setting), `run.json` (dataset, scenes, versions), `metrics.jsonl` (one line
per logged step and per validation), `tensorboard` (the same, to look at), `samples` (pictures of each validation),
`last.ckpt` (for resuming), `model.safetensors` (weights of the last step) and `best.safetensors` (weights of the
best validation). A run in stages has a folder of this kind for each stage but the last, whose files lie in the run
folder itself, and `stages.yaml`, the recipe of them all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from relo.errors import ConfigError, MissingExtraError
from relo.progress import Progress
from relo.training.recipe import Recipe
from relo.training.run.distributed import Processes
from relo.training.run.hardware import cpu_threads, training_device
from relo.training.run.job import Job
from relo.training.run.result import TrainingResult
from relo.training.run.single import train_network
from relo.training.run.staged import train_in_stages
from relo.training.sources import open_training_data

__all__ = ["TrainingResult", "train"]


def train(
    recipe: Recipe,
    src: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
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
    announce : callable, optional
        Called with a line on what is trained on what, before the first step; with stages, of each of them.

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
    processes, device = Processes.of_torchrun(), training_device(recipe)
    for own in recipe.in_stages().values():
        training_device(own)  # refuses what a stage cannot have here
        _require_equal_shares(own, processes.size)
    with processes.connected(device.type), torch.random.fork_rng(devices=[]), cpu_threads(recipe.threads):
        job = Job(
            recipe,
            open_training_data(recipe, src),
            Path(out),
            resume,
            processes,
            device,
            progress or (lambda done, total, text: None),
            announce or (lambda text: None),
        )
        return train_in_stages(job) if recipe.stages else train_network(job)


def _require_equal_shares(recipe: Recipe, processes: int) -> None:
    """Refuse batches that cannot be shared out equally."""
    for batch in recipe.batches:
        if batch % processes:
            raise ConfigError(
                f"a batch of {batch} cannot be shared out equally among {processes} processes",
                advice=f"Use --set batch={-(-batch // processes) * processes}"
                f"{' and such batches in `progressive`' if recipe.progressive else ''}.",
            )
