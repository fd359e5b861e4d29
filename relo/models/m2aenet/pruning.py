"""Exact pruned inference: the masked convolutions are computed at masked pixels only.

A masked pixel needs the wide features of its eight neighbours too, sharp or not. Masked pixels and their neighbours
are gathered as rows of a matrix; the 1x1 convolution is a product of this matrix, and the depth-wise one sums nine
rows of the product for each masked pixel. The indices of the rows are found once an image and serve all blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relo.models.channels_last import pointwise, spatial
from relo.models.m2aenet.deformable import in_threads, runs_compiled
from relo.models.nafnet import gate
from relo.models.precision import at_least_float32


class MaskedPixels(NamedTuple):
    """Where a mask is 1, as indices of the rows of features (N * H * W, C), a row being one pixel.

    Attributes
    ----------
    masked : (Q,) int64 tensor
        Rows of the masked pixels.
    gathered : (P,) int64 tensor
        Rows of the masked pixels and of all their neighbours inside the image.
    neighbours : (Q, 9) int64 tensor
        Which of `gathered` the 3x3 neighbours of each masked pixel are; P for those outside the image.
    """

    masked: Tensor
    gathered: Tensor
    neighbours: Tensor


def find_masked(mask: Tensor) -> MaskedPixels:
    """Make the tables of a mask; waits for the device, once an image.

    Parameters
    ----------
    mask : (N, H, W, 1) tensor of 0 and 1
    """
    count, height, width = mask.shape[:3]
    blurred = mask[..., 0] > 0
    wanted = F.max_pool2d(blurred.float(), 3, stride=1, padding=1) > 0
    gathered = wanted.flatten().nonzero()[:, 0]
    places = torch.full((count, height + 2, width + 2), len(gathered), device=mask.device)
    places[:, 1:-1, 1:-1][wanted] = torch.arange(len(gathered), device=mask.device)
    image, y, x = blurred.nonzero().unbind(1)
    steps = torch.arange(3, device=mask.device)
    neighbours = places[image[:, None], y[:, None] + steps.repeat_interleave(3), x[:, None] + steps.repeat(3)]
    return MaskedPixels((image * height + y) * width + x, gathered, neighbours)


def gate_where_masked(x: Tensor, conv1: nn.Conv2d, conv2: nn.Conv2d, pixels: MaskedPixels) -> Tensor:
    """gate(conv2(conv1(x))) at masked pixels, x^2 at the others, without computing the former there.

    Parameters
    ----------
    x : (N, H, W, C) tensor
    conv1, conv2 : torch.nn.Conv2d
        1x1, C to 2C channels; 3x3 depth-wise with zero padding, which comes after the bias of `conv1`.
    pixels : MaskedPixels

    Returns
    -------
    (N, H, W, C) tensor
    """
    if len(pixels.masked) == x[..., 0].numel():
        return gate(spatial(conv2, pointwise(conv1, x)))
    result = (x * x).flatten(0, 2)
    wide = pointwise(conv1, x.flatten(0, 2)[pixels.gathered])
    weight = conv2.weight.flatten(1).T
    assert conv2.bias is not None
    if runs_compiled(wide, weight, conv2.bias):
        _gate_compiled(wide, pixels, weight, conv2.bias, result)
    else:
        total = _sum_neighbours(wide, pixels.neighbours, weight, conv2.bias)
        result[pixels.masked] = gate(total).to(result.dtype)
    return result.view_as(x)


def _sum_neighbours(wide: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depth-wise convolution (Q, 2C) of gathered features (P, 2C) with weights (9, 2C)."""
    wide = F.pad(wide, (0, 0, 0, 1))  # a row of zeros, for what lies outside
    total = at_least_float32(bias)  # half precision would lose digits in the sum
    for tap, kernel in enumerate(weight):
        total = total + wide[neighbours[:, tap]] * kernel
    return total


def _gate_compiled(wide: Tensor, pixels: MaskedPixels, weight: Tensor, bias: Tensor, result: Tensor) -> None:
    """Write the gate of `_sum_neighbours` into the masked rows of `result`, by a compiled loop."""
    from relo.models.m2aenet.compiled import gate_neighbours

    weights, biases = (tensor.detach().to(wide.dtype).contiguous().numpy() for tensor in (weight, bias))
    features, neighbours, rows, out = (
        tensor.numpy() for tensor in (wide.contiguous(), pixels.neighbours, pixels.masked, result)
    )

    def compute(first: int, last: int) -> None:
        gate_neighbours(features, neighbours, rows, weights, biases, first, last, out)

    in_threads(compute, len(rows))
