"""What is to be done: one training, on its data, by its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from relo.progress import Progress
from relo.training.recipe import Recipe
from relo.training.run.distributed import Processes
from relo.training.sources import TrainingData


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes
    ----------
    recipe : Recipe
    data : TrainingData
    out : Path
        The run folder.
    resume : bool
        Go on with what `out` holds.
    processes : Processes
    device : torch.device
    progress : callable
        Called with (steps done, steps in all, text).
    announce : callable
        Called with a line of text on what is trained, before the first step.
    """

    recipe: Recipe
    data: TrainingData
    out: Path
    resume: bool
    processes: Processes
    device: torch.device
    progress: Progress
    announce: Callable[[str], None]
