"""The networks of a run: the frozen base model and the guide, on their device, in the run's precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from relo.errors import ConfigError
from relo.models.exprdiff.diffusion.base import BaseModel, require_packages
from relo.models.exprdiff.diffusion.guide import ShortExposureGuide
from relo.models.exprdiff.diffusion.guided_unet import GuidedUNet
from relo.models.exprdiff.diffusion.prompts import Prompt, encode_prompt
from relo.training.diffusion.recipe import FACTOR, DiffusionRecipe


@dataclass(frozen=True)
class Parts:
    """What a training step needs.

    Attributes
    ----------
    model : GuidedUNet
    vae : diffusers.AutoencoderKL
    scheduler : diffusers.DDPMScheduler
    prompt : Prompt
    """

    model: GuidedUNet
    vae: Any
    scheduler: Any
    prompt: Prompt


def base_of(recipe: DiffusionRecipe) -> BaseModel:
    """The base model that a recipe names."""
    return BaseModel(recipe.base, recipe.variant, recipe.offline, recipe.cache_dir)


def build_parts(recipe: DiffusionRecipe, device: torch.device) -> Parts:
    """Load the base model and make an untrained guide for it.

    Raises
    ------
    MissingExtraError, TrainingError, ConfigError
        diffusers is not installed; there is no base model; its sizes do not suit.
    """
    require_packages("diffusers", "transformers")
    base = base_of(recipe)
    prompt = encode_prompt(base, recipe.prompt)
    # The guide stays in float32 under autocast; the frozen UNet can be kept in half the memory.
    dtype = torch.float32 if recipe.precision == "32-true" else torch.bfloat16
    unet, vae = base.unet(dtype), base.vae(torch.float32).requires_grad_(False)
    require_factor(vae)
    torch.manual_seed(recipe.seed)
    try:
        guide = ShortExposureGuide(unet.config, **recipe.guide_options)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"no guide can be made for this base model ({error})", advice="Give an SDXL: base=NAME."
        ) from error
    guide.start_from(unet)
    model = GuidedUNet(unet, guide).to(device)
    if recipe.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.guide.control.enable_gradient_checkpointing()  # type: ignore[operator]
    return Parts(model, vae.to(device), base.scheduler("DDPMScheduler"), prompt.to(torch.zeros(1, device=device)))


def require_factor(vae: Any) -> None:
    """Refuse an autoencoder whose latents have another scale than the guide is made for."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if factor != FACTOR:
        raise ConfigError(
            f"the base model has a latent for {factor} x {factor} px, the guide is made for {FACTOR} x {FACTOR}",
            advice="Give an SDXL: base=NAME.",
        )
