"""The control branch: a light ControlNet that sees the guided filter's result.

A ControlNet of SDXL's depth has 1.25 billion parameters, which do not train on one GPU of 24 GB. With one
transformer layer in each attention block it has 292.6 million and keeps every skip connection. In training the
embedding of the image also predicts the sharp image at 1/2, 1/4 and 1/8 of its size, which makes it clean the image
before it guides (PASD, Yang et al. 2024, which the paper takes its loss from).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_CHANNELS = (16, 32, 96, 256)

# Settings of a UNet that its ControlNet shares under the same name.
_SHARED = (
    *("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention"),
    *("block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn"),
    *("norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim", "num_attention_heads"),
    *("use_linear_projection", "class_embed_type", "num_class_embeds", "upcast_attention"),
    *("resnet_time_scale_shift", "projection_class_embeddings_input_dim", "mid_block_type"),
    *("encoder_hid_dim", "encoder_hid_dim_type", "addition_embed_type", "addition_time_embed_dim"),
)


class ImageEmbedding(nn.Module):
    """An image as features of the size of its latents, and the pictures that its stages hold.

    Names and layers of the embedding are those of diffusers' ControlNet; `heads` is added.

    Parameters
    ----------
    outputs : int
        Channels of the UNet's first convolution.
    channels : sequence of int
        Of each resolution, from that of the image on; each halves the size.
    """

    def __init__(self, outputs: int, channels: Sequence[int] = EMBEDDING_CHANNELS) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inputs, wide in pairwise(channels):
            self.blocks.append(nn.Conv2d(inputs, inputs, 3, padding=1))
            self.blocks.append(nn.Conv2d(inputs, wide, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], outputs, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(nn.Conv2d(wide, 3, 3, padding=1) for wide in channels[1:])

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Embed an image.

        Parameters
        ----------
        image : (N, 3, H, W) tensor in [0, 1]

        Returns
        -------
        (N, outputs, H / 8, W / 8) tensor, tuple of (N, 3, H / s, W / s) tensors
            The embedding; the sharp image in [-1, 1] as it is guessed at s = 2, 4, 8.
        """
        x = F.silu(self.conv_in(image))
        pictures: list[Tensor] = []
        for same, down in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = F.silu(down(F.silu(same(x))))
            pictures.append(self.heads[len(pictures)](x))
        return self.conv_out(x), tuple(pictures)


def control_net(unet_config: Mapping[str, Any], attention_layers: int = 1) -> nn.Module:
    """A ControlNet of diffusers for a UNet, with an embedding of the image that is not part of it.

    It takes an `ImageEmbedding` where a ControlNet takes the image, so that sampling embeds it once for all steps.

    Parameters
    ----------
    unet_config : mapping
        `unet.config`.
    attention_layers : int
        Transformer layers in each attention block, at most the UNet's own.
    """
    from diffusers import ControlNetModel

    layers = unet_config["transformer_layers_per_block"]
    layers = (layers,) * len(unet_config["block_out_channels"]) if isinstance(layers, int) else layers
    net: Any = ControlNetModel(
        **{key: unet_config[key] for key in _SHARED},
        transformer_layers_per_block=tuple(min(count, attention_layers) for count in layers),
    )
    net.controlnet_cond_embedding = nn.Identity()
    return net


def copy_matching(net: nn.Module, source: nn.Module) -> int:
    """Start `net` from the tensors of `source` that have the same name and shape; return how many have."""
    given = source.state_dict()
    own = net.state_dict()
    matching = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    net.load_state_dict(matching, strict=False)
    return len(matching)
