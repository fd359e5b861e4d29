"""What a resumed training needs: the guide's parameters and AdamW's, as safetensors. Nothing is ever unpickled.

Patches, timesteps and noise are decided by the seed and the step, so no state of a random generator is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from relo.atomic import unfinished
from relo.config import canonical_json
from relo.errors import TrainingError

FILE = "last.safetensors"
_FORMAT = "relo-exprdiff-state"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_state(path: Path, step: int, guide: nn.Module, optimizer: AdamW, record: dict[str, Any]) -> None:
    """Write a state atomically.

    Parameters
    ----------
    path : Path
    step : int
        Steps that are done.
    guide : torch.nn.Module
        Its parameters are those of `optimizer`, in the same order.
    optimizer : AdamW
    record : dict
        JSON values that tell which run it is.
    """
    from safetensors.torch import save_file

    tensors = {f"guide.{name}": value for name, value in guide.state_dict().items()}
    for name, parameter in guide.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value
    header = {"format": _FORMAT, "step": step, "record": record}
    with unfinished(path) as part:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, part, {"relo": canonical_json(header)})


def read_record(path: Path) -> tuple[int, dict[str, Any]]:
    """Read how many steps a state has done, and of which run.

    Raises
    ------
    TrainingError
        It is damaged, or no such state.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as content:
            header = json.loads((content.metadata() or {})["relo"])
        if header["format"] != _FORMAT or header["step"] < 1:
            raise ValueError("another format")
        return int(header["step"]), dict(header["record"])
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path) from error


def restore_state(path: Path, guide: nn.Module, optimizer: AdamW) -> None:
    """Put a state back, strictly.

    Raises
    ------
    TrainingError
        It is damaged, or of another guide.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        prefix = "guide."
        guide.load_state_dict(
            {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        )
        for name, parameter in guide.named_parameters():
            if not any(f"{moment}.{name}" in tensors for moment in _MOMENTS):
                continue  # it never had a gradient
            first, second, count = (tensors[f"{moment}.{name}"] for moment in _MOMENTS)
            if first.shape != parameter.shape or second.shape != parameter.shape or count.ndim:
                raise ValueError(f"the moments of {name} do not fit")
            # AdamW keeps its count of steps on the CPU.
            optimizer.state[parameter] = {
                "step": count, "exp_avg": first.to(parameter), "exp_avg_sq": second.to(parameter)
            }  # fmt: skip
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _damaged(path) from error


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        "is damaged, or is no state of this run", file=path, advice="Put it back, or give another folder (-o)."
    )
