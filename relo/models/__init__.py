"""Deblurring networks under one call: `create_model(name, **options)`; `model(blur)` gives a `Restoration`.

Importing this package imports no torch; creating a model does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relo.errors import ConfigError
from relo.models.options import check_names, check_types, option_names
from relo.models.own import read_own
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
    parameters : int or None
        Number of parameters with the default options; None for a network of the user's own.
    published : dict of str to float
        Results on the ReLoBlur test set: psnr, ssim, psnr_w, ssim_w and, where given, psnr_a; `mimo_unet` and
        `lbag` from Li et al. 2023, table 1, the others from the M2AENet paper, table 1, with another training and
        newer masks. Empty where there are none.
    location : str
        `module:name` of the class or function that builds it, or `file.py:name`.
    """

    name: str
    source: str
    parameters: int | None
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
            {"psnr": 34.52, "ssim": 0.9250, "psnr_w": 27.95, "ssim_w": 0.8650, "psnr_a": 35.42},
        ),
        ModelInfo(
            "mimo_unet_plus",
            "Cho et al. 2021, MIMO-UNet+",
            16_107_651,
            "relo.models.mimo_unet:mimo_unet_plus",
            {"psnr": 34.421, "ssim": 0.9239, "psnr_w": 28.801, "ssim_w": 0.8746},
        ),
        ModelInfo(
            "lbag",
            "Li et al. 2023, LBAG",
            16_109_670,
            "relo.models.lbag:LBAG",
            {"psnr": 34.66, "ssim": 0.9249, "psnr_w": 28.25, "ssim_w": 0.8692, "psnr_a": 35.39},
        ),
        ModelInfo(
            "nafnet",
            "Chen et al. 2022, NAFNet",
            17_111_907,
            "relo.models.nafnet:NAFNet",
            {"psnr": 34.584, "ssim": 0.9244, "psnr_w": 28.633, "ssim_w": 0.8751},
        ),
        ModelInfo(
            "restormer",
            "Zamir et al. 2022, Restormer",
            26_126_644,
            "relo.models.restormer:Restormer",
            {"psnr": 34.670, "ssim": 0.9228, "psnr_w": 29.436, "ssim_w": 0.8793},
        ),
        ModelInfo(
            "m2aenet",
            "Shang et al. 2025, M2AENet",
            17_437_865,
            "relo.models.m2aenet.network:M2AENet",
            {"psnr": 35.647, "ssim": 0.9302, "psnr_w": 31.036, "ssim_w": 0.8997},
        ),
        ModelInfo(
            "stripformer", "Tsai et al. 2022, Stripformer", 19_708_611, "relo.models.stripformer:Stripformer"
        ),
        ModelInfo("fftformer", "Kong et al. 2023, FFTformer", 16_560_474, "relo.models.fftformer:FFTformer"),
        ModelInfo("loformer", "Mao et al. 2024, LoFormer-S", 16_382_661, "relo.models.loformer:LoFormer"),
        ModelInfo("loformer_s", "Mao et al. 2024, LoFormer-S", 16_382_661, "relo.models.loformer:LoFormer"),
        ModelInfo("loformer_b", "Mao et al. 2024, LoFormer-B", 27_925_041, "relo.models.loformer:loformer_b"),
        ModelInfo("loformer_l", "Mao et al. 2024, LoFormer-L", 49_031_521, "relo.models.loformer:loformer_l"),
        ModelInfo(
            "blurdm",
            "He et al. 2025, BlurDM over MIMO-UNet+ or another backbone",
            18_290_115,
            "relo.models.blurdm.network:blurdm",
        ),
        ModelInfo(
            "exprdiff_detector",
            "ExpRDiff (arXiv 2412.09193), blurred patches",
            405_954,
            "relo.models.exprdiff.detector:BlurDetector",
        ),
    )
}


def list_models() -> tuple[str, ...]:
    """Names that `create_model` knows."""
    return tuple(_MODELS)


def model_info(name: str) -> ModelInfo:
    """Return what is known about a network without building it.

    Parameters
    ----------
    name : str
        One of `list_models()`, or `file.py:name` for a network of the user's own.

    Raises
    ------
    ConfigError
        There is no such network or file; the known names are given.
    """
    if name in _MODELS:
        return _MODELS[name]
    if is_own(name):
        file = Path(name.rpartition(":")[0])
        if not file.is_file():
            raise ConfigError("does not exist", file=file, advice="A model of your own is FILE.py:NAME.")
        return ModelInfo(name, str(file), None, name)
    known = ", ".join(_MODELS)
    raise ConfigError(f"there is no model '{name}'", advice=f"Known: {known}; or FILE.py:NAME for your own.")


def is_own(name: str) -> bool:
    """Whether a model's name says in which Python file it is, `my_net.py:MyNet`."""
    return name.rpartition(":")[0].endswith(".py")


def create_model(name: str, **config: Any) -> nn.Module:
    """Build a network with freshly initialised parameters.

    Parameters
    ----------
    name : str
        One of `list_models()`, or `file.py:name`: a class or function in a Python file of your own, which is
        executed. It takes options as keywords and gives a module that returns a `Restoration`.
    **config
        Options of that network, for example `num_res=20, width=32` or, for lbag, `clamp_gate=0.1`; for blurdm also
        those of its `backbone`.

    Returns
    -------
    torch.nn.Module
        Maps (N, 3, H, W) RGB in [0, 1], any H and W, to a `Restoration`; exprdiff_detector restores nothing, and
        gives a `relo.models.exprdiff.detector.BlurDetection`.

    Raises
    ------
    ConfigError
        The name or an option is unknown, or a value is of the wrong type or out of range.

    Examples
    --------
    >>> import torch
    >>> model = create_model("lbag", num_res=1, width=4).eval()
    >>> tuple(model(torch.zeros(1, 3, 9, 14)).image.shape)
    (1, 3, 9, 14)
    """
    build = _builder(name)
    check_names(name, build, config)
    if not is_own(name):  # what annotations of a network of the user's own mean is not relo's to say
        check_types(name, build, config)
    try:
        return build(**config)
    # torch raises RuntimeError for a network that memory or integers cannot hold, with a trace of C++ below.
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model {name}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def model_options(name: str) -> tuple[str, ...]:
    """Options that `create_model` takes for a network; for blurdm without those of its backbone."""
    return option_names(_builder(name))


def _builder(name: str) -> Callable[..., nn.Module]:
    place, _, function = model_info(name).location.rpartition(":")
    return read_own(Path(place), function) if is_own(name) else getattr(import_module(place), function)


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Put weights into `model`; see `relo.models.weights.load_weights`."""
    from relo.models import weights

    return weights.load_weights(model, source)
