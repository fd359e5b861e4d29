"""Images to latents and back, through the base model's autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(vae: Any, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents of images, as the UNet wants them scaled.

    Parameters
    ----------
    vae : diffusers.AutoencoderKL
    images : (N, 3, H, W) tensor in [0, 1]
        H and W are multiples of 8.
    noise : (N, 4, H / 8, W / 8) tensor, optional
        Standard normal numbers, for a draw from the distribution that the encoder gives; its mode without.

    Returns
    -------
    (N, 4, H / 8, W / 8) float32 tensor
        Contiguous, because convolutions would pass on the encoder's channels_last strides, see
        `relo.models.exprdiff.diffusion.fusion`.
    """
    found = vae.encode((2 * images - 1).to(vae.dtype)).latent_dist
    latents = found.mean if noise is None else found.mean + found.std * noise.to(found.std)
    return (latents.float() * vae.config.scaling_factor).contiguous()


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images (N, 3, H, W) of latents (N, 4, H / 8, W / 8), float32, clipped to [0, 1]."""
    images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return torch.clamp(images.float() / 2 + 0.5, 0, 1)
