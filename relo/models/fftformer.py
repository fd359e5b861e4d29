"""FFTformer (Kong et al. 2023) with the published parameter names: attention and filters in the frequency domain.

A U-shaped network of three scales without bias terms in its transformer blocks. Both halves of a block work on
squares of 8 x 8 pixels: attention is the circular convolution of queries and keys, and the feed-forward part scales
each frequency of each channel by a learned factor.

Two things are computed otherwise than published, with the same results but for rounding. Features lie in memory as
(N, H, W, C), where depth-wise convolutions and normalisation take a fraction of the time, and the transform of a
square is one product with a matrix of 68 x 64, several times as fast there as many FFTs of 8 x 8. And since the
transform commutes with 1x1 convolutions, the feed-forward part transforms its input instead of six times as many
hidden channels; these it computes in two halves, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import PixelNorm, pointwise, spatial
from relo.models.constant_tensors import keep_constants
from relo.models.image_batches import check_image_batch, crop_to, pad_to_multiple
from relo.models.option_ranges import check_blocks
from relo.models.precision import at_least_float32, full_precision
from relo.models.prior_fusion import Level, PriorFusion, check_prior, check_prior_length
from relo.models.resampling import PatchEmbedding
from relo.models.restoration import Restoration

STRIDE = 32  # sides must be multiples of it inside the network: whole squares at the coarsest of three scales
LEVELS = 3
SIDE = 8  # of the squares [px]
HALF = SIDE // 2 + 1  # columns of the spectrum of a real square
FUSE_EXPANSION = 2.66


class Fourier(NamedTuple):
    """The orthonormal Fourier transform of real 8 x 8 squares as matrices.

    Of the 8 x 5 frequencies that `torch.fft.rfft2` gives, 6 are complex conjugates of others. The remaining 34 make
    up a spectrum of 68 numbers: real parts, then imaginary parts.

    Attributes
    ----------
    forward : (68, 64) tensor
    inverse : (64, 68) tensor
    factors : (68, 40) tensor
        From a factor for each of the 8 x 5 frequencies to a factor for each of the 68 numbers. Where a frequency
        and its conjugate have different factors, their mean has the same effect, because the result is real.
    """

    forward: Tensor
    inverse: Tensor
    factors: Tensor


class FrequencyAttention(nn.Module):
    """FSAS: values are weighted by the normalised circular convolution of queries and keys in each square.

    Parameters
    ----------
    channels : int
    prior : int
        Length of a prior that modulates the input; 0 for none.
    """

    def __init__(self, channels: int, prior: int) -> None:
        super().__init__()
        self.to_hidden = nn.Conv2d(channels, 6 * channels, 1, bias=False)
        self.to_hidden_dw = nn.Conv2d(6 * channels, 6 * channels, 3, padding=1, groups=6 * channels, bias=False)
        self.project_out = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm = PixelNorm(2 * channels)
        if prior:
            self.kv = PriorFusion(channels, prior)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C); without a prior nothing is modulated."""
        if prior is not None:
            x = self.kv.channels_last(x, prior)
        hidden = spatial(self.to_hidden_dw, pointwise(self.to_hidden, x))
        queries, keys, values = (_squares(part) for part in hidden.chunk(3, dim=-1))
        weighted = values * self.norm(circular_convolution(queries, keys))
        return _image(pointwise(self.project_out, weighted), x)


class FrequencyFeedForward(nn.Module):
    """DFFN: hidden channels are filtered in each square, then GELU of one half gates the other.

    Parameters
    ----------
    channels, hidden : int
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.fft = nn.Parameter(torch.ones(2 * hidden, 1, 1, SIDE, HALF))
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        with full_precision(x):
            squares = at_least_float32(_squares(x))
            spectra = (fourier(squares).forward @ squares).to(x.dtype)

        def half(weight: Tensor, factors: Tensor, depthwise: Tensor) -> Tensor:
            hidden = _image(_filtered(F.linear(spectra, weight.flatten(1)), factors), x).permute(0, 3, 1, 2)
            return F.conv2d(hidden, depthwise, padding=1, groups=len(depthwise)).permute(0, 2, 3, 1)

        parameters = (self.project_in.weight, self.fft, self.dwconv.weight)
        first, second = zip(*(parameter.chunk(2) for parameter in parameters), strict=True)
        gate = F.gelu(half(*first))
        return pointwise(self.project_out, gate * half(*second))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), only in decoder blocks; then x + feed_forward(norm(x)).

    Parameters
    ----------
    channels, hidden : int
    attention : bool
    prior : int
        See `FrequencyAttention`.
    """

    def __init__(self, channels: int, hidden: int, attention: bool = False, prior: int = 0) -> None:
        super().__init__()
        if attention:
            self.norm1 = PixelNorm(channels)
            self.attn = FrequencyAttention(channels, prior)
        self.attends = attention
        self.norm2 = PixelNorm(channels)
        self.ffn = FrequencyFeedForward(channels, hidden)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C)."""
        if self.attends:
            x = x + self.attn(self.norm1(x), prior)
        return x + self.ffn(self.norm2(x))


class Fuse(nn.Module):
    """Features of the decoder and of the encoder, n channels each, to n channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.att_channel = TransformerBlock(both, int(both * FUSE_EXPANSION))
        self.conv = nn.Conv2d(both, both, 1)
        self.conv2 = nn.Conv2d(both, both, 1)

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Map two tensors (N, H, W, C) to one."""
        x = spatial(self.conv, torch.cat([decoded, encoded], dim=-1))
        first, second = spatial(self.conv2, self.att_channel(x)).chunk(2, dim=-1)
        return first + second


class Resample(nn.Module):
    """Bilinear scaling, then a convolution.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    scale : float
        1/2 or 2.
    """

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, scale * H, scale * W)."""
        return self.body(x)


class FFTformer(nn.Module):
    """FFTformer for RGB images: 16,560,474 parameters by default, as published, 18,280,794 with a prior of 256.

    Parameters
    ----------
    dim : int
        Channels at full size; twice as many at each of the two smaller scales.
    blocks : three int
        Blocks of each scale, fine to coarse; encoder and decoder have as many.
    refinement_blocks : int
        Blocks at full size that follow the decoder; 0 for none.
    expansion : float
        Hidden channels of the feed-forward part for each channel, rounded down.
    prior : int
        Length of a prior that modulates the attention of every decoder block, 256 in BlurDM (He et al. 2025); 0
        for a network without.

    Raises
    ------
    ValueError
        A number is out of range.
    """

    def __init__(
        self,
        dim: int = 48,
        blocks: Sequence[int] = (6, 6, 12),
        refinement_blocks: int = 4,
        expansion: float = 3.0,
        prior: int = 0,
    ) -> None:
        super().__init__()
        _check(dim, blocks, refinement_blocks, expansion, prior)
        self.prior = prior

        def level(scale: int, count: int, attention: bool) -> Level:
            channels = scale * dim
            hidden = int(channels * expansion)
            return Level(
                TransformerBlock(channels, hidden, attention, prior if attention else 0) for _ in range(count)
            )

        self.patch_embed = PatchEmbedding(3, dim)
        self.encoder_level1 = level(1, blocks[0], attention=False)
        self.down1_2 = Resample(dim, 2 * dim, 0.5)
        self.encoder_level2 = level(2, blocks[1], attention=False)
        self.down2_3 = Resample(2 * dim, 4 * dim, 0.5)
        self.encoder_level3 = level(4, blocks[2], attention=False)
        self.decoder_level3 = level(4, blocks[2], attention=True)
        self.up3_2 = Resample(4 * dim, 2 * dim, 2.0)
        # Part of the published weights, but never used; frozen, because distributed training would wait for its
        # gradient.
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False).requires_grad_(False)
        self.decoder_level2 = level(2, blocks[1], attention=True)
        self.up2_1 = Resample(2 * dim, dim, 2.0)
        self.decoder_level1 = level(1, blocks[0], attention=True)
        self.refinement = level(1, refinement_blocks, attention=True)
        self.fuse2 = Fuse(2 * dim)
        self.fuse1 = Fuse(dim)
        self.output = nn.Conv2d(dim, 3, 3, padding=1, bias=False)

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
        x = padded.permute(0, 2, 3, 1).contiguous()
        one = self.encoder_level1(spatial(self.patch_embed, x))
        two = self.encoder_level2(spatial(self.down1_2, one))
        x = self.encoder_level3(spatial(self.down2_3, two))
        x = spatial(self.up3_2, self.decoder_level3(x, prior))
        x = spatial(self.up2_1, self.decoder_level2(self.fuse2(x, two), prior))
        x = self.refinement(self.decoder_level1(self.fuse1(x, one), prior), prior)
        image = self.output(x.permute(0, 3, 1, 2)) + padded
        return Restoration(crop_to(image, *blur.shape[-2:]), (), ())


def circular_convolution(first: Tensor, second: Tensor) -> Tensor:
    """Circular convolution of 8 x 8 squares, channel by channel.

    Parameters
    ----------
    first, second : (..., 64, C) tensors

    Returns
    -------
    (..., 64, C) tensor
        irfft2(rfft2(first) rfft2(second)): a product without conjugate. Computed in float32 at least.
    """
    with full_precision(first):
        squares = at_least_float32(first)
        matrices = fourier(squares)
        real1, imaginary1 = (matrices.forward @ squares).chunk(2, dim=-2)
        real2, imaginary2 = (matrices.forward @ at_least_float32(second)).chunk(2, dim=-2)
        real = real1 * real2 - imaginary1 * imaginary2
        imaginary = real1 * imaginary2 + imaginary1 * real2
        # Two orthonormal transforms are multiplied, and one is undone: a factor sqrt(64) is missing.
        return (SIDE * matrices.inverse @ torch.cat([real, imaginary], dim=-2)).to(first.dtype)


def fourier(like: Tensor) -> Fourier:
    """Matrices of the dtype and on the device of a tensor."""
    return _converted(like.dtype, like.device)


def _fourier() -> Fourier:
    """Matrices in float64, on the CPU whatever the default device is."""
    grid = [(row, column) for row in range(SIDE) for column in range(HALF)]
    mirrored = [(-row % SIDE, -column % SIDE) for row, column in grid]
    kept = [index for index, frequency in enumerate(mirrored) if frequency not in grid[:index]]
    with torch.inference_mode(False), torch.device("cpu"):
        squares = torch.eye(SIDE**2, dtype=torch.float64).unflatten(1, (SIDE, SIDE))
        spectra = torch.fft.rfft2(squares, norm="ortho").flatten(1)[:, kept]
        forward = torch.cat([spectra.real, spectra.imag], dim=1).T
        # A frequency that is its own mirror image is there once in a whole spectrum, any other twice.
        counts = torch.tensor([1.0 if mirrored[index] == grid[index] else 2.0 for index in kept])
        factors = torch.zeros(len(kept), len(grid), dtype=torch.float64)
        for row, index in enumerate(kept):
            twin = grid.index(mirrored[index]) if mirrored[index] in grid else index
            factors[row, index] += 0.5
            factors[row, twin] += 0.5
        return Fourier(forward, forward.T * counts.repeat(2), factors.repeat(2, 1))


_FOURIER = _fourier()


@keep_constants(8)
def _converted(dtype: torch.dtype, device: torch.device) -> Fourier:
    return Fourier(*(matrix.to(device, dtype) for matrix in _FOURIER))


def _filtered(spectra: Tensor, factors: Tensor) -> Tensor:
    """Scale spectra (..., 68, C) by factors (C, 1, 1, 8, 5), and transform them back to squares (..., 64, C)."""
    with full_precision(spectra):
        wide = at_least_float32(spectra)
        matrices = fourier(wide)
        scale = matrices.factors @ factors.to(wide).flatten(1).T
        return (matrices.inverse @ (wide * scale)).to(spectra.dtype)


def _squares(x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, H / 8, W / 8, 64, C)."""
    return x.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE)).transpose(2, 3).flatten(3, 4)


def _image(squares: Tensor, like: Tensor) -> Tensor:
    """(N, H / 8, W / 8, 64, C) to (N, H, W, C), with H and W of `like`."""
    return squares.unflatten(3, (SIDE, SIDE)).transpose(2, 3).reshape(*like.shape[:3], -1)


def _check(dim: int, blocks: Sequence[int], refinement_blocks: int, expansion: float, prior: int) -> None:
    if len(blocks) != LEVELS:
        raise ValueError(f"expected {LEVELS} numbers of blocks, got {blocks!r}")
    if dim < 1:
        raise ValueError(f"expected a positive dim, got {dim}")
    check_blocks(1, blocks=blocks)
    check_blocks(0, refinement_blocks=refinement_blocks)
    if not 1 / dim <= expansion <= 64:
        raise ValueError(f"expected an expansion in [1/dim, 64], got {expansion}")
    check_prior_length(prior)
