"""CLIPIQA+ and MUSIQ-PAQ2PIQ, learnt metrics without a reference, by pyiqa where the user installed it.

relo does not depend on pyiqa: its licence forbids commercial use, it needs torchvision and much else, and it
downloads weights when a metric is first used. Those are read by pyiqa, in its own way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor

from relo.errors import TrainingError

# Names here, and pyiqa's names of what published tables call CLIPIQA+ (or CLIPQA+) and MUSIQ-PAQ2PIQ.
NAMES = {"clipiqa_plus": "clipiqa+", "musiq_paq2piq": "musiq-paq2piq"}

_INSTALL = (
    "Install it with  pip install -c constraints.txt pyiqa  (licence: no commercial use; "
    "it downloads weights when first used)"
)


def load_metric(name: str, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
    """Metric of pyiqa as a plain function.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    device : torch.device or str
        Where it computes.

    Returns
    -------
    callable
        Maps (N, 3, H, W) RGB in [0, 1] on any device to (N,) float64 on the CPU, one image at a time; higher is
        better: CLIPIQA+ in [0, 1], MUSIQ-PAQ2PIQ in [0, 100].

    Raises
    ------
    TrainingError
        pyiqa is not installed, cannot be imported, or cannot get the metric's weights.
    ValueError
        There is no such name.
    """
    if name not in NAMES:
        raise ValueError(f"unknown metric '{name}', expected one of {', '.join(NAMES)}")
    package = _import_pyiqa()
    try:
        with redirect_stdout(sys.stderr):  # it tells there what it loads; stdout is the program's answer
            metric = package.create_metric(NAMES[name], device=torch.device(device))
    except Exception as error:  # of requests, huggingface_hub, torch: whatever a failed download is
        raise TrainingError(
            f"pyiqa cannot set up {NAMES[name]} ({_told(error)})",
            advice="It downloads weights when first used: let it do so once with a network",
        ) from error

    def score(images: Tensor) -> Tensor:
        with torch.no_grad():
            values = [float(metric(image[None].float().to(device))) for image in images]
        return torch.tensor(values, dtype=torch.float64)

    return score


def _import_pyiqa() -> Any:
    """Package pyiqa, or the error that says why not."""
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module("pyiqa")
    except ModuleNotFoundError as error:
        if error.name == "pyiqa":
            raise TrainingError("the package 'pyiqa' is not installed", advice=_INSTALL) from error
        raise _broken(error) from error
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise _broken(error) from error


def _broken(error: Exception) -> TrainingError:
    return TrainingError(
        f"pyiqa is installed but cannot be imported ({_told(error)})",
        advice="It needs a torchvision built for the torch that is installed:  relo doctor  tells of both",
    )


def _told(error: Exception) -> str:
    """One line of what an error says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
