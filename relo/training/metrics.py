"""Image quality under a named protocol, see `relo.training.protocols` (Li et al. 2023, section 5 and public code).

Convention: images are (N, 3, H, W) floating-point RGB in [0, 1], masks (N, 1, H, W) in [0, 1], above 0 where
blurred; each metric gives one value per image, (N,) float64, and its mean over images is the reported number.
`niqe`, which needs no second image and follows no protocol, also takes numpy arrays.

Sums are taken in float64, a strip of rows at a time, so that no copy of a whole image is made. Any device that
has float64 will do; PSNR_a is always computed on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from relo.training import niqe as _niqe
from relo.training.alignment import aligned_error
from relo.training.protocols import PROTOCOLS, Protocol
from relo.training.structure import BORDER, WINDOW, mean_by_shifts, ssim_map

STRIP_PIXELS = 2**16  # a strip and what SSIM makes of it fit into a processor's cache


def psnr(pred: Tensor, target: Tensor, protocol: str = "reloblur") -> Tensor:
    """Peak signal-to-noise ratio of each image over all its values [dB].

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
    protocol : str

    Returns
    -------
    (N,) tensor
        Infinite for equal images; under `lmdvit`, which adds 1e-8 to the mean squared error, 80 dB.

    Raises
    ------
    ValueError
        Here and below: the shapes differ, the values are integers, or there is no such protocol.
    """
    rules = _check(protocol, pred, target)

    def value(pred: Tensor, target: Tensor) -> Tensor:
        total = _total((a - b).square().sum() for a, b in _strips(pred, target, rules))
        return _decibel(total / pred.numel() + rules.added_error)

    return _each(value, pred, target)


def ssim(pred: Tensor, target: Tensor, protocol: str = "reloblur") -> Tensor:
    """Structural similarity of each image, RGB, 11 x 11 Gaussian window where it fits whole: (N,).

    Raises
    ------
    ValueError
        Also where a side is shorter than 11 pixels.
    """
    rules = _check(protocol, pred, target, smallest=WINDOW)

    def value(pred: Tensor, target: Tensor) -> Tensor:
        total = _total(strip.sum() for strip in _ssim_strips(pred, target, rules))
        return total / (pred.shape[0] * (pred.shape[1] - 2 * BORDER) * (pred.shape[2] - 2 * BORDER))

    return _each(value, pred, target)


def weighted_psnr(pred: Tensor, target: Tensor, mask: Tensor, protocol: str = "reloblur") -> Tensor:
    """PSNR_w: peak signal-to-noise ratio of the blurred pixels of each image [dB].

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor
        Every pixel above 0 counts fully; under `lmdvit` it counts with its value.
    protocol : str

    Returns
    -------
    (N,) tensor
        Of the squared error averaged over the mask, as in the code; under `paper` the average over the mask of the
        PSNR of single pixels, of their squared error averaged over the channels. That is undefined where the
        error is 0: such pixels count as 58.9 dB. NaN for an empty mask: leave it out of means.
    """
    rules = _check(protocol, pred, target, mask)
    floor = rules.pixel_floor

    def value(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        weight = _weight(mask, rules)
        errors = ((a - b).square().mean(dim=0) for a, b in _strips(pred, target, rules))
        if floor is not None:
            errors = (_decibel(error.clamp(min=floor)) for error in errors)
        mean = _total(_weigh(errors, weight)) / weight.sum(dtype=torch.float64)
        return _decibel(mean) if floor is None else mean

    return _each(value, pred, target, mask)


def weighted_ssim(pred: Tensor, target: Tensor, mask: Tensor, protocol: str = "reloblur") -> Tensor:
    """SSIM_w: structural similarity of the blurred pixels of each image.

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
        Sides of at least 11 pixels.
    mask : (N, 1, H, W) tensor
        As for `weighted_psnr`; 5 pixels at each border are outside the map.
    protocol : str

    Returns
    -------
    (N,) tensor
        NaN where no masked pixel lies within the map: leave it out of means (the public code gives 0).
    """
    rules = _check(protocol, pred, target, mask, smallest=WINDOW)

    def value(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        weight = _weight(mask, rules)[BORDER:-BORDER, BORDER:-BORDER]
        maps = (strip.mean(dim=0) for strip in _ssim_strips(pred, target, rules))
        return _total(_weigh(maps, weight)) / weight.sum(dtype=torch.float64)

    return _each(value, pred, target, mask)


def static_psnr(pred: Tensor, target: Tensor, mask: Tensor, protocol: str = "reloblur") -> Tensor:
    """Peak signal-to-noise ratio of the pixels whose mask is 0, whatever the protocol does with others [dB].

    Not a published metric: it shows what a network does to what was sharp already.

    Returns
    -------
    (N,) tensor
        NaN where the mask is nowhere 0, infinite where nothing differs.
    """
    rules = _check(protocol, pred, target, mask)

    def value(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        weight = mask[0] == 0
        errors = ((a - b).square().mean(dim=0) for a, b in _strips(pred, target, rules))
        return _decibel(_total(_weigh(errors, weight)) / weight.sum(dtype=torch.float64) + rules.added_error)

    return _each(value, pred, target, mask)


def aligned_psnr(pred: Tensor, target: Tensor, protocol: str = "reloblur") -> Tensor:
    """PSNR_a: peak signal-to-noise ratio after gain and homography were fitted [dB].

    Parameters
    ----------
    pred, target : (N, 3, H, W) tensor
        Images of a few pixels have no meaningful alignment.
    protocol : str
        Decides on rounding, and whether the squared error is averaged over all pixels (the code of ReLoBlur) or
        over those that the aligned image covers (`realblur`, `paper`).

    Returns
    -------
    (N,) tensor
        On the device of `pred`. NaN where alignment has no answer, as for a flat image: leave it out of means
        (the public code stops with an error). See `relo.training.alignment` for how far the value can be trusted.
    """
    rules = _check(protocol, pred, target)

    def value(pred: Tensor, target: Tensor) -> Tensor:
        images = [_prepare(image.cpu().float(), rules).permute(1, 2, 0).contiguous() for image in (pred, target)]
        error = aligned_error(*(image.numpy() for image in images), over_valid_area=rules.over_valid_area)
        return _decibel(torch.tensor(error, dtype=torch.float64, device=pred.device))

    return _each(value, pred, target)


def mask_iou(predicted: Tensor, mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of a predicted and a true mask, each image on its own.

    Parameters
    ----------
    predicted : (N, 1, H, W) tensor
        Blurred where above `threshold`.
    mask : (N, 1, H, W) tensor
        Blurred where above 0.
    threshold : float

    Returns
    -------
    (N,) tensor
        NaN where both are empty: leave it out of means.
    """
    if predicted.shape != mask.shape:
        raise ValueError(f"masks of equal size are needed, got {tuple(predicted.shape)} and {tuple(mask.shape)}")
    found, true = predicted > threshold, mask > 0
    return (found & true).sum(dim=(1, 2, 3)).double() / (found | true).sum(dim=(1, 2, 3))


@overload
def niqe(image: Tensor, *, luma: _niqe.Luma = ...) -> Tensor: ...
@overload
def niqe(image: NDArray[Any], *, luma: _niqe.Luma = ...) -> float: ...
def niqe(image: Tensor | NDArray[Any], *, luma: _niqe.Luma = "full") -> Tensor | float:
    """NIQE, which needs no target: lower is more natural (Mittal et al. 2013).

    Parameters
    ----------
    image : (N, 3, H, W) tensor, or (H, W, 3) or (H, W) array
        Sides of at least 192 px; an array also of uint8 or uint16.
    luma : {"full", "studio"}
        See `relo.training.niqe.niqe`.

    Returns
    -------
    (N,) tensor, or float for an array
        On the CPU. NaN for flat images: leave it out of means.

    Raises
    ------
    ValueError
        The image is not as described, or has values that are not finite.
    """
    if not isinstance(image, Tensor):
        return _niqe.niqe(image, luma=luma)
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(f"NIQE needs (N, 3, H, W) floating-point images, got {tuple(image.shape)} {image.dtype}")
    arrays = image.detach().float().permute(0, 2, 3, 1).cpu().numpy()
    return torch.tensor([_niqe.niqe(array, luma=luma) for array in arrays], dtype=torch.float64)


def mean_and_excluded(values: Iterable[float]) -> tuple[float, int]:
    """Mean of the values that are not NaN, and how many are; the mean of nothing is NaN.

    One infinite value makes the mean infinite, as it does in the public code.
    """
    values = list(values)
    kept = [value for value in values if not math.isnan(value)]
    return (sum(kept) / len(kept) if kept else math.nan), len(values) - len(kept)


def _check(protocol: str, pred: Tensor, target: Tensor, mask: Tensor | None = None, smallest: int = 1) -> Protocol:
    """Rules of the protocol, once the tensors are found to be as described."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{protocol}', expected one of {', '.join(PROTOCOLS)}")
    if pred.shape != target.shape or pred.ndim != 4 or pred.shape[1] != 3:
        raise ValueError(f"two (N, 3, H, W) images are needed, got {tuple(pred.shape)} and {tuple(target.shape)}")
    if not (pred.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"floating-point images in [0, 1] are needed, got {pred.dtype} and {target.dtype}")
    count, _, height, width = pred.shape
    if min(height, width) < smallest:
        raise ValueError(f"sides of at least {smallest} px are needed, got {height} x {width}")
    if mask is not None and mask.shape != (count, 1, height, width):
        raise ValueError(f"a mask of shape {(count, 1, height, width)} is needed, got {tuple(mask.shape)}")
    return PROTOCOLS[protocol]


def _each(value: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Apply `value` to the images of a batch one by one."""
    values = [value(*images) for images in zip(*batches, strict=True)]
    return torch.stack(values) if values else batches[0].new_zeros(0, dtype=torch.float64)


def _prepare(image: Tensor, rules: Protocol) -> Tensor:
    image = image.clamp(0, 1)
    # torch.round takes halves to even, as the protocol does.
    return torch.round(image * 255) / 255 if rules.rounded else image


def _strips(pred: Tensor, target: Tensor, rules: Protocol, overlap: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Bands of rows of (C, H, W) images in float64; each begins `overlap` rows before the last one ended."""
    height, width = pred.shape[-2:]
    step = max(1, STRIP_PIXELS // width)
    for top in range(0, height - overlap, step):
        rows = slice(top, top + step + overlap)
        yield _prepare(pred[:, rows].double(), rules), _prepare(target[:, rows].double(), rules)


def _ssim_strips(pred: Tensor, target: Tensor, rules: Protocol) -> Iterator[Tensor]:
    """Structural similarity map, (C, rows, W - 10) at a time."""
    for a, b in _strips(pred, target, rules, overlap=2 * BORDER):
        yield ssim_map(a[None], b[None], mean_by_shifts)[0]


def _weight(mask: Tensor, rules: Protocol) -> Tensor:
    return mask[0] if rules.soft_mask else mask[0] > 0


def _weigh(strips: Iterable[Tensor], weight: Tensor) -> Iterator[Tensor]:
    """Weighted sum of each (rows, W) strip."""
    top = 0
    for strip in strips:
        yield (strip * weight[top : top + len(strip)]).sum()
        top += len(strip)


def _total(sums: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(sums)).sum()


def _decibel(squared_error: Tensor) -> Tensor:
    return -10 * torch.log10(squared_error)
