"""The file of a trained guide: its tensors, the embeddings of its prompt, and how it was made.

A safetensors file with one entry "relo" in its header, JSON, like relo's other checkpoints. The base model is not
in it: the file names it, and a later run may name another one of the same sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relo.errors import TrainingError
from relo.models.exprdiff.diffusion.guide import ShortExposureGuide
from relo.models.exprdiff.diffusion.prompts import Prompt
from relo.models.weights import load_weights

FORMAT = "relo-exprdiff"
VERSION = 1
_GUIDE, _PROMPT = "guide.", "prompt."


@dataclass(frozen=True)
class GuideFile:
    """What the header of a weights file tells.

    Attributes
    ----------
    path : Path
    base : dict
        Fields of `BaseModel` that it was trained with.
    guide : dict
        Options of `ShortExposureGuide`.
    condition : dict
        Options of `relo.models.exprdiff.diffusion.conditioning.condition`: form, radius, eps.
    training : dict
        Record of the training.
    """

    path: Path
    base: dict[str, Any]
    guide: dict[str, Any]
    condition: dict[str, Any]
    training: dict[str, Any]


def write_guide(path: Path, guide: ShortExposureGuide, prompt: Prompt, about: Mapping[str, Any]) -> None:
    """Write a weights file; equal guides give equal bytes. Nothing is done to make it atomic.

    Parameters
    ----------
    path : Path
    guide : ShortExposureGuide
    prompt : Prompt
    about : mapping
        JSON values for `base`, `guide`, `condition` and `training` of `GuideFile`.
    """
    from safetensors.torch import save_file

    tensors = {f"{_GUIDE}{name}": value for name, value in guide.state_dict().items()}
    tensors |= {f"{_PROMPT}{name}": value for name, value in prompt._asdict().items()}
    header = {"format": FORMAT, "version": VERSION, **about}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path, {"relo": text})


def read_header(path: Path) -> GuideFile:
    """Read what a weights file tells of itself.

    Raises
    ------
    TrainingError
        It is missing, damaged, or not the weights of an ExpRDiff guide.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TrainingError("does not exist", file=path, advice="Give a run folder of 'relo train exprdiff'.")
    try:
        with safe_open(path, framework="pt") as content:
            header = json.loads((content.metadata() or {}).get("relo", "{}"))
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}")
        if header.get("version") != VERSION:
            raise TrainingError(
                f"has version {header.get('version')}, this relo reads version {VERSION}",
                file=path,
                advice="Install the relo version that made it.",
            )
        parts = [dict(header[name]) for name in ("base", "guide", "condition", "training")]
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TrainingError(
            "holds no trained guide of ExpRDiff, or is damaged",
            file=path,
            advice="Give a run folder of 'relo train exprdiff', or copy it again.",
        ) from error
    return GuideFile(path, *parts)


def read_guide(file: GuideFile, unet_config: Mapping[str, Any]) -> tuple[ShortExposureGuide, Prompt]:
    """Build the guide of a weights file for a UNet, strictly.

    Parameters
    ----------
    file : GuideFile
    unet_config : mapping
        `unet.config` of the base model.

    Returns
    -------
    ShortExposureGuide, Prompt
        In evaluation mode, float32, on the CPU.

    Raises
    ------
    TrainingError
        The file is damaged, or was trained for a base model of other sizes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file.path)
        prompt = Prompt(tensors.pop(f"{_PROMPT}tokens").float(), tensors.pop(f"{_PROMPT}pooled").float())
        options = file.guide | {"embedding_channels": tuple(file.guide["embedding_channels"])}
        with torch.device("meta"):  # the header can ask for any size
            needed = sum(value.numel() for value in ShortExposureGuide(unet_config, **options).parameters())
        if needed > sum(value.numel() for value in tensors.values()):
            raise ValueError(f"{needed} parameters are needed")
        guide = ShortExposureGuide(unet_config, **options)
        load_weights(guide, {name.removeprefix(_GUIDE): value for name, value in tensors.items()})
    except TrainingError as error:
        raise TrainingError(
            f"does not fit the base model: {error.reason}",
            file=file.path,
            advice=f"Give the base model that it was trained with, {file.base.get('name')}.",
        ) from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"is damaged, or was trained for a base model of other sizes ({(str(error).splitlines() or [''])[0]})",
            file=file.path,
            advice=f"Give the base model that it was trained with, {file.base.get('name')}.",
        ) from error
    if prompt.tokens.ndim != 3 or prompt.tokens.shape[-1] != unet_config["cross_attention_dim"]:
        raise TrainingError("its prompt does not fit the base model", file=file.path)
    return guide.eval(), prompt
