"""Patches of a run, batch by batch, from loader processes."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from relo.resources import usable_cores
from relo.training.data import EndlessBatches, Item, Patches
from relo.training.mixture import Mixture
from relo.training.order import Groups
from relo.training.recipe import Recipe
from relo.training.run.distributed import Processes
from relo.training.run.interrupts import leave_signals_to_trainer


def training_loader(
    patches: Patches, mixture: Mixture, recipe: Recipe, start: int, processes: Processes, device: torch.device
) -> DataLoader[Item]:
    """Give this process's share of the batches after the first `start`, without end."""
    groups = Groups.of(patches.dataset, recipe.shards_at_once) if recipe.order == "scenes" else None
    batches = EndlessBatches(
        mixture,
        recipe.batch,
        recipe.seed,
        start,
        groups,
        (processes.rank, processes.size),
        progressive=recipe.progressive,
    )
    return load_batches(patches, batches, recipe.workers, device)


def load_batches(patches: Patches, batches: EndlessBatches, workers: int, device: torch.device) -> DataLoader[Item]:
    """Give patches by draws, from at most so many loader processes, which outlive a signal by what a step needs."""
    return DataLoader(
        patches,
        batch_sampler=batches,
        num_workers=min(workers, usable_cores()),
        worker_init_fn=leave_signals_to_trainer,
        pin_memory=device.type == "cuda",
    )
