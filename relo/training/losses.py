"""Training losses of LBAG and MIMO-UNet (Li et al. 2023, section 4 and public code; Cho et al. 2021).

Convention: predictions and targets are (N, C, H, W) tensors in [0, 1]; an image loss gives one value
per image, (N,). Scales are ordered coarse to fine, as in `relo.models.Restoration`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.models import Restoration
from relo.models.layers import crop_to, pad_to_multiple
from relo.training.recipe import LossWeights
from relo.training.structure import ssim_map

ImageLoss = Callable[[Tensor, Tensor], Tensor]


def l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of each image: (N,)."""
    return (pred - target).abs().mean(dim=(1, 2, 3))


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Negative structural similarity of each image: (N,), -1 for equal images; sides of at least 11 px."""
    return -ssim_map(pred, target).mean(dim=(1, 2, 3))


def msfr(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as in LBAG's code: (N,).

    Mean modulus of the difference of the one-sided, un-normalised 2-D Fourier transforms, in at least single
    precision.
    """
    difference = torch.fft.rfft2(_at_least_single(pred) - _at_least_single(target))
    return difference.abs().mean(dim=(1, 2, 3))


def msfr_real_imag(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as in MIMO-UNet (Cho et al. 2021, eq. 8): (N,).

    Mean absolute value over the real and the imaginary parts of the difference of the two-sided,
    un-normalised transforms; smaller than `msfr` by a factor near pi / 2.
    """
    difference = torch.fft.fft2(_at_least_single(pred) - _at_least_single(target))
    return torch.view_as_real(difference).abs().mean(dim=(1, 2, 3, 4))


def shift_invariant(loss: ImageLoss, pred: Tensor, target: Tensor) -> Tensor:
    """Least loss over nine shifts of the target, averaged over the batch (Li et al. 2023, eq. 7).

    Convention: shift (dy, dx) in {-1, 0, 1}^2 makes `shifted(y, x) = target(y - dy, x - dx)`; indices
    beyond the border are reflected about the border pixel. The minimum is taken for each image on its
    own, at the pixel grid of the given scale; the gradient flows through the best shift only.

    Parameters
    ----------
    loss : callable
        (pred, target) -> (N,).
    pred, target : (N, C, H, W) tensor
        Sides of at least 2 pixels.

    Returns
    -------
    () tensor
    """
    height, width = target.shape[-2:]
    framed = F.pad(target, (1, 1, 1, 1), mode="reflect")
    corners = [(1 - dy, 1 - dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    with torch.no_grad():
        # One shift after the other, as views: nine copies at once would take nine times the memory.
        losses = [loss(pred, framed[..., y : y + height, x : x + width]) for y, x in corners]
        best = torch.tensor(corners, device=target.device)[torch.stack(losses).argmin(dim=0)]
    # Picked by index rather than by a loop over the images, which would make a GPU wait for each.
    image = torch.arange(len(target), device=target.device)[:, None, None, None]
    channel = torch.arange(target.shape[1], device=target.device)[:, None, None]
    row = best[:, 0, None, None, None] + torch.arange(height, device=target.device)[:, None]
    column = best[:, 1, None, None, None] + torch.arange(width, device=target.device)
    return loss(pred, framed[image, channel, row, column]).mean()


def scale_targets(sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sharp images at 1/4, 1/2 and full size.

    Bilinear without antialiasing and with half-pixel centres, as published: the half size is the mean
    of each 2 x 2 block, the quarter size the mean of the *central* 2 x 2 pixels of each 4 x 4 block.

    Parameters
    ----------
    sharp : (N, C, H, W) tensor
        Sides that are not multiples of 4 are padded by reflection first.

    Returns
    -------
    tuple of three (N, C, ceil(H/s), ceil(W/s)) tensors
        For s = 4, 2, 1.
    """
    height, width = sharp.shape[-2:]
    padded = pad_to_multiple(sharp, 4)
    half = F.avg_pool2d(padded, 2)
    quarter = F.avg_pool2d(padded[..., 1:-1, 1:-1], kernel_size=2, stride=4)
    return crop_to(quarter, height, width, 4), crop_to(half, height, width, 2), sharp


def mask_loss(predicted: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Sum over the scales of the mean squared error of the predicted masks.

    Parameters
    ----------
    predicted : tuple of (N, 1, ceil(H/s), ceil(W/s)) tensors
        Coarse to fine; the last at full size.
    mask : (N, 1, H, W) tensor of 0 and 1
        Coarser targets keep the pixels at index s * i.

    Returns
    -------
    () tensor
    """
    strides = [2**level for level in range(len(predicted))][::-1]
    errors = [
        F.mse_loss(gate, mask[..., ::stride, ::stride]) for gate, stride in zip(predicted, strides, strict=True)
    ]
    return torch.stack(errors).sum()


def total_loss(restored: Restoration, sharp: Tensor, mask: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Weighted sum of the terms that `weights` asks for.

    Parameters
    ----------
    restored : Restoration
        With or without scales and masks; the mask term needs masks.
    sharp : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor of 0 and 1
    weights : LossWeights

    Returns
    -------
    dict of () tensors
        Each term before weighting, summed over the scales, and their weighted sum "total".
    """
    outputs = restored.scales or (restored.image,)
    targets = scale_targets(sharp)[-len(outputs) :]
    frequency = msfr if weights.msfr_form == "modulus" else msfr_real_imag
    image_terms = (("l1", l1, weights.l1), ("ssim", ssim, weights.ssim), ("msfr", frequency, weights.msfr))
    terms: dict[str, Tensor] = {}
    total = sharp.new_zeros(())
    for name, loss, weight in image_terms:
        if weight:
            values = [
                shift_invariant(loss, output, target) if weights.shift_invariant else loss(output, target).mean()
                for output, target in zip(outputs, targets, strict=True)
            ]
            terms[name] = torch.stack(values).sum()
            total = total + weight * terms[name]
    if weights.mask and restored.masks:
        terms["mask"] = mask_loss(restored.masks, mask)
        total = total + weights.mask * terms["mask"]
    return terms | {"total": total}


def _at_least_single(image: Tensor) -> Tensor:
    """Fourier transforms sum up more values than half precision can tell apart."""
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image
