"""Which device to compute on."""

from __future__ import annotations

import torch

from relo.errors import ConfigError


def choose_device(name: str | None = None) -> torch.device:
    """Find the device that a recipe or an option names.

    Parameters
    ----------
    name : str, optional
        "cpu", "cuda", "cuda:1", "mps", …; None or "auto" for the GPU if there is one, else the CPU.

    Raises
    ------
    ConfigError
        There is no such device.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    advice = "Use cpu, cuda or auto; relo doctor tells what this machine has."
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"the device '{name}' cannot be used (torch finds no GPU)", advice=advice)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"the device '{name}' cannot be used (torch has none of that name)", advice=advice
        ) from error
    try:
        torch.empty(0, device=device)
    # torch's ways to say that there is no such number, or no support for the kind in this build
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device '{name}' cannot be used ({reason})", advice=advice) from error
    return device


def device_in_words(device: torch.device) -> str:
    """Name a device as people know it: "cpu", or "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
