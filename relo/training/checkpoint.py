"""relo's own checkpoint: a safetensors file that says which model it is and how it was trained.

The tensors are the model's state dict under its published names. The header's metadata hold one entry
"relo", JSON with `format`, `version`, `model`, `options` and `training`: one, because safetensors writes
several in random order, and equal models shall give equal files.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relo.atomic import unfinished
from relo.config import canonical_json
from relo.errors import ReloError, TrainingError
from relo.models import create_model, load_weights

if TYPE_CHECKING:
    from torch import nn

FORMAT = "relo-model"
VERSION = 1
FILE_NAME = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and where it comes from.

    Attributes
    ----------
    path : Path
        The .safetensors file.
    name : str
        Name of the model, see `relo.models.list_models`.
    options : dict
        Options it was created with.
    training : dict
        Record of the training: recipe, steps, dataset, versions.
    model : torch.nn.Module
        On the CPU, in evaluation mode.
    """

    path: Path
    name: str
    options: dict[str, Any]
    training: dict[str, Any]
    model: nn.Module


def save_checkpoint(
    path: Path, model: nn.Module, name: str, options: dict[str, Any], training: dict[str, Any]
) -> None:
    """Write a checkpoint atomically; equal models give equal bytes.

    Parameters
    ----------
    path : Path
        Ends in .safetensors; an older file is replaced at once.
    model : torch.nn.Module
    name : str
    options, training : dict
        JSON values; see `Checkpoint`.
    """
    from safetensors.torch import save

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    header = {"format": FORMAT, "version": VERSION, "model": name, "options": options, "training": training}
    with unfinished(path) as part:
        part.write_bytes(save(tensors, {"relo": canonical_json(header)}))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and build its model.

    Parameters
    ----------
    path : path
        A .safetensors file that `train` wrote, or the run folder it is in.

    Raises
    ------
    TrainingError
        The file is missing, damaged, or was not written by relo.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    if not file.is_file():
        raise TrainingError("does not exist", file=file, advice="Give a run folder or its model.safetensors.")
    header = _read_header(file)
    if header.get("format") != FORMAT:
        raise TrainingError(
            "is no checkpoint of relo",
            file=file,
            advice="Give a run folder of 'relo train' or its model.safetensors.",
        )
    if header.get("version") != VERSION:
        raise TrainingError(
            f"has checkpoint version {header.get('version')}, this relo reads version {VERSION}",
            file=file,
            advice="Install the relo version that made it.",
        )
    try:
        name, options, training = header["model"], header["options"], header["training"]
        model = create_model(name, **options)
    except (KeyError, TypeError, ReloError) as error:
        raise TrainingError(f"does not describe a model that this relo knows ({error})", file=file) from error
    load_weights(model, file)
    return Checkpoint(file, name, options, training, model.eval())


def _read_header(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            header = json.loads((content.metadata() or {}).get("relo", "{}"))
        return header if isinstance(header, dict) else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(
            "is damaged or no safetensors file",
            file=file,
            advice="Give a run folder or its model.safetensors.",
        ) from error
