"""Stripformer (Tsai et al. 2022) with the published parameter names: attention within and between rows and columns.

A U-shaped network whose bottleneck and decoder are chains of attention. One half of a block's channels looks along
rows, the other along columns: in every first block the pixels of a row attend to each other, in every second block
whole rows do, which costs far less than attention between all pixels. A prior may modulate what a block attends to
(BlurDM, He et al. 2025).

In the blocks features are (N, H, W, C), so that normalisation and linear layers work on contiguous channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import in_strips, only_computes, pointwise, spatial
from relo.models.image_batches import check_image_batch, crop_to, pad_to_multiple
from relo.models.option_ranges import check_blocks
from relo.models.prior_fusion import PriorFusion, check_prior, check_prior_length
from relo.models.restoration import Restoration

STRIDE = 32  # sides are padded to a multiple of it, as in BlurDM's code; the network itself needs 4
OFFSET = 0.5  # subtracted from the input: published weights are trained on [-0.5, 0.5]
SLOPE = 0.2  # of every LeakyReLU
HEADS, DECODER_HEADS = 5, 3


class FeedForward(nn.Module):
    """Linear, GELU, linear over the channels, with four times as many of them in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class PositionEncoding(nn.Module):
    """x + a depth-wise convolution of x: a position encoding that depends on the neighbours of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.PEG = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        return x + spatial(self.PEG, x)


class StripBlock(nn.Module):
    """x + attention(norm(F)), then x + feed_forward(norm(x)), then position encoding; F is x, or x modulated.

    What is common to `IntraBlock` and `InterBlock`: all but the attention.

    Parameters
    ----------
    channels, heads : int
        Each head has channels / 2 / heads.
    prior : int
        Length of a prior that modulates what the block attends to; 0 for none.
    """

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        self.conv_input = nn.Conv2d(channels, channels, 1)
        self.fuse_out = nn.Conv2d(channels, channels, 1)
        self.ffn_norm = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        self.PEG = PositionEncoding(channels)
        if prior:
            self.kv = PriorFusion(channels, prior)

    def halves(self, x: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features that attend along rows and along columns, each (N, H, W, C / 2), from (N, H, W, C)."""
        seen = x if prior is None else self.kv.channels_last(x, prior)
        horizontal, vertical = pointwise(self.conv_input, self.attention_norm(seen)).chunk(2, dim=-1)
        return horizontal, vertical

    def joined(self, x: Tensor, horizontal: Tensor, vertical: Tensor) -> Tensor:
        """The block after its attention, whose two results are (N, H, W, C / 2)."""
        x = x + pointwise(self.fuse_out, torch.cat([horizontal, vertical], dim=-1))
        # A few rows at a time, the many channels of the feed-forward part stay in the cache.
        x = in_strips(lambda rows: self._fed_forward(x[:, rows]), x) if only_computes(x) else self._fed_forward(x)
        return self.PEG(x)

    def _fed_forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.ffn_norm(x))


class IntraBlock(StripBlock):
    """The pixels of each row attend to each other, and those of each column."""

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__(channels, heads, prior)
        self.qkv_local_h = nn.Linear(channels // 2, 3 * (channels // 2))
        self.qkv_local_v = nn.Linear(channels // 2, 3 * (channels // 2))

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C); without a prior nothing is modulated."""
        horizontal, vertical = self.halves(x, prior)
        along_rows = attend_within(self.qkv_local_h(horizontal), self.heads)
        along_columns = attend_within(self.qkv_local_v(vertical).transpose(1, 2), self.heads)
        return self.joined(x, along_rows, along_columns.transpose(1, 2))


class InterBlock(StripBlock):
    """Whole rows attend to each other, and whole columns."""

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__(channels, heads, prior)
        self.conv_h = nn.Conv2d(channels // 2, 3 * (channels // 2), 1)
        self.conv_v = nn.Conv2d(channels // 2, 3 * (channels // 2), 1)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C); without a prior nothing is modulated."""
        horizontal, vertical = self.halves(x, prior)
        of_rows = attend_between(pointwise(self.conv_h, horizontal), self.heads)
        of_columns = attend_between(pointwise(self.conv_v, vertical).transpose(1, 2), self.heads)
        return self.joined(x, of_rows, of_columns.transpose(1, 2))


def attend_within(qkv: Tensor, heads: int) -> Tensor:
    """Attention between the pixels of each strip.

    Parameters
    ----------
    qkv : (N, S, P, 3C) tensor
        Queries, keys and values of P pixels in each of S strips.
    heads : int
        Among which the channels are divided.

    Returns
    -------
    (N, S, P, C) tensor
    """
    strips = qkv.flatten(0, 1).unflatten(-1, (3, heads, -1))
    queries, keys, values = strips.permute(2, 0, 3, 1, 4)  # each (N * S, heads, P, C / heads)
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return attended.transpose(1, 2).flatten(2).unflatten(0, qkv.shape[:2])


def attend_between(qkv: Tensor, heads: int) -> Tensor:
    """Attention between whole strips: (N, S, P, 3C) to (N, S, P, C), see `attend_within`."""
    strips = qkv.unflatten(-1, (3, heads, -1))
    queries, keys, values = strips.permute(3, 0, 4, 1, 2, 5).flatten(-2)  # each (N, heads, S, P * C / heads)
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return attended.unflatten(-1, (qkv.shape[2], -1)).permute(0, 2, 3, 1, 4).flatten(-2)


class Encoder(nn.Module):
    """Convolutions at full and half size, then one to a quarter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.en_layer1_1 = _activated(nn.Conv2d(3, width, 3, padding=1))
        self.en_layer1_2, self.en_layer1_3, self.en_layer1_4 = (_residual(width) for _ in range(3))
        self.en_layer2_1 = _activated(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
        self.en_layer2_2, self.en_layer2_3, self.en_layer2_4 = (_residual(2 * width) for _ in range(3))
        self.en_layer3_1 = _activated(nn.Conv2d(2 * width, 5 * width, 3, stride=2, padding=1))

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features at a quarter of the size, and the skip features at full and half size.

        Of (N, 3, H, W) these are (N, 5w, H/4, W/4), and (N, w, H, W) and (N, 2w, H/2, W/2).
        """
        full = self.en_layer1_1(image)
        for layers in (self.en_layer1_2, self.en_layer1_3, self.en_layer1_4):
            full = _added(layers, full)
        half = self.en_layer2_1(full)
        for layers in (self.en_layer2_2, self.en_layer2_3, self.en_layer2_4):
            half = _added(layers, half)
        return self.en_layer3_1(half), [full, half]


class Decoder(nn.Module):
    """Back to full size: blocks of attention at half size, convolutions at full size."""

    def __init__(self, width: int, blocks: int, prior: int) -> None:
        super().__init__()
        self.de_layer3_1 = _activated(nn.ConvTranspose2d(5 * width, 3 * width, 4, 2, padding=1))
        self.de_layer2_2 = _activated(nn.Conv2d(5 * width, 3 * width, 1))
        self.blocks = _add_blocks(self, "de_block", blocks, 3 * width, DECODER_HEADS, prior)
        self.de_layer2_1 = _activated(nn.ConvTranspose2d(3 * width, width, 4, 2, padding=1))
        self.de_layer1_3 = nn.Sequential(*_activated(nn.Conv2d(2 * width, width, 1)), _convolution(width))
        self.de_layer1_2 = _residual(width)
        self.de_layer1_1 = _activated(nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, skips: list[Tensor], prior: Tensor | None) -> Tensor:
        """Residual of the image, (N, 3, H, W), from the results of the encoder.

        `skips` is emptied on the way, so that features are freed once they are used.
        """
        x = self.de_layer2_2(torch.cat([self.de_layer3_1(x), skips.pop()], dim=1))
        x = self.de_layer2_1(_through(self, self.blocks, x, prior))
        x = F.leaky_relu(self.de_layer1_3(torch.cat([x, skips.pop()], dim=1)) + x, SLOPE)
        return self.de_layer1_1(_added(self.de_layer1_2, x))


class Stripformer(nn.Module):
    """Stripformer for RGB images: 19,708,611 parameters by default, as published, 22,264,515 with a prior of 256.

    Parameters
    ----------
    width : int
        Channels at full size, even; twice as many at half size and five times at a quarter.
    blocks, decoder_blocks : int
        Attention blocks at a quarter of the size and, in the decoder, at half of it.
    prior : int
        Length of a prior that modulates what each block attends to, 256 in BlurDM; 0 for a network without.

    Raises
    ------
    ValueError
        A number is out of range, or the channels of a block cannot be shared out among its heads.
    """

    def __init__(self, width: int = 64, blocks: int = 12, decoder_blocks: int = 6, prior: int = 0) -> None:
        super().__init__()
        _check(width, blocks, decoder_blocks, prior)
        self.prior = prior
        self.encoder = Encoder(width)
        self.blocks = _add_blocks(self, "Trans_block", blocks, 5 * width, HEADS, prior)
        self.decoder = Decoder(width, decoder_blocks, prior)

    def forward(self, blur: Tensor, prior: Tensor | None = None) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            RGB in [0, 1]. Sizes that are not multiples of 32 are padded inside and cropped again.
        prior : (N, P) tensor, optional
            Without it a network that was built for one restores as if it were not.

        Returns
        -------
        Restoration
            `image` not clamped; no `scales`, no `masks`.
        """
        check_image_batch(blur)
        if prior is not None:
            check_prior(prior, self.prior, blur.shape[0])
        padded = pad_to_multiple(blur, STRIDE)
        x, skips = self.encoder((padded - OFFSET).contiguous(memory_format=torch.channels_last))
        image = self.decoder(_through(self, self.blocks, x, prior), skips, prior) + padded
        return Restoration(crop_to(image, *blur.shape[-2:]), (), ())


def _add_blocks(
    network: nn.Module, name: str, count: int, channels: int, heads: int, prior: int
) -> tuple[str, ...]:
    """Add blocks NAME_1, NAME_2, … to a network, as published, and give their names."""
    names = tuple(f"{name}_{number}" for number in range(1, count + 1))
    for index, block in enumerate(names):
        network.add_module(block, (IntraBlock, InterBlock)[index % 2](channels, heads, prior))
    return names


def _through(network: nn.Module, blocks: tuple[str, ...], x: Tensor, prior: Tensor | None) -> Tensor:
    """Apply the named blocks of a network to features (N, C, H, W)."""
    x = x.permute(0, 2, 3, 1)
    for block in blocks:
        x = network.get_submodule(block)(x, prior)
    return x.permute(0, 3, 1, 2)


def _convolution(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


def _activated(convolution: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE, inplace=True))


def _residual(channels: int) -> nn.Sequential:
    return nn.Sequential(*_activated(_convolution(channels)), _convolution(channels))


def _added(layers: nn.Module, x: Tensor) -> Tensor:
    """LeakyReLU(layers(x) + x), for layers from `_residual`."""
    return F.leaky_relu(layers(x) + x, SLOPE)


def _check(width: int, blocks: int, decoder_blocks: int, prior: int) -> None:
    # Half of 5 widths among 5 heads, half of 3 widths among 3: half a width each.
    if width < 2 or width % 2:
        raise ValueError(f"expected an even width, for 5 and 3 heads, got {width}")
    check_blocks(1, blocks=blocks, decoder_blocks=decoder_blocks)
    check_prior_length(prior)
