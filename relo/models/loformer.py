"""LoFormer (Mao et al. 2024) with the published parameter names: channels attend in windows of frequencies.

A U-shaped network of four scales. In each layer the cosine transform of whole feature maps is cut into windows of
8 x 8 frequencies, and the channels of a head attend to each other within a window.

Two things are computed otherwise than published, with the same results but for rounding. Features lie in memory as
(N, H, W, C), where depth-wise convolutions and normalisation take a fraction of the time. And the feed-forward part
computes its two halves one after the other. How tiles are blended differs where the published weights do not sum
to 1, see `relo.models.tiles`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import PixelNorm, pointwise, spatial
from relo.models.constant_tensors import keep_constants
from relo.models.image_batches import check_image_batch, crop_to, pad_to_multiple
from relo.models.option_ranges import check_blocks, check_heads
from relo.models.precision import at_least_float32, full_precision
from relo.models.prior_fusion import Level, PriorFusion, check_prior, check_prior_length
from relo.models.resampling import Downsample, PatchEmbedding, Upsample
from relo.models.restoration import Restoration
from relo.models.tiles import check_tile, needs_tiles, restore_in_tiles

STRIDE = 8  # sides must be multiples of it inside the network
STAGES = 3  # of the encoder and of the decoder, with the middle between them
WINDOW = 8  # side of the windows of frequencies
EXPANSION = 2.66  # hidden channels of the feed-forward part for each channel, rounded down
TILE = 384  # [px]


class WindowAttention(nn.Module):
    """In each window of frequencies the channels of a head attend to each other; the values gate the result.

    Parameters
    ----------
    channels, heads : int
    prior : int
        Length of a prior that modulates the input; 0 for none.
    """

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), channels**-0.5))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1)
        # A list, for the published name: an activation without parameters follows there.
        self.mlp = nn.ModuleList([nn.Linear(WINDOW**2, WINDOW**2)])
        if prior:
            self.kv = PriorFusion(channels, prior, bias=True)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C); without a prior nothing is modulated."""
        if prior is not None:
            x = self.kv.channels_last(x, prior)
        hidden = spatial(self.qkv_dwconv, pointwise(self.qkv, x))
        queries, keys, values = self._windows(hidden)
        similarity = queries.transpose(-2, -1) @ keys * self.temperature
        mixed = values @ similarity.softmax(dim=-1).transpose(-2, -1)
        gate = F.gelu(self.mlp[0](values.transpose(-2, -1))).transpose(-2, -1)
        return pointwise(self.project_out, self._image(mixed * gate, x))

    def _windows(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """(N, H, W, 3 * C) to three (N, rows, columns, heads, 64, C / heads), with padding of both sides to 8."""
        padded = pad_to_multiple(hidden.permute(0, 3, 1, 2), WINDOW).permute(0, 2, 3, 1)
        parts = padded.unflatten(3, (3, self.heads, -1)).unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
        return parts.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).unbind(0)

    def _image(self, windows: Tensor, like: Tensor) -> Tensor:
        """Undo `_windows` for one of its results: (N, H, W, C) as in `like`."""
        parts = windows.unflatten(4, (WINDOW, WINDOW)).permute(0, 1, 4, 2, 5, 3, 6)
        padded = parts.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return padded[:, : like.shape[1], : like.shape[2]]


class GatedFeedForward(nn.Module):
    """GDFN: GELU of one half of the hidden channels times the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * EXPANSION)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.project_out = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, H, W, C)."""

        def half(weight: Tensor, bias: Tensor, depthwise: Tensor, shift: Tensor) -> Tensor:
            hidden = F.linear(x, weight.flatten(1), bias).permute(0, 3, 1, 2)
            return F.conv2d(hidden, depthwise, shift, padding=1, groups=len(depthwise)).permute(0, 2, 3, 1)

        parameters = (*self.project_in.parameters(), *self.dwconv.parameters())
        first, second = zip(*(parameter.chunk(2) for parameter in parameters), strict=True)
        gate = F.gelu(half(*first))
        return pointwise(self.project_out, gate * half(*second))


class TransformerLayer(nn.Module):
    """On the cosine transform of x: x + attention(norm(x)). Then, on pixels: x + feed_forward(norm(x))."""

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(channels)
        self.attn = nn.ModuleList([WindowAttention(channels, heads, prior)])
        self.norm2 = PixelNorm(channels)
        self.ffn = nn.ModuleList([GatedFeedForward(channels)])

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        spectrum = cosine_transform(x)
        spectrum = spectrum + self.attn[0](self.norm1(spectrum), prior)
        x = cosine_transform(spectrum, inverse=True)
        return x + self.ffn[0](self.norm2(x))


class TransformerBlock(nn.Module):
    """Two layers of the same kind; see `WindowAttention` for the parameters."""

    def __init__(self, channels: int, heads: int, prior: int = 0) -> None:
        super().__init__()
        self.trans1 = TransformerLayer(channels, heads, prior)
        self.trans2 = TransformerLayer(channels, heads, prior)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        return self.trans2(self.trans1(x, prior), prior)


class LoFormer(nn.Module):
    """LoFormer for RGB images; by default LoFormer-S, which BlurDM uses (He et al. 2025).

    LoFormer-S has 16,382,661 parameters as published, 17,040,581 with a prior of 256.

    Parameters
    ----------
    dim : int
        Channels at full size, even; twice as many at each of the three smaller scales.
    enc_blocks : three int
        Blocks of the encoder, fine to coarse; a block is two layers.
    middle_blocks : int
        Blocks of the smallest scale.
    dec_blocks : three int
        Blocks of the decoder, coarse to fine.
    heads : four int
        Attention heads of each scale, fine to coarse; they must divide its channels.
    prior : int
        Length of a prior that modulates the attention of every decoder layer, 256 in BlurDM; 0 for a network
        without.
    tile : int
        Images with a longer side [px] are restored in tiles in evaluation mode; a multiple of 8, or 0 for never.

    Raises
    ------
    ValueError
        A number is out of range, or the channels of a scale cannot be shared out among its heads.
    """

    def __init__(
        self,
        dim: int = 32,
        enc_blocks: Sequence[int] = (1, 2, 3),
        middle_blocks: int = 7,
        dec_blocks: Sequence[int] = (3, 2, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        prior: int = 0,
        tile: int = TILE,
    ) -> None:
        super().__init__()
        _check(dim, enc_blocks, middle_blocks, dec_blocks, heads, prior, tile)
        self.prior, self.tile = prior, tile
        channels = [dim << stage for stage in range(STAGES + 1)]
        # At full size the two halves are not reduced: 2 * dim channels, with the heads of that scale.
        decoded = [channels[2], channels[1], 2 * channels[0]]

        def level(width: int, count: int, number_of_heads: int, length: int = 0) -> Level:
            return Level(TransformerBlock(width, number_of_heads, length) for _ in range(count))

        self.patch_embed = PatchEmbedding(3, dim)
        self.encoders = nn.ModuleList(map(level, channels[:STAGES], enc_blocks, heads[:STAGES]))
        self.downs = nn.ModuleList(Downsample(width) for width in channels[:STAGES])
        self.middle_blks = level(channels[STAGES], middle_blocks, heads[STAGES])
        self.ups = nn.ModuleList(Upsample(width) for width in channels[:0:-1])
        self.reduce_chan = nn.ModuleList(
            [*(nn.Conv2d(2 * width, width, 1) for width in decoded[:-1]), nn.Identity()]
        )
        self.decoders = nn.ModuleList(map(level, decoded, dec_blocks, heads[STAGES - 1 :: -1], [prior] * STAGES))
        self.output = nn.Conv2d(decoded[-1], 3, 3, padding=1)

    def forward(self, blur: Tensor, prior: Tensor | None = None) -> Restoration:
        """Restore a batch of any size.

        Parameters
        ----------
        blur : (N, 3, H, W) tensor
            RGB in [0, 1]. Sizes that are not multiples of 8 are padded inside and cropped again. In evaluation
            mode larger images than a tile are restored in tiles; not where a graph for all sizes is recorded.
        prior : (N, P) tensor, optional
            The same for all tiles. Without it a network that was built for one restores as if it were not.

        Returns
        -------
        Restoration
            `image` not clamped; no `scales`, no `masks`.
        """
        check_image_batch(blur)
        if prior is not None:
            check_prior(prior, self.prior, blur.shape[0])
        if not self.training and needs_tiles(blur, self.tile):
            residual = restore_in_tiles(lambda part: self._residual(part, prior), blur, self.tile)
        else:
            residual = self._residual(blur, prior)
        return Restoration(blur + residual, (), ())

    def _residual(self, image: Tensor, prior: Tensor | None) -> Tensor:
        padded = pad_to_multiple(image, STRIDE)
        x = spatial(self.patch_embed, padded.permute(0, 2, 3, 1).contiguous())
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = spatial(down, x)
        x = self.middle_blks(x)
        for up, reduce, decoder in zip(self.ups, self.reduce_chan, self.decoders, strict=True):
            x = spatial(reduce, torch.cat([spatial(up, x), skips.pop()], dim=-1))
            x = decoder(x, prior)
        return crop_to(self.output(x.permute(0, 3, 1, 2)), *image.shape[-2:])


# 27,925,041 parameters, 29,109,297 with a prior of 256.
loformer_b = partial(LoFormer, dim=36, enc_blocks=(1, 2, 6), middle_blocks=9, dec_blocks=(6, 2, 2))
# 49,031,521 parameters, 50,610,529 with a prior of 256.
loformer_l = partial(loformer_b, dim=48)


def cosine_transform(x: Tensor, *, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II over rows and columns, or its inverse.

    Parameters
    ----------
    x : (N, H, W, C) tensor
    inverse : bool

    Returns
    -------
    (N, H, W, C) tensor
        Computed in float32 at least. Two matrix products: up to some hundred pixels faster than FFTs.
    """
    with full_precision(x):
        wide = at_least_float32(x)
        rows, columns = (dct_matrix(size, wide) for size in x.shape[1:3])
        if inverse:
            rows, columns = rows.T, columns.T
        transformed = columns @ (rows @ wide.flatten(2)).unflatten(2, x.shape[2:])
        return transformed.to(x.dtype)


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """Matrix (size, size) of the orthonormal DCT-II, of the dtype and on the device of a tensor.

    Row k, column i: sqrt(2 / size) cos(pi (2 i + 1) k / (2 size)), divided by sqrt(2) where k is 0.
    """
    return _dct_matrix(size, like.dtype, like.device)


@keep_constants(16)  # four scales, rows and columns, of two sizes of images
def _dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    steps = torch.arange(size, dtype=torch.float64, device="cpu")
    frequencies = steps[:, None]
    heights = ((1 + frequencies.clamp(max=1)) / size).sqrt()
    matrix = heights * torch.cos((2 * steps + 1) * frequencies * (math.pi / 2) / size)
    return matrix.to(device, dtype)


def _check(
    dim: int,
    enc_blocks: Sequence[int],
    middle_blocks: int,
    dec_blocks: Sequence[int],
    heads: Sequence[int],
    prior: int,
    tile: int,
) -> None:
    if len(enc_blocks) != STAGES or len(dec_blocks) != STAGES or len(heads) != STAGES + 1:
        raise ValueError(
            f"expected {STAGES} numbers of blocks for encoder and decoder and {STAGES + 1} of heads, "
            f"got {enc_blocks!r}, {dec_blocks!r} and {heads!r}"
        )
    if dim < 2 or dim % 2:
        raise ValueError(f"expected an even dim, got {dim}")
    check_blocks(1, enc_blocks=enc_blocks, middle_blocks=middle_blocks, dec_blocks=dec_blocks)
    check_heads(heads, dim)
    check_prior_length(prior)
    check_tile(tile, STRIDE)
