"""Deblurring networks under one call: `create_model(name, **options)`; `model(blur)` gives a `Restoration`.

Importing this package imports no torch; creating a model does.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from relo.errors import ConfigError
from relo.models.restoration import Restoration

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelInfo", "Restoration", "create_model", "list_models", "load_weights", "model_info"]


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a network before it is built.

    Attributes
    ----------
    name : str
        What `create_model` and recipes call it.
    source : str
        Publication.
    parameters : int
        Number of parameters with the default options.
    published : dict of str to float
        Results on the ReLoBlur test set (Li et al. 2023, table 1); empty where there are none.
    location : str
        `module:function` that builds it.
    """

    name: str
    source: str
    parameters: int
    location: str
    published: dict[str, float] = field(default_factory=dict)


_MODELS = {
    info.name: info
    for info in (
        ModelInfo(
            "mimo_unet",
            "Cho et al. 2021, MIMO-UNet",
            6_807_171,
            "relo.models.mimo_unet:mimo_unet",
            {"psnr": 34.52, "ssim": 0.9250, "psnr_w": 27.95, "ssim_w": 0.8650},
        ),
        ModelInfo(
            "mimo_unet_plus",
            "Cho et al. 2021, MIMO-UNet+",
            16_107_651,
            "relo.models.mimo_unet:mimo_unet_plus",
        ),
        ModelInfo(
            "lbag",
            "Li et al. 2023, LBAG",
            16_109_670,
            "relo.models.lbag:lbag",
            {"psnr": 34.66, "ssim": 0.9249, "psnr_w": 28.25, "ssim_w": 0.8692},
        ),
    )
}


def list_models() -> tuple[str, ...]:
    """Names that `create_model` knows."""
    return tuple(_MODELS)


def model_info(name: str) -> ModelInfo:
    """Return what is known about a network without building it.

    Raises
    ------
    ConfigError
        There is no such network; the known names are given.
    """
    try:
        return _MODELS[name]
    except KeyError:
        raise ConfigError(f"there is no model '{name}'", advice=f"Known: {', '.join(_MODELS)}.") from None


def create_model(name: str, **config: Any) -> nn.Module:
    """Build a network with freshly initialised parameters.

    Parameters
    ----------
    name : str
        One of `list_models()`.
    **config
        Options of that network, for example `num_res=20, width=32` or, for lbag, `clamp_gate=0.1`.

    Returns
    -------
    torch.nn.Module
        Maps (N, 3, H, W) RGB in [0, 1], any H and W, to a `Restoration`.

    Raises
    ------
    ConfigError
        The name, an option or its value is unknown.

    Examples
    --------
    >>> import torch
    >>> model = create_model("lbag", num_res=1, width=4).eval()
    >>> tuple(model(torch.zeros(1, 3, 9, 14)).image.shape)
    (1, 3, 9, 14)
    """
    module, _, function = model_info(name).location.partition(":")
    build = getattr(import_module(module), function)
    known = inspect.signature(build).parameters
    unknown = [key for key in config if key not in known]
    if unknown:
        raise ConfigError(f"model {name} has no option '{unknown[0]}'", advice=f"Known: {', '.join(known)}.")
    try:
        return build(**config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name}: {error}") from error


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Put weights into `model`; see `relo.models.weights.load_weights`."""
    from relo.models import weights

    return weights.load_weights(model, source)
