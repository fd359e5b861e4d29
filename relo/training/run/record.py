"""What is told of a run: its record, which parts are trained, which terms of the loss had no effect."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relo import __version__
from relo.atomic import file_sha256
from relo.shards import Dataset
from relo.training.checkpoint import find_weights
from relo.training.prior_stages import parts_of
from relo.training.recipe import Recipe
from relo.training.run.loss_log import LossLog
from relo.training.sources import describe


def run_record(
    part: Dataset,
    held_out: Dataset | None,
    dataset: Dataset,
    others: Sequence[Dataset],
    recipe: Recipe,
    model: nn.Module,
    stage_before: Path | None,
) -> dict[str, Any]:
    """What run.json tells."""
    parts = parts_of(model)
    staged: dict[str, Any] = {"parts": parts} if parts else {}
    if stage_before:
        staged["started_from"] = file_sha256(find_weights(stage_before))
    return staged | {
        "dataset": describe(dataset),
        "train_scenes": part.scenes,
        "validation_scenes": held_out.scenes if held_out else [],
        "pairs": len(part),
        "sources": [
            describe(other) | {"train_scenes": other.scenes, "pairs": len(other), "share": source.share}
            for source, other in zip(recipe.sources, others, strict=True)
        ],
        "versions": {"relo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def parts_in_words(model: nn.Module) -> list[str]:
    """What is trained and what frozen, where that is not the whole network."""
    trained, frozen = (
        ", ".join(
            f"{name} ({counts[state] / 1e6:.2f} M)" for name, counts in parts_of(model).items() if counts[state]
        )
        for state in ("trained", "frozen")
    )
    return [f"trained: {trained}; frozen: {frozen or 'nothing'}"] if trained else []


def unused_terms(recipe: Recipe, losses: LossLog) -> list[str]:
    """What the recipe weighs but the network gives nothing for."""
    given = {
        "mask": "the network predicts no masks",
        **dict.fromkeys(("mask_ce", "reblur", "tv"), "the network gives no motion in training"),
    }
    if recipe.prior.stage == "diffuse":
        return []  # compares priors; the terms are those of the stages before and after it
    if "patch_ce" in losses.terms:
        given = dict.fromkeys(("l1", "ssim", "msfr", "psnr", *given), "a blur detector has a loss of its own")
    return [
        f"{why}: loss.{term} had no effect"
        for term, why in given.items()
        if getattr(recipe.loss, term) and term not in losses.terms
    ]
