"""What a guide is trained towards: the noise in the sharp image's latents, and clean pictures on the way (PASD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from relo.models.exprdiff.diffusion.conditioning import GuidedFilter, condition
from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet
from relo.models.exprdiff.diffusion.latents import encode
from relo.models.exprdiff.diffusion.prompts import Prompt
from relo.models.exprdiff.diffusion.schedule import training_target


class Batch(NamedTuple):
    """Images of a step.

    Attributes
    ----------
    blur, short, sharp : (N, 3, H, W) tensor in [0, 1]
        H and W are multiples of 8.
    mask : (N, 1, H, W) tensor in [0, 1]
        1 where it is blurred.
    """

    blur: Tensor
    short: Tensor
    sharp: Tensor
    mask: Tensor


class Draws(NamedTuple):
    """Random numbers of a step, drawn for the whole batch, so that they do not depend on how it is divided.

    Attributes
    ----------
    timesteps : (N,) int64 tensor
    noise : (N, 4, h, w) tensor
        What is added to the latents.
    encoding : (N, 4, h, w) tensor
        For the draw of the latents themselves.
    """

    timesteps: Tensor
    noise: Tensor
    encoding: Tensor


def draw(seed: int, step: int, shape: Sequence[int], levels: int) -> Draws:
    """Random numbers of a step: decided by seed and step alone, on the CPU.

    Parameters
    ----------
    seed, step : int
    shape : (N, 4, h, w)
        Of the latents.
    levels : int
        Number of noise levels of the base model.
    """
    rng = Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    timesteps = torch.randint(levels, (shape[0],), generator=rng)
    noise, encoding = (torch.randn(tuple(shape), generator=rng) for _ in range(2))
    return Draws(timesteps, noise, encoding)


def objective(
    model: GuidedUNet,
    vae: Any,
    scheduler: Any,
    prompt: Prompt,
    batch: Batch,
    draws: Draws,
    *,
    form: GuidedFilter = "masked",
    radius: int = 16,
    eps: float = 1e-4,
    degradation_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Compute the loss of a batch.

    Parameters
    ----------
    model : GuidedUNet
    vae : diffusers.AutoencoderKL
    scheduler : diffusers.DDPMScheduler
        Its prediction type decides what the noise term compares: noise, velocity or clean latents.
    prompt : Prompt
    batch : Batch
    draws : Draws
        On the device of the batch.
    form, radius, eps
        Of the guided filter, see `condition`.
    degradation_weight : float

    Returns
    -------
    dict
        "loss", "noise" (mean squared error) and, unless its weight is 0, "degradation", float32 scalars.
    """
    with torch.no_grad():
        clean = encode(vae, batch.sharp, draws.encoding)
        noisy = scheduler.add_noise(clean, draws.noise, draws.timesteps)
        target = training_target(scheduler, clean, draws.noise, draws.timesteps)
        first_guess = condition(batch.blur, batch.short, batch.mask, form, radius=radius, eps=eps)
    guidance = model.guide(first_guess, batch.short, batch.mask)
    predicted = model(noisy, draws.timesteps, prompt, guidance)
    terms = {"noise": F.mse_loss(predicted.float(), target.float())}
    if degradation_weight:
        terms["degradation"] = degradation(guidance.pictures, batch.sharp)
    weighted = terms["noise"] + degradation_weight * terms.get("degradation", 0)
    return {"loss": weighted, **terms}


def degradation(pictures: Sequence[Tensor], sharp: Tensor) -> Tensor:
    """Sum over the scales of the mean absolute difference from the sharp image in [-1, 1], made small bilinearly.

    Parameters
    ----------
    pictures : sequence of (N, 3, H / s, W / s) tensors
    sharp : (N, 3, H, W) tensor in [0, 1]
    """
    differences = []
    for picture in pictures:
        small = F.interpolate(2 * sharp - 1, picture.shape[-2:], mode="bilinear", align_corners=False)
        differences.append(F.l1_loss(picture.float(), small))
    return torch.stack(differences).sum()
