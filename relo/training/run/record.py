"""What is told of a run: its record, which parts are trained, which terms of the loss had no effect."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relo import __version__
from relo.atomic import file_sha256
from relo.training.checkpoint import find_weights
from relo.training.devices import device_in_words
from relo.training.prior_stages import parts_of
from relo.training.recipe import Recipe
from relo.training.run.loss_log import LossLog
from relo.training.sources import TrainingData, describe


def run_record(
    data: TrainingData, recipe: Recipe, model: nn.Module, device: torch.device, stage_before: Path | None
) -> dict[str, Any]:
    """What run.json tells.

    Parameters
    ----------
    data : TrainingData
    recipe : Recipe
    model : torch.nn.Module
        As it is trained: some of its parts may be frozen.
    device : torch.device
    stage_before : Path, optional
        Run folder of the stage whose weights this one starts from.
    """
    parts = parts_of(model)
    staged: dict[str, Any] = {"parts": parts} if parts else {}
    if stage_before:
        staged["started_from"] = file_sha256(find_weights(stage_before))
    return staged | {
        "dataset": describe(data.dataset),
        "train_scenes": data.trained_on.scenes,
        "validation_scenes": data.held_out.scenes if data.held_out else [],
        "pairs": len(data.trained_on),
        "sources": [
            describe(other) | {"train_scenes": other.scenes, "pairs": len(other), "share": source.share}
            for source, other in data.others
        ],
        "model": recipe.model.name,
        "parameters": sum(values.numel() for values in model.parameters()),
        "device": device_in_words(device),
        "precision": recipe.precision,
        "versions": {"relo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def announcement(record: dict[str, Any]) -> str:
    """What is about to be trained on what, in one line, from what run.json tells."""
    pairs = record["pairs"] + sum(source["pairs"] for source in record["sources"])
    scenes = len(record["train_scenes"]) + sum(len(source["train_scenes"]) for source in record["sources"])
    held_out = ", ".join(record["validation_scenes"]) or "nothing"
    line = in_one_line(record["model"], record["parameters"], record["device"], pairs, scenes)
    return f"{line}, validated on {held_out}"


def in_one_line(what: str, parameters: int, device: str, pairs: int, scenes: int) -> str:
    """What is trained on what, for people."""
    return (
        f"training {what} ({parameters / 1e6:.3g} M parameters) on {device}: "
        f"{pairs} pair{'s' * (pairs != 1)} of {scenes} scene{'s' * (scenes != 1)}"
    )


def parts_in_words(model: nn.Module) -> list[str]:
    """What is trained and what frozen, where that is not the whole network.

    A layer that a part never uses, and which is frozen for that, does not make the part frozen.
    """
    parts = parts_of(model)
    trained = [f"{name} ({counts['trained'] / 1e6:.2f} M)" for name, counts in parts.items() if counts["trained"]]
    frozen = [f"{name} ({counts['frozen'] / 1e6:.2f} M)" for name, counts in parts.items() if not counts["trained"]]
    return [f"trained: {', '.join(trained)}; frozen: {', '.join(frozen) or 'nothing'}"] if trained else []


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
