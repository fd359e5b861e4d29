"""Image quality under a named protocol (Li et al. 2023, section 5 and public code).

Convention: images are (N, 3, H, W) RGB in [0, 1], masks (N, 1, H, W) with values above 0 where blurred;
each metric gives one value per image, (N,), and its mean over images is the reported number.

Protocols
---------
reloblur
    Clamp both images to [0, 1] and round them to 8 bits, halves to even.
float
    Clamp only, as MIMO-UNet's evaluation does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from relo.training.structure import BORDER, ssim_map

Protocol = Literal["reloblur", "float"]


def psnr(pred: Tensor, target: Tensor, protocol: Protocol = "reloblur") -> Tensor:
    """Peak signal-to-noise ratio of each image over all its values [dB]: (N,), infinite for equal images."""
    pred, target = _prepare(pred, protocol), _prepare(target, protocol)
    return _decibel(((pred - target) ** 2).mean(dim=(1, 2, 3)))


def ssim(pred: Tensor, target: Tensor, protocol: Protocol = "reloblur") -> Tensor:
    """Structural similarity of each image, RGB, 11 x 11 Gaussian window where it fits whole: (N,)."""
    pred, target = _prepare(pred, protocol), _prepare(target, protocol)
    return ssim_map(pred, target).mean(dim=(1, 2, 3))


def weighted_psnr(pred: Tensor, target: Tensor, mask: Tensor, protocol: Protocol = "reloblur") -> Tensor:
    """PSNR_w: peak signal-to-noise ratio of the blurred pixels of each image [dB].

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor
        Every pixel above 0 counts fully.

    Returns
    -------
    (N,) tensor
        Of the squared error averaged over the mask, as in the code; the paper's text averages the PSNR of
        single pixels, which is undefined where the error is 0. NaN for an empty mask: leave it out of means.
    """
    pred, target = _prepare(pred, protocol), _prepare(target, protocol)
    weight = (mask > 0).double()
    error = ((pred - target) ** 2 * weight).sum(dim=(1, 2, 3))
    return _decibel(error / weight.sum(dim=(1, 2, 3)) / pred.shape[1])


def weighted_ssim(pred: Tensor, target: Tensor, mask: Tensor, protocol: Protocol = "reloblur") -> Tensor:
    """SSIM_w: structural similarity of the blurred pixels of each image.

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor
        Every pixel above 0 counts fully; 5 pixels at each border are outside the map.

    Returns
    -------
    (N,) tensor
        NaN where no masked pixel lies within the map: leave it out of means (the public code gives 0).
    """
    pred, target = _prepare(pred, protocol), _prepare(target, protocol)
    weight = (mask > 0).double()[..., BORDER:-BORDER, BORDER:-BORDER]
    total = (ssim_map(pred, target) * weight).sum(dim=(1, 2, 3))
    return total / weight.sum(dim=(1, 2, 3)) / pred.shape[1]


def mean_and_excluded(values: Iterable[float]) -> tuple[float, int]:
    """Mean of the values that are not NaN, and how many are; the mean of nothing is NaN."""
    values = list(values)
    kept = [value for value in values if not math.isnan(value)]
    return (sum(kept) / len(kept) if kept else math.nan), len(values) - len(kept)


def _prepare(image: Tensor, protocol: Protocol) -> Tensor:
    if protocol not in ("reloblur", "float"):
        raise ValueError(f"unknown protocol '{protocol}', expected reloblur or float")
    image = image.double().clamp(0, 1)
    # torch.round takes halves to even, as the protocol does.
    return torch.round(image * 255) / 255 if protocol == "reloblur" else image


def _decibel(squared_error: Tensor) -> Tensor:
    return -10 * torch.log10(squared_error)
