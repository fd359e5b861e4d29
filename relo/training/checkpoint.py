"""relo's own checkpoint: a safetensors file that says which model it is and how it was trained.

Published weights files are read too, where their names and shapes tell which network they belong to.

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
from relo.errors import ConfigError, TrainingError
from relo.models import create_model, is_own, list_models, load_weights
from relo.models.exprdiff.diffusion.weights import FORMAT as GUIDE_FORMAT
from relo.models.recognition import recognise
from relo.models.weights import is_safetensors, read_state_dict

if TYPE_CHECKING:
    from torch import nn

FORMAT = "relo-model"
VERSION = 1
FILE_NAME = "model.safetensors"  # of the last step
BEST_NAME = "best.safetensors"  # of the step that validated best


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and where it comes from.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Name of the model, see `relo.models.list_models`.
    options : dict
        Options it was created with.
    training : dict
        Record of the training: recipe, steps, dataset, versions; empty for published weights.
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


def load_checkpoint(path: str | os.PathLike[str], *, model: str | None = None) -> Checkpoint:
    """Read a checkpoint and build its model. Nothing in the file is ever executed.

    Parameters
    ----------
    path : path
        A .safetensors file that `train` wrote; a run folder, which stands for its best.safetensors or, where
        nothing was validated, its model.safetensors; or published weights (.pkl, .ckpt, .pth, …).
    model : str, optional
        Name for `create_model`, instead of the one that the file tells. Needed for a network of your own,
        `my_net.py:MyNet`, because a file shall not decide what Python code is executed.

    Raises
    ------
    TrainingError
        The file is missing, damaged, holds Python objects, or its network is not known.
    ConfigError
        `model` is unknown or cannot be built.
    """
    file = find_weights(path)
    header = _read_header(file) if is_safetensors(file) else {}
    if header.get("format") == GUIDE_FORMAT:
        raise TrainingError(
            "holds a guide of ExpRDiff, which restores nothing without its diffusion model",
            file=file,
            advice="Deblur with it: relo deblur RUN IMAGE --short SHORT --mask-from MASK -o DIR",
        )
    if header.get("format") != FORMAT:
        return _published(file, model)
    if header.get("version") != VERSION:
        raise TrainingError(
            f"has checkpoint version {header.get('version')}, this relo reads version {VERSION}",
            file=file,
            advice="Install the relo version that made it.",
        )
    try:
        name, options, training = str(header["model"]), header["options"], header["training"]
        if training.get("recipe", {}).get("prior", {}).get("stage") == "encode":
            raise _first_stage(file, "Give the folder of the whole run.")
        if model is None and is_own(name):
            raise TrainingError(
                f"was trained with the network {name}, which is not part of relo",
                file=file,
                advice="Say where it is now: --model FILE.py:NAME.",
            )
        network = _build(model or name, options, file)
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        if model is not None and isinstance(error, ConfigError):
            if is_own(model):
                raise
            told = f"is no {model}, by its header a {header['model']} ({error.reason})"
            raise ConfigError(told, file=file, advice="Leave --model away.") from error
        raise TrainingError(f"does not describe a model that this relo knows ({error})", file=file) from error
    _require_all(load_weights(network, file), model or name, file)
    return Checkpoint(file, model or name, options, training, network.eval())


def _first_stage(file: Path, advice: str) -> TrainingError:
    reason = "is the first stage of a BlurDM: its prior needs the sharp image, its diffusion is not trained"
    return TrainingError(reason, file=file, advice=advice)


def find_weights(path: str | os.PathLike[str]) -> Path:
    """File that `path` stands for: itself, or the best or else the last weights of a run folder.

    Raises
    ------
    TrainingError
        There is none.
    """
    file = Path(path)
    if file.is_dir():
        file = next((file / name for name in (BEST_NAME, FILE_NAME) if (file / name).is_file()), file / FILE_NAME)
    if not file.is_file():
        raise TrainingError("does not exist", file=file, advice="Give a run folder or its model.safetensors.")
    return file


def _published(file: Path, model: str | None) -> Checkpoint:
    state = read_state_dict(file)
    found = recognise(state)
    if model is None:
        if found is None and {name.partition(".")[0] for name in state} == {"backbone", "sharp_encoder"}:
            raise _first_stage(file, "Give the file of its last stage.")
        if found is None:
            raise TrainingError(
                "is no checkpoint of relo, and its tensors are of no network that relo recognises",
                file=file,
                advice="Give a run folder of 'relo train', or name the network with --model.",
            )
        name, options = found
    else:
        # Relatives share their options; a network of the user's own has its defaults.
        name, options = model, found[1] if found and not is_own(model) else {}
    try:
        network = _build(name, options, file)
    except ConfigError as error:
        if model is not None:
            if found is None or is_own(model) or model not in list_models():
                raise
            told = f"is no {model}, by its tensors a {found[0]} ({error.reason})"
            raise ConfigError(told, file=file, advice="Leave --model away.") from error
        raise TrainingError(f"does not describe a model that this relo knows ({error})", file=file) from error
    try:
        left = load_weights(network, state)
    except TrainingError as error:
        raise TrainingError(error.reason, file=file, advice=error.advice) from error
    _require_all(left, name, file)
    return Checkpoint(file, name, options, {}, network.eval())


def _require_all(left: tuple[str, ...], name: str, file: Path) -> None:
    """Refuse weights with which only a part of the network would be trained."""
    if left:
        raise TrainingError(
            f"holds no trained {name}: {len(left)} tensors would stay untrained",
            file=file,
            advice="Leave --model away, or train from these weights with --set model.weights=FILE.",
        )


def _build(name: str, options: dict[str, Any], file: Path) -> nn.Module:
    """Create the network, unless `file` is too small to hold it: its header can ask for any size."""
    if not is_own(name):
        import torch

        with torch.device("meta"):
            parameters = sum(tensor.numel() for tensor in create_model(name, **options).state_dict().values())
        size = file.stat().st_size
        if parameters > size:  # a parameter takes one byte or more
            raise TrainingError(
                f"weights do not fit this network: {size} bytes for {parameters} parameters",
                file=file,
                advice="Choose the model it was trained as, or copy it again.",
            )
    return create_model(name, **options)


def _read_header(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            header = json.loads((content.metadata() or {}).get("relo", "{}"))
        return header if isinstance(header, dict) else {}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise TrainingError(
            "is damaged or no safetensors file",
            file=file,
            advice="Give a run folder or its model.safetensors.",
        ) from error
