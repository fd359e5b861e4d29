"""Training losses on restored images and masks, and the sum of all terms that a recipe asks for.

Those of LBAG and MIMO-UNet (Li et al. 2023, section 4 and public code; Cho et al. 2021), NAFNet's PSNR, LMD-ViT's
form of the frequency term, Stripformer's Charbonnier and edge terms and what BlurDM makes of them (public code of
all four). What M2AENet adds is in `relo.training.motion_losses`, what Stripformer adds to compare with the blurred
image in `relo.training.contrastive`.

Convention: predictions and targets are (N, C, H, W) tensors in [0, 1]; an image loss gives one value
per image, (N,). Scales are ordered coarse to fine, as in `relo.models.Restoration`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.models import Restoration
from relo.models.image_batches import crop_to, pad_to_multiple
from relo.models.m2aenet.trajectories import TrajectoryForm
from relo.models.restoration import MotionRestoration
from relo.training.loss_weights import LossWeights
from relo.training.motion_losses import motion_terms
from relo.training.structure import ssim_map

ImageLoss = Callable[[Tensor, Tensor], Tensor]
ContrastiveTerm = Callable[[Tensor, Tensor, Tensor], Tensor]


def l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of each image: (N,)."""
    return (pred - target).abs().mean(dim=(1, 2, 3))


def charbonnier(pred: Tensor, target: Tensor) -> Tensor:
    """Mean sqrt(d^2 + 1e-6) of the differences d of each image, or vector: (N,), 1e-3 for equal ones."""
    return _mean_charbonnier(pred - target)


def edge(pred: Tensor, target: Tensor) -> Tensor:
    """Stripformer's edge term: `charbonnier` between what a Gaussian pyramid of two levels loses: (N,).

    Loss of an image x is x - G(Z(G(x))): G is the 5-tap Gaussian, Z keeps every second row and column, times 4, and
    is 0 elsewhere.
    """
    difference = pred - target  # all of it is linear
    halved = torch.zeros_like(difference)
    halved[..., ::2, ::2] = 4 * _gaussian(difference)[..., ::2, ::2]
    return _mean_charbonnier(difference - _gaussian(halved))


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Negative structural similarity of each image: (N,), -1 for equal images; sides of at least 11 px."""
    return -ssim_map(pred, target).mean(dim=(1, 2, 3))


def msfr(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as in the code of LBAG and LoFormer: (N,).

    Mean modulus of the difference of the one-sided, un-normalised 2-D Fourier transforms, in at least single
    precision.
    """
    difference = torch.fft.rfft2(_at_least_single(pred) - _at_least_single(target))
    return difference.abs().mean(dim=(1, 2, 3))


def msfr_real_imag(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as in MIMO-UNet (Cho et al. 2021, eq. 8) and FFTformer's code: (N,).

    Mean absolute value over the real and the imaginary parts of the difference of the two-sided,
    un-normalised transforms; smaller than `msfr` by a factor near pi / 2.
    """
    difference = torch.fft.fft2(_at_least_single(pred) - _at_least_single(target))
    return torch.view_as_real(difference).abs().mean(dim=(1, 2, 3, 4))


def msfr_charbonnier(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as BlurDM's code means it: (N,).

    As `msfr_real_imag`, with sqrt(d^2 + 1e-6) for the absolute value.
    """
    difference = torch.fft.fft2(_at_least_single(pred) - _at_least_single(target))
    return _mean_charbonnier(torch.view_as_real(difference))


def msfr_charbonnier_height(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as BlurDM's code computes it with PyTorch from 1.8 on: (N,).

    As `msfr_charbonnier`, but each column is transformed on its own: there is no transform along the width.
    """
    difference = torch.fft.fft(_at_least_single(pred) - _at_least_single(target), dim=-2)
    return _mean_charbonnier(torch.view_as_real(difference))


def msfr_windows(pred: Tensor, target: Tensor) -> Tensor:
    """Frequency reconstruction loss as in LMD-ViT's code: (N,).

    Mean absolute difference of the amplitudes sqrt(re^2 + im^2 + 1e-8) of 49 windows: the image is cut into 8 x 8
    cells, of which each window has 2 x 2, one cell apart. Rows and columns beyond 8 whole cells belong to none.

    Raises
    ------
    ValueError
        A side is shorter than 8 px.
    """
    if min(pred.shape[-2:]) < 8:
        raise ValueError(f"8 x 8 cells need sides of at least 8 pixels, got {tuple(pred.shape[-2:])}")
    return (_amplitudes(pred) - _amplitudes(target)).abs().mean(dim=(1, 2, 3, 4, 5))


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """Negative peak signal-to-noise ratio of each image, 10 log10(MSE + 1e-8) as in NAFNet's code [dB]: (N,)."""
    return 10 * torch.log10((pred - target).square().mean(dim=(1, 2, 3)) + 1e-8)


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


FREQUENCY_FORMS = {
    "modulus": msfr,
    "real_imag": msfr_real_imag,
    "windows": msfr_windows,
    "charbonnier": msfr_charbonnier,
    "charbonnier_height": msfr_charbonnier_height,
}


def total_loss(
    restored: Restoration | MotionRestoration,
    sharp: Tensor,
    mask: Tensor,
    weights: LossWeights,
    blur: Tensor | None = None,
    trajectory_form: TrajectoryForm = "quadratic",
    contrastive: ContrastiveTerm | None = None,
) -> dict[str, Tensor]:
    """Weighted sum of the terms that `weights` asks for, but for those that the network gives nothing for.

    Parameters
    ----------
    restored : Restoration or MotionRestoration
        With or without scales and masks; the mask term needs masks, the terms of motion a `MotionRestoration`.
    sharp : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor of 0 and 1
    weights : LossWeights
    blur : (N, 3, H, W) tensor, optional
        What was restored, for the reblur and the contrastive term.
    trajectory_form : {"quadratic", "linear", "learned"}
        What the offsets of a `MotionRestoration` mean, see `relo.models.m2aenet.trajectory`.
    contrastive : callable, optional
        (restored, sharp, blur) -> (), a `relo.training.contrastive.ContrastiveLoss`.

    Returns
    -------
    dict of () tensors
        Each term before weighting, summed over the scales, and their weighted sum "total".

    Raises
    ------
    ValueError
        `weights` asks for the reblur or the contrastive term, and what it needs is not given.
    """
    outputs = restored.scales or (restored.image,)
    if weights.clip_output:
        outputs = tuple(output.clamp(0, 1) for output in outputs)
    targets = scale_targets(sharp)[-len(outputs) :]
    image_terms = (
        ("l1", l1, weights.l1),
        ("charbonnier", charbonnier, weights.charbonnier),
        ("edge", edge, weights.edge),
        ("ssim", ssim, weights.ssim),
        ("msfr", FREQUENCY_FORMS[weights.msfr_form], weights.msfr),
        ("psnr", psnr, weights.psnr),
    )
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
    if weights.contrastive:
        if contrastive is None or blur is None:
            raise ValueError("the contrastive loss needs the blurred image and a ContrastiveLoss")
        terms["contrastive"] = contrastive(outputs[-1], sharp, blur)
        total = total + weights.contrastive * terms["contrastive"]
    if weights.mask and restored.masks:
        terms["mask"] = mask_loss(restored.masks, mask)
        total = total + weights.mask * terms["mask"]
    if isinstance(restored, MotionRestoration):
        motion = motion_terms(restored, sharp, mask, weights, blur, trajectory_form)
        total = total + sum(getattr(weights, name) * term for name, term in motion.items())
        terms |= motion
    return terms | {"total": total}


def _mean_charbonnier(difference: Tensor) -> Tensor:
    """Mean over all axes but the first."""
    return (difference.square() + 1e-6).sqrt().flatten(1).mean(dim=1)


def _gaussian(images: Tensor) -> Tensor:
    """5-tap Gaussian of (N, C, H, W) images, which continue beyond their border as the nearest pixel."""
    taps = images.new_tensor([0.05, 0.25, 0.4, 0.25, 0.05])
    planes = F.pad(images.flatten(0, 1), (2, 2, 2, 2), mode="replicate").unsqueeze(1)
    smooth = F.conv2d(F.conv2d(planes, taps.view(1, 1, 5, 1)), taps.view(1, 1, 1, 5))
    return smooth.view(images.shape)


def _amplitudes(image: Tensor) -> Tensor:
    """Fourier amplitudes of 7 x 7 windows: (N, C, 7, 7, h, w)."""
    cells = [side // 8 for side in image.shape[-2:]]
    windows = _at_least_single(image)[..., : 8 * cells[0], : 8 * cells[1]]
    for dim, cell in zip((2, 3), cells, strict=True):
        windows = windows.unfold(dim, 2 * cell, cell)
    return (torch.view_as_real(torch.fft.fft2(windows)).square().sum(dim=-1) + 1e-8).sqrt()


def _at_least_single(image: Tensor) -> Tensor:
    """Fourier transforms sum up more values than half precision can tell apart."""
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image
