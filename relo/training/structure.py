"""The structural similarity map that both the loss and the metric average (Wang et al. 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11  # side of the Gaussian window [px]
SIGMA = 1.5  # its standard deviation [px]
BORDER = WINDOW // 2  # pixels that the map lacks on each side
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity at every position where the whole window fits.

    Parameters
    ----------
    a, b : (N, C, H, W) tensor
        Images in [0, 1], sides of at least 11 pixels.

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
    count, channels = a.shape[:2]
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - BORDER
    taps = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    taps = taps / taps.sum()

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))

    a, b = a.flatten(0, 1).unsqueeze(1), b.flatten(0, 1).unsqueeze(1)
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a + b * b) - mean_a * mean_a - mean_b * mean_b
    covariance = local_mean(a * b) - mean_a * mean_b
    result = ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a * mean_a + mean_b * mean_b + C1) * (variances + C2)
    )
    return result.view(count, channels, *result.shape[-2:])
