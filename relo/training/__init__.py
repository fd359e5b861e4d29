"""Patch sampling, losses, metrics, recipes, the trainer, evaluation and whole-image inference.

Importing this package imports no torch; touching `losses`, `metrics`, `train`, `evaluate` or `deblur` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relo.training.recipe import Recipe, list_recipes, load_recipe

if TYPE_CHECKING:
    from relo.training import losses, metrics
    from relo.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from relo.training.evaluation import Evaluation, evaluate
    from relo.training.inference.deblurring import deblur, deblur_files
    from relo.training.inference.file_by_file import DeblurResult
    from relo.training.inference.whole_image import restore
    from relo.training.trainer import TrainingResult, train

__all__ = [
    "Checkpoint",
    "DeblurResult",
    "Evaluation",
    "Recipe",
    "TrainingResult",
    "deblur",
    "deblur_files",
    "evaluate",
    "list_recipes",
    "load_checkpoint",
    "load_recipe",
    "losses",
    "metrics",
    "restore",
    "save_checkpoint",
    "train",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "DeblurResult": "inference.file_by_file",
    "deblur": "inference.deblurring",
    "deblur_files": "inference.deblurring",
    "TrainingResult": "trainer",
    "train": "trainer",
    "restore": "inference.whole_image",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only where it is used."""
    if name in ("losses", "metrics"):
        return import_module(f"relo.training.{name}")
    if name in _HOMES:
        return getattr(import_module(f"relo.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
