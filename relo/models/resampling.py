"""First convolution and changes of scale, as Restormer has them and FFTformer and LoFormer took them over."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Features of the image by one 3 x 3 convolution."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, channels, H, W)."""
        return self.proj(image)


class Downsample(nn.Module):
    """(N, C, H, W) to (N, 2 * C, H / 2, W / 2): a convolution, then each 2 x 2 block becomes channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.body = nn.Sequential(convolution, nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size, double the channels."""
        return self.body(x).contiguous(memory_format=torch.channels_last)


class Upsample(nn.Module):
    """(N, C, H, W) to (N, C / 2, 2 * H, 2 * W): a convolution, then channels become 2 x 2 blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(convolution, nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Double the size, halve the channels."""
        return self.body(x).contiguous(memory_format=torch.channels_last)
