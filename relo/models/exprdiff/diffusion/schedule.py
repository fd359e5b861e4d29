"""Noise levels: from which step to begin, with how much noise, and how near to stay to a given image.

A scheduler of diffusers keeps latents either as sqrt(a) x + sqrt(1 - a) e (DDPM's form) or as x + sigma e, with
sigma = sqrt((1 - a) / a). What the model sees, `scale_model_input`, is always the former.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relo.errors import ConfigError

SCHEDULERS = {
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
}
FREE_BELOW = 0.05  # noise level below which a prediction is left as it is (SUPIR)


def timesteps_from(scheduler: Any, steps: int, strength: float, device: torch.device) -> Tensor:
    """Prepare a scheduler for the last part of its steps.

    Parameters
    ----------
    scheduler : diffusers scheduler
    steps : int
        From pure noise to the image.
    strength : float
        Share of the steps, above 0: steps * strength of them are done, rounded, at least one.

    Returns
    -------
    (n,) tensor
        The timesteps to do.

    Raises
    ------
    ConfigError
        The scheduler cannot do so many steps.
    """
    try:
        with warnings.catch_warnings():  # diffusers 0.42 hands a tensor to numpy 2 in an old way
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise ConfigError(f"steps {steps}: {str(error).splitlines()[0]}", advice="Use fewer steps.") from error
    order = scheduler.order
    skipped = (steps - min(max(round(steps * strength), 1), steps)) * order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.timesteps[skipped:]


def noised(scheduler: Any, clean: Tensor, noise: Tensor, first: Tensor, strength: float) -> Tensor:
    """Latents to begin with: pure noise at strength 1, else `clean` with the noise of the `first` timestep."""
    if strength >= 1:
        return noise * scheduler.init_noise_sigma
    return scheduler.add_noise(clean, noise, first.expand(len(clean)))


def noise_level(scheduler: Any, timestep: float) -> float:
    """Sigma of a timestep, between those of training linearly, as Euler's method takes it."""
    kept = scheduler.alphas_cumprod.double().cpu().numpy()
    return float(np.interp(timestep, np.arange(len(kept)), np.sqrt((1 - kept) / kept)))


def held_to(
    scheduler: Any, prediction: Tensor, seen: Tensor, clean: Tensor, timestep: float, following: float, power: float
) -> Tensor:
    """Pull a model's prediction towards given latents: SUPIR's restoration guidance, for any scheduler.

    The clean latents x that the prediction implies become x - (x - clean) (sigma / sigma_max)^power, unless the
    next noise level is below 0.05.

    Parameters
    ----------
    scheduler : diffusers scheduler
    prediction : (N, 4, h, w) tensor
        What the model gave: noise, velocity or clean latents, by `scheduler.config.prediction_type`.
    seen : (N, 4, h, w) tensor
        What the model saw, `scheduler.scale_model_input`.
    clean : (N, 4, h, w) tensor
        Latents to stay near to.
    timestep, following : float
        This one and the next; 0 after the last.
    power : float
        Above 0; the larger, the sooner the pull fades. SUPIR has 4.

    Returns
    -------
    (N, 4, h, w) tensor
        Of the same kind as `prediction`.
    """
    if noise_level(scheduler, following) <= FREE_BELOW:
        return prediction
    sigma = noise_level(scheduler, timestep)
    share = (sigma / noise_level(scheduler, len(scheduler.alphas_cumprod) - 1)) ** power
    signal = (sigma**2 + 1) ** -0.5
    noise = sigma * signal
    kind = scheduler.config.prediction_type
    if kind == "epsilon":  # seen = signal x + noise e
        return prediction + share * signal / noise * ((seen - noise * prediction) / signal - clean)
    if kind == "v_prediction":  # v = signal e - noise x, hence x = signal seen - noise v
        return prediction + share / noise * (signal * seen - noise * prediction - clean)
    return prediction - share * (prediction - clean)


def training_target(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the base model was trained to predict: noise, velocity or clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return clean
