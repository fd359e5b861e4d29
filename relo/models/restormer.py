"""Restormer (Zamir et al. 2022) with the published parameter names: attention between channels, at four scales.

A U-shaped network without bias terms in its convolutions. Attention compares channels instead of positions: each
head relates its channels over the whole image in a matrix of d x d, so that the cost grows linearly with the area.

Three things are computed otherwise than published, with the same results but for rounding. Features lie in memory
as (N, H, W, C), where depth-wise convolutions and normalisation over channels take a fraction of the time. The
feed-forward part, where the network needs most memory, computes its two halves one after the other. And of queries
and keys, which are normalised over the image, only the queries are scaled at full size; the factors of the keys
scale the d x d matrix instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.image_batches import check_image_batch, check_in_channels, crop_to, pad_to_multiple
from relo.models.option_ranges import check_blocks, check_heads
from relo.models.precision import at_least_float32
from relo.models.resampling import Downsample, PatchEmbedding, Upsample
from relo.models.restoration import Restoration

STRIDE = 8  # sides must be multiples of it inside the network
LEVELS = 4
NORM_EPS = 1e-5  # added to the variance
ATTENTION_EPS = 1e-12  # lower bound of the length by which a query or key is divided


class BiasFreeNorm(nn.Module):
    """x / sqrt(var(x) + eps) * weight over the last axis; x is not centred (biased variance)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (..., C)."""
        return x * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + NORM_EPS) * self.weight


class ChannelNorm(nn.Module):
    """Layer normalisation of each pixel over its channels."""

    def __init__(self, channels: int, bias_free: bool) -> None:
        super().__init__()
        self.body = BiasFreeNorm(channels) if bias_free else nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """MDTA: the channels of a head attend to each other, with queries and keys normalised over the image."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        height = x.shape[2]
        pixels = self.qkv_dwconv(self.qkv(x)).permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, 3 * C)
        # Each (N, heads, H * W, C / heads), a view.
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in pixels.chunk(3, dim=2)
        )
        # Queries before the product, so that it stays within the range of float16 for large images too.
        normal = (queries * _inverse_length(queries)).to(keys.dtype)  # lengths are in float32
        similarity = normal.transpose(2, 3) @ keys
        weights = (similarity * _inverse_length(keys) * self.temperature).softmax(dim=-1)
        mixed = values @ weights.transpose(2, 3).to(values.dtype)
        return self.project_out(mixed.transpose(1, 2).flatten(2).unflatten(1, (height, -1)).permute(0, 3, 1, 2))


class GatedFeedForward(nn.Module):
    """GDFN: GELU of one half of the hidden channels times the other half."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        first, second = zip(self.project_in.weight.chunk(2), self.dwconv.weight.chunk(2), strict=True)
        gate = F.gelu(_expand(x, *first))
        return self.project_out(gate * _expand(x, *second))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, channels: int, heads: int, hidden: int, bias_free_norm: bool) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels, bias_free_norm)
        self.attn = ChannelAttention(channels, heads)
        self.norm2 = ChannelNorm(channels, bias_free_norm)
        self.ffn = GatedFeedForward(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Restormer(nn.Module):
    """Restormer for RGB images: 26,126,644 parameters by default, as published for motion deblurring.

    Parameters
    ----------
    dim : int
        Channels at full size, even; twice as many at each of the three smaller scales.
    blocks : four int
        Blocks of each scale, fine to coarse; encoder and decoder have as many.
    refinement_blocks : int
        Blocks at full size that follow the decoder; 0 for none.
    heads : four int
        Attention heads of each scale; they must divide its channels.
    expansion : float
        Hidden channels of the feed-forward part for each channel, rounded down.
    bias_free_norm : bool
        Normalisation that does not centre, as published for denoising.
    in_channels : int
        3, or 6 to be given a short exposure too, behind the blurred image (ExpRDiff paper, table 1).

    Raises
    ------
    ValueError
        A number is out of range, or the channels of a level cannot be shared out among its heads.
    """

    def __init__(
        self,
        dim: int = 48,
        blocks: Sequence[int] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias_free_norm: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check(dim, blocks, refinement_blocks, heads, expansion)
        check_in_channels(in_channels)
        self.in_channels = in_channels

        def level(scale: int, count: int, number_of_heads: int) -> nn.Sequential:
            channels = scale * dim
            hidden = int(channels * expansion)
            return nn.Sequential(
                *(TransformerBlock(channels, number_of_heads, hidden, bias_free_norm) for _ in range(count))
            )

        self.patch_embed = PatchEmbedding(in_channels, dim)
        self.encoder_level1 = level(1, blocks[0], heads[0])
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = level(2, blocks[1], heads[1])
        self.down2_3 = Downsample(2 * dim)
        self.encoder_level3 = level(4, blocks[2], heads[2])
        self.down3_4 = Downsample(4 * dim)
        self.latent = level(8, blocks[3], heads[3])
        self.up4_3 = Upsample(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = level(4, blocks[2], heads[2])
        self.up3_2 = Upsample(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = level(2, blocks[1], heads[1])
        self.up2_1 = Upsample(2 * dim)
        # At full size the two halves are not reduced: 2 * dim channels, with the heads of level 1.
        self.decoder_level1 = level(2, blocks[0], heads[0])
        self.refinement = level(2, refinement_blocks, heads[0])
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=False)

    def forward(self, blur: Tensor) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, in_channels, H, W) tensor
            RGB in [0, 1]. Sizes that are not multiples of 8 are padded inside and cropped again.

        Returns
        -------
        Restoration
            `image` not clamped; no `scales`, no `masks`.
        """
        check_image_batch(blur, self.in_channels)
        padded = pad_to_multiple(blur, STRIDE).contiguous(memory_format=torch.channels_last)
        skips = [self.encoder_level1(self.patch_embed(padded))]
        skips.append(self.encoder_level2(self.down1_2(skips[-1])))
        skips.append(self.encoder_level3(self.down2_3(skips[-1])))
        x = self.latent(self.down3_4(skips[-1]))
        # Skips are taken from the list and large features get no name, so that they are freed once they are used.
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), skips.pop()], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), skips.pop()], dim=1)))
        x = self.refinement(self.decoder_level1(torch.cat([self.up2_1(x), skips.pop()], dim=1)))
        image = self.output(x) + padded[:, :3]
        return Restoration(crop_to(image, *blur.shape[-2:]), (), ())


def _inverse_length(x: Tensor) -> Tensor:
    """1 / max(length, 1e-12) of each channel over the image: (N, heads, P, d) to (N, heads, 1, d)."""
    wide = at_least_float32(x)  # sums over an image exceed what float16 holds
    # The square is clamped, not the length: the gradient of a channel of zeros is then 0, not NaN.
    return torch.rsqrt((wide**2).sum(dim=2, keepdim=True).clamp(min=ATTENTION_EPS**2))


def _expand(x: Tensor, pointwise: Tensor, depthwise: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, pointwise), depthwise, padding=1, groups=depthwise.shape[0])


def _check(dim: int, blocks: Sequence[int], refinement_blocks: int, heads: Sequence[int], expansion: float) -> None:
    if len(blocks) != LEVELS or len(heads) != LEVELS:
        raise ValueError(f"expected {LEVELS} numbers of blocks and of heads, got {blocks!r} and {heads!r}")
    if dim < 2 or dim % 2:
        raise ValueError(f"expected an even dim, got {dim}")
    check_blocks(1, blocks=blocks)
    check_blocks(0, refinement_blocks=refinement_blocks)
    check_heads(heads, dim)
    if not 1 / dim <= expansion <= 64:
        raise ValueError(f"expected an expansion in [1/dim, 64], got {expansion}")
