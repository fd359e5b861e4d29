"""Draw a restored image: the guided UNet, step by step, from noise or from a noised first guess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet
from relo.models.exprdiff.diffusion.prompts import Prompt
from relo.models.exprdiff.diffusion.schedule import held_to, noised, timesteps_from
from relo.models.exprdiff.diffusion.tiles import Joined, plan_tiles


class Images(NamedTuple):
    """Images that guide the diffusion.

    Attributes
    ----------
    condition : (1, 3, H, W) tensor in [0, 1]
        The guided filter's result.
    short : (1, 3, H, W) tensor in [0, 1]
    mask : (1, 1, H, W) tensor in [0, 1]
        1 where it is blurred.
    """

    condition: Tensor
    short: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampling; the paper names none.

    Attributes
    ----------
    steps : int
        Of the scheduler, for the whole way from pure noise.
    strength : float
        In (0, 1]: share of the denoising that is done, beginning with the noised first guess; 1 begins with pure
        noise.
    guidance_scale : float
        Of classifier-free guidance; 1 for none, which halves the time.
    control_scale : float
        Factor of the control branch.
    restoration : float
        Power of SUPIR's restoration guidance, which holds the result to the first guess; 0 for none.
    seed : int
    tile, overlap : int
        Side of the square tiles and what neighbours share [latents of 8 px].
    """

    steps: int = 20
    strength: float = 0.7
    guidance_scale: float = 1.0
    control_scale: float = 1.0
    restoration: float = 0.0
    seed: int = 0
    tile: int = 128
    overlap: int = 16


@torch.no_grad()
def sample(
    model: GuidedUNet,
    scheduler: Any,
    images: Images,
    clean: Tensor,
    wanted: Tensor,
    prompts: tuple[Prompt, Prompt | None],
    sampling: Sampling,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise latents, in tiles if they are large.

    Parameters
    ----------
    model : GuidedUNet
    scheduler : diffusers scheduler
        Left in another state.
    images : Images
        On the device and with the dtype of the model.
    clean : (1, 4, h, w) float32 tensor
        Latents of the first guess, on the same device. They stay float32, whatever the model computes in.
    wanted : (h, w) bool tensor
        Where the result counts: only tiles with such a place are computed.
    prompts : (Prompt, Prompt or None)
        What it shall be, and what not: the latter for a guidance scale other than 1. With the dtype of the model.
    sampling : Sampling
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    (1, 4, h, w) tensor
        Decided by the inputs and the seed; `clean` where no tile was computed.
    """
    tiles = plan_tiles(wanted, sampling.tile, sampling.overlap)
    factor = model.guide.factor
    guidances = [model.guide(*(tile.of(image, factor) for image in images)) for tile in tiles]
    # From the CPU: the same numbers on every device.
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(sampling.seed)).to(clean)
    timesteps = timesteps_from(scheduler, sampling.steps, sampling.strength, clean.device)
    latents = noised(scheduler, clean, noise, timesteps[:1], sampling.strength).to(clean)
    positive, negative = prompts
    for number, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        joined = Joined(latents)
        for tile, guidance in zip(tiles, guidances, strict=True):
            part = tile.of(seen).to(positive.tokens.dtype).contiguous()
            prediction = model(part, timestep, positive, guidance, sampling.control_scale)
            if negative is not None and sampling.guidance_scale != 1:
                without = model(part, timestep, negative, guidance, sampling.control_scale)
                prediction = without + sampling.guidance_scale * (prediction - without)
            joined.add(tile, prediction.to(latents.dtype))
        prediction = joined.mean()
        if sampling.restoration:
            following = float(timesteps[number + 1]) if number + 1 < len(timesteps) else 0.0
            prediction = held_to(
                scheduler, prediction, seen, clean, float(timestep), following, sampling.restoration
            )
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0].to(clean.dtype)
        if progress:
            progress(number + 1, len(timesteps))
    computed = torch.zeros_like(wanted)
    for tile in tiles:
        tile.of(computed).fill_(True)
    return torch.where(computed.to(clean.device), latents, clean)
