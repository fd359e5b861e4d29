"""Which device to compute on."""

from __future__ import annotations

import torch

from relo.errors import ConfigError


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Find the device that a recipe or an option names.

    Parameters
    ----------
    name : str or torch.device, optional
        "cpu", "cuda", "cuda:1", "mps", …; None or "auto" for the GPU if there is one, else the CPU.

    Raises
    ------
    ConfigError
        There is no such device.
    """
    there = torch.cuda.is_available()
    name = "auto" if name is None else str(name)
    if name == "auto" or (name == "cuda" and there):  # which of several GPUs is the caller's affair
        return torch.device("cuda" if there else "cpu")
    advice = "Use cpu, cuda or auto; relo doctor tells what this machine has."
    if name.startswith("cuda") and not there:
        raise ConfigError(f"the device '{name}' cannot be used (torch finds no GPU)", advice=advice)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"the device '{name}' cannot be used (torch has none of that name)", advice=advice
        ) from error
    try:
        torch.zeros(1, device=device).item()  # "meta" has no values
    # torch's ways to say that there is no such number, or no support for the kind in this build
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device '{name}' cannot be used ({reason})", advice=advice) from error
    return device


def device_in_words(device: torch.device) -> str:
    """Name a device as people know it: "cpu", or "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
