"""The structural similarity map that both the loss and the metric average (Wang et al. 2004)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11  # side of the Gaussian window [px]
SIGMA = 1.5  # its standard deviation [px]
BORDER = WINDOW // 2  # pixels that the map lacks on each side
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1


def mean_by_convolution(images: Tensor) -> Tensor:
    """Gaussian mean around each position where the window fits: (N, C, H, W) to (N, C, H - 10, W - 10)."""
    count, channels = images.shape[:2]
    taps = _taps(images)
    planes = images.flatten(0, 1).unsqueeze(1)
    means = F.conv2d(F.conv2d(planes, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return means.view(count, channels, *means.shape[-2:])


def mean_by_shifts(images: Tensor) -> Tensor:
    """The same as `mean_by_convolution`, without gradient.

    For float64 on a CPU, where torch's convolution is slow: two to three times as fast on strips that fit the cache
    (`benchmarks/aligned_psnr.py` prints the ratio).
    """
    taps = _taps(images).tolist()
    for axis in (-2, -1):
        length = images.shape[axis] - 2 * BORDER
        total = images.narrow(axis, BORDER, length) * taps[BORDER]
        for offset in range(BORDER):
            both = images.narrow(axis, offset, length) + images.narrow(axis, 2 * BORDER - offset, length)
            total.add_(both, alpha=taps[offset])
        images = total
    return images


def ssim_map(a: Tensor, b: Tensor, local_mean: Callable[[Tensor], Tensor] = mean_by_convolution) -> Tensor:
    """Structural similarity at every position where the whole window fits.

    Parameters
    ----------
    a, b : (N, C, H, W) tensor
        Images in [0, 1], sides of at least 11 pixels.
    local_mean : callable
        `mean_by_convolution` or `mean_by_shifts`.

    Returns
    -------
    (N, C, H - 10, W - 10) tensor
        In [-1, 1]; each channel on its own, 11 x 11 Gaussian window of sigma 1.5, population moments.

    Raises
    ------
    ValueError
        The shapes differ or the images are too small.
    """
    if a.shape != b.shape or min(a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs equal sizes of at least {WINDOW} px, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a + b * b) - mean_a * mean_a - mean_b * mean_b
    covariance = local_mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a * mean_a + mean_b * mean_b + C1) * (variances + C2)
    )


def _taps(images: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - BORDER
    taps = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return taps / taps.sum()
