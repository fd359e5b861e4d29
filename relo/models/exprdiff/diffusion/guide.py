"""All that is trained: the control branch, the short exposure's features and their fusion, as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.exprdiff.diffusion.control import EMBEDDING_CHANNELS, ImageEmbedding, control_net, copy_matching
from relo.models.exprdiff.diffusion.features import ShortFeatures, encoder_taps
from relo.models.exprdiff.diffusion.fusion import ExposureFusion

Fusion = Literal["off", "no_mask", "masked"]


class Guidance(NamedTuple):
    """What is computed once of an image and used at every step.

    Attributes
    ----------
    control : (N, C, h, w) tensor
        Embedding of the guided filter's result, of the size of the latents.
    pictures : tuple of (N, 3, H / s, W / s) tensors
        Guesses of the sharp image in [-1, 1], s = 2, 4, 8, for the loss.
    features : tuple of (N, C_i, h_i, w_i) tensors
        Of the short exposure; empty where nothing is fused.
    masks : tuple of (N, 1, h_i, w_i) tensors
    binary : bool
        Whether the masks hold 0 and 1 alone.
    """

    control: Tensor
    pictures: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    binary: bool


class ShortExposureGuide(nn.Module):
    """What guides a UNet; its state dict is what `relo train exprdiff` saves.

    Parameters
    ----------
    unet_config : mapping
        `unet.config` of the UNet to be guided.
    fusion : {"off", "no_mask", "masked"}
        No ExpBFusion, one that takes every pixel for blurred, or the paper's.
    attention_layers : int
        Transformer layers in each attention block of the control branch; 1 is light, 10 as deep as SDXL.
    embedding_channels : tuple of int
        Of the embedding of the guided filter's result; four, because each of the last three halves the size.

    Raises
    ------
    ValueError
        The embedding's scale is not that of the latents.
    """

    def __init__(
        self,
        unet_config: Mapping[str, Any],
        *,
        fusion: Fusion = "masked",
        attention_layers: int = 1,
        embedding_channels: tuple[int, ...] = EMBEDDING_CHANNELS,
    ) -> None:
        super().__init__()
        channels, strides = encoder_taps(unet_config["block_out_channels"])
        self.fusion = fusion
        self.factor = 2 ** (len(embedding_channels) - 1)
        self.embedding = ImageEmbedding(channels[0], embedding_channels)
        self.control = control_net(unet_config, attention_layers)
        fused = fusion != "off"
        self.features = ShortFeatures(channels, strides, self.factor) if fused else None
        self.fusions = nn.ModuleList(ExposureFusion(wide) for wide in channels) if fused else nn.ModuleList()

    def start_from(self, unet: nn.Module) -> int:
        """Copy what the control branch shares with the UNet; return the number of tensors."""
        return copy_matching(self.control, unet)

    def forward(self, condition: Tensor, short: Tensor, mask: Tensor) -> Guidance:
        """Compute what does not change from step to step.

        Parameters
        ----------
        condition : (N, 3, H, W) tensor in [0, 1]
            The guided filter's result, or the blurry image where none is used.
        short : (N, 3, H, W) tensor in [0, 1]
        mask : (N, 1, H, W) tensor in [0, 1]
            H and W are multiples of `factor`.
        """
        control, pictures = self.embedding(condition)
        if self.features is None:
            return Guidance(control, pictures, (), (), binary=True)
        features = self.features(short)
        if self.fusion == "no_mask":
            mask = torch.ones_like(mask)
        masks = tuple(F.interpolate(mask, scale.shape[-2:]) for scale in features)  # nearest
        binary = bool(((mask == 0) | (mask == 1)).all())
        return Guidance(control, pictures, features, masks, binary)
