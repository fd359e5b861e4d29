"""Operations on features (N, H, W, C), in memory as in shape.

A 1x1 convolution is then one matrix product, and torch's layer normalisation works on contiguous channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP_ROWS = 8


class PixelNorm(nn.Module):
    """Layer normalisation of each pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of (..., C)."""
        return self.body(x)


def pointwise(conv: nn.Module, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """1x1 convolution of (N, H, W, C) features; `scale` (1, C', 1, 1) multiplies its result."""
    assert isinstance(conv, nn.Conv2d)
    weight, bias = conv.weight.flatten(1), conv.bias
    if scale is None:
        return F.linear(x, weight, bias)
    # Scaled weights instead of a scaled result: the same but for rounding, without a pass over all pixels.
    factor = scale.flatten()
    return F.linear(x, weight * factor[:, None], None if bias is None else bias * factor)


def spatial(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module for (N, C, H, W) to features (N, H, W, C), without moving them in memory."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def in_strips(function: Callable[[slice], Tensor], x: Tensor) -> Tensor:
    """Features of the shape of `x` (N, H, W, C), from `function` of a few rows at a time."""
    result, height = torch.empty_like(x), x.shape[1]
    for top in range(0, height, STRIP_ROWS):
        rows = slice(top, min(top + STRIP_ROWS, height))
        result[:, rows] = function(rows)
    return result


def only_computes(x: Tensor) -> bool:
    """Whether only values on a CPU are wanted: no gradient, no export, no memory estimate on the meta device."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.device.type == "cpu"
