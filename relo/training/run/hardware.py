"""Which device a recipe trains on, and what this machine cannot do for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relo.errors import ConfigError
from relo.training.devices import choose_device
from relo.training.recipe import Recipe


def training_device(recipe: Recipe) -> torch.device:
    """Find the device to train on.

    Raises
    ------
    ConfigError
        There is no such device, it lacks the recipe's precision, or `compile` finds no C++ compiler.
    """
    device = choose_device(recipe.device)
    if device.type == "cpu" and recipe.precision == "16-mixed":
        raise ConfigError(
            "precision 16-mixed needs a GPU", advice="On the CPU use --set precision=bf16-mixed or 32-true."
        )
    bf16 = device.type == "cuda" and recipe.precision == "bf16-mixed"
    if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU has no bfloat16 for bf16-mixed", advice="Use --set precision=16-mixed.")
    if recipe.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(
            "compile needs a C++ compiler, g++ or clang++", advice="Install one, or --set compile=false."
        )
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU meanwhile; 0 for as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
