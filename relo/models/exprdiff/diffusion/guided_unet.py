"""A frozen UNet with a guide: the UNet's own code and weights, and hooks on its down blocks while it runs.

Attention processors and the residuals of a ControlNet cannot express ExpBFusion, because they do not see the
encoder's features together with those of the short exposure. Hooks on the down blocks can, and leave the UNet as
diffusers made it, with gradient checkpointing and autocast.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from relo.models.exprdiff.diffusion.guide import Guidance, ShortExposureGuide
from relo.models.exprdiff.diffusion.prompts import Prompt


class GuidedUNet(nn.Module):
    """A frozen UNet, whose encoder features a guide modifies. An untrained guide changes nothing, bit for bit.

    Parameters
    ----------
    unet : diffusers.UNet2DConditionModel
        Frozen by this.
    guide : ShortExposureGuide
    """

    def __init__(self, unet: Any, guide: ShortExposureGuide) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        self.guide = guide

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        prompt: Prompt,
        guidance: Guidance,
        control_scale: float = 1.0,
    ) -> Tensor:
        """Predict the noise, or what else the base model was trained to predict.

        Parameters
        ----------
        latents : (N, 4, h, w) tensor
            Noisy, as the scheduler scales them for the model.
        timestep : (N,) or () tensor
        prompt : Prompt
        guidance : Guidance
            What the guide made of the images.
        control_scale : float
            Factor of the control branch's residuals.

        Returns
        -------
        (N, 4, h, w) tensor
        """
        known = prompt.conditions(len(latents))
        control = self.guide.control(
            latents, timestep, controlnet_cond=guidance.control, conditioning_scale=control_scale, **known
        )
        with ExitStack() as hooks:
            for number, features in enumerate(guidance.features):
                hook = partial(_fuse, self.guide.fusions[number], features, guidance.masks[number], guidance.binary)
                hooks.callback(self.unet.down_blocks[number].register_forward_hook(hook).remove)
            return self.unet(
                latents,
                timestep,
                down_block_additional_residuals=control.down_block_res_samples,
                mid_block_additional_residual=control.mid_block_res_sample,
                **known,
            ).sample


def _fuse(
    fusion: nn.Module,
    features: Tensor,
    mask: Tensor,
    binary: bool,
    block: nn.Module,  # noqa: ARG001
    inputs: Any,  # noqa: ARG001
    output: tuple[Tensor, tuple[Tensor, ...]],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Replace the output of a down block and its last skip connection, which is the same tensor."""
    hidden, skips = output
    fused = fusion(hidden, features, mask, binary=binary)
    return fused, (*skips[:-1], fused)
