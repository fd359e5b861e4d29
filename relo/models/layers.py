"""Building blocks that the convolutional networks share, and padding of any image size to a multiple.

Convention: tensors are (N, C, H, W); parameter names follow the published MIMO-UNet state dicts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvUnit(nn.Module):
    """A convolution with bias and zero padding k // 2, or a x2 transposed one, then optionally ReLU.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Kernel size [px]; 4 for the transposed form.
    stride : int
        Stride [px].
    relu : bool
        Whether a ReLU follows.
    transposed : bool
        Transposed convolution with padding 1: kernel 4 and stride 2 double the size exactly.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        relu: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        convolution: nn.Module
        if transposed:
            convolution = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding=1)
        else:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.main = nn.Sequential(convolution, nn.ReLU(inplace=True)) if relu else nn.Sequential(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W')."""
        return self.main(x)


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x))), without a ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(ConvUnit(channels, channels, 3), ConvUnit(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (N, C, H, W)."""
        return self.main(x) + x


class ResBlocks(nn.Module):
    """A chain of `count` residual blocks.

    Parameters
    ----------
    channels, count : int
    prior : int
        Length of a prior that modulates what enters the chain; 0 for none.
    """

    def __init__(self, channels: int, count: int, prior: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResBlock(channels) for _ in range(count)))
        if prior:
            self.kv = PriorFusion(channels, prior)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, C, H, W); without a prior nothing is modulated."""
        return self.layers(x if prior is None else self.kv(x, prior))


class PriorFusion(nn.Linear):
    """Scale and shift each channel of features by what a prior of the whole image says: F' = F k + v.

    (k, v) = prior W^T, the prior fusion of BlurDM (He et al. 2025). There is no "1 + k": where k is 0 the features
    vanish. Published state dicts call this layer `kv`.

    Parameters
    ----------
    channels : int
        Of the features.
    prior : int
        Length of the prior.
    bias : bool
        Only LoFormer's has one.
    """

    def __init__(self, channels: int, prior: int, *, bias: bool = False) -> None:
        super().__init__(prior, 2 * channels, bias=bias)

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:  # type: ignore[override]
        """Keep the shape of (N, channels, H, W) features; the prior is (N, its length)."""
        scale, shift = super().forward(prior)[:, :, None, None].chunk(2, dim=1)
        return features * scale + shift


class PixelNorm(nn.Module):
    """Layer normalisation of each pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (..., C)."""
        return self.body(x)


class Level(nn.ModuleList):
    """Blocks one after the other, all with the same prior."""

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Keep the shape of (N, H, W, C), or of whatever the blocks take."""
        for block in self:
            x = block(x, prior)
        return x


def halve(x: Tensor) -> Tensor:
    """Nearest-neighbour scale 1/2: keeps the even rows and columns (index 2i)."""
    return x[:, :, ::2, ::2]


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour scale 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad an image at its bottom and right so that both sides are multiples of `multiple`.

    Parameters
    ----------
    x : (N, C, H, W) tensor
    multiple : int
        Wanted divisor of both sides [px].

    Returns
    -------
    (N, C, H', W') tensor
        Reflected about the last pixel without repeating it; where that runs past the first pixel of a side too
        short for it, the first is repeated. `x` itself where nothing is to be padded.
    """
    sides = x.shape[-2:]
    # While a graph for all sizes is recorded, nothing may depend on this one: it is padded always, if by nothing.
    if not torch.compiler.is_compiling() and all(side % multiple == 0 for side in sides):
        return x
    for axis, side in zip((-2, -1), sides, strict=True):
        steps = torch.arange((side + multiple - 1) // multiple * multiple, device=x.device)
        x = x.index_select(axis, (side - 1 - (side - 1 - steps).abs()).clamp(min=0))
    return x


def crop_to(x: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Undo `pad_to_multiple` for an output at 1/`scale`: keep ceil(size / scale) rows and columns."""
    return x[..., : -(-height // scale), : -(-width // scale)]


def enlarge(mask: Tensor, scale: int, height: int, width: int) -> Tensor:
    """Make each value of a (..., h, w) tensor a square of `scale` px, and cut to (..., height, width)."""
    return mask.repeat_interleave(scale, -2).repeat_interleave(scale, -1)[..., :height, :width]


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where `x` is; its meta device knows none."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def check_image_batch(x: Tensor, channels: int = 3) -> None:
    """Refuse what is not a non-empty (N, channels, H, W) floating-point batch.

    Raises
    ------
    ValueError
        The shape or the dtype is another one.
    """
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise ValueError(f"expected a non-empty (N, {channels}, H, W) image batch, got shape {tuple(x.shape)}")
    if not torch.is_floating_point(x):
        raise ValueError(f"expected floating-point images in [0, 1], got {x.dtype}")


def check_prior(prior: Tensor, length: int, batch: int) -> None:
    """Refuse a prior that a network was not built for.

    Parameters
    ----------
    prior : tensor
    length : int
        What the network was built for; 0 for a network without prior.
    batch : int
        Images.

    Raises
    ------
    ValueError
        The prior is not (batch, length), or the network takes none.
    """
    if not length:
        raise ValueError("this network was built without prior fusion: give prior=256 when it is created")
    if prior.shape != (batch, length):
        raise ValueError(f"expected a ({batch}, {length}) prior, got shape {tuple(prior.shape)}")


def check_in_channels(channels: int) -> None:
    """Refuse anything but the channels of one image, or of two: the blurred one and a short exposure behind it.

    Raises
    ------
    ValueError
    """
    if channels not in (3, 6):
        raise ValueError(f"in_channels must be 3, or 6 for a short exposure behind the image, got {channels!r}")
