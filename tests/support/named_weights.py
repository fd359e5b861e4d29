"""Weights that depend on a tensor's name alone, so that two implementations of a network can be given the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def named_weights(
    shapes: Mapping[str, Tensor], scale: float, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Normally distributed values for every tensor of a state dict.

    Parameters
    ----------
    shapes : mapping of names to tensors
        Only names and shapes count.
    scale : float
        Of matrices and kernels: standard deviation times the square root of their inputs, so that 1 keeps the size
        of what passes through, and more lets it grow. Vectors get 0.3 of it, around 1 if they are a scale.
    dtype : torch.dtype
    """
    values = {}
    for name, tensor in shapes.items():
        drawn = torch.randn(tensor.shape, dtype=torch.float64, generator=_generator(name))
        if sum(side > 1 for side in tensor.shape) <= 1:
            drawn = 0.3 * scale * drawn + float(name.endswith(("norm1.weight", "norm2.weight", "body.weight")))
        else:
            drawn = scale * drawn / tensor[0].numel() ** 0.5
        values[name] = drawn.to(dtype)
    return values


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
