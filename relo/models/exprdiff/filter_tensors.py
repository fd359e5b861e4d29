"""The blur-aware guided filter of tensors: the same numbers as for arrays, with gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def apply(blurry: Tensor, short: Tensor, mask: Tensor, radius: int, eps: float, eps_mode: str) -> Tensor:
    """Filter tensors that `blur_aware_guided_filter` has checked."""
    # Half precision cannot hold sums of squares: float64 inside, also under autocast.
    with torch.autocast(blurry.device.type, enabled=False):
        b, r, m = blurry.double(), short.double(), mask.double()
        slope, offset, count = _mean_coefficients(b, r, m, radius, eps, eps_mode)
        # Where no window holds blur nothing is known; elsewhere the map itself gets a gradient even where it is 0.
        fit = torch.where(count > 0, slope * r + offset, b)
        return (b + m * (fit - b)).to(blurry.dtype)


def _mean_coefficients(
    b: Tensor, r: Tensor, mask: Tensor, radius: int, eps: float, eps_mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Means of slope and offset over the windows with a blurred pixel that hold each pixel, and how many there are.

    (N, C, H, W) twice and (N, 1, H, W); where there is none slope and offset are 0.
    """
    weight = mask * mask
    origin_b, origin_r = (image.detach().mean(dim=(2, 3), keepdim=True) for image in (b, r))
    b, r = b - origin_b, r - origin_r
    sums = box_sum(torch.cat([weight, weight * r, weight * b, weight * r * r, weight * r * b], dim=1), radius)
    total, sum_r, sum_b, sum_rr, sum_rb = sums.split([1, *[b.shape[1]] * 4], dim=1)
    valid = total > 0
    total = torch.where(valid, total, torch.ones_like(total))
    mean_r, mean_b = sum_r / total, sum_b / total
    covariance = sum_rb / total - mean_r * mean_b
    variance = (sum_rr / total - mean_r * mean_r).clamp(min=0)
    share = total if eps_mode == "sum" else 1.0  # eps counts once a window, or for each pixel
    slope = covariance * share / (variance * share + eps)
    offset = mean_b + origin_b - slope * (mean_r + origin_r)
    valid_numbers = valid.to(b.dtype)
    sums = box_sum(torch.cat([slope * valid_numbers, offset * valid_numbers, valid_numbers], dim=1), radius)
    slope, offset, count = sums.split([b.shape[1], b.shape[1], 1], dim=1)
    divisor = count.clamp(min=1)
    return slope / divisor, offset / divisor, count


def box_sum(images: Tensor, radius: int) -> Tensor:
    """Sum over the (2 radius + 1)^2 window around each pixel, cut off at the border.

    It never subtracts; see `relo.models.exprdiff.filter_arrays.box_sum`.

    Parameters
    ----------
    images : (N, C, H, W) tensor
    radius : int

    Returns
    -------
    (N, C, H, W) tensor
    """
    return _sum_along(_sum_along(images, radius).mT, radius).mT


def _sum_along(lines: Tensor, radius: int) -> Tensor:
    """Sum along the last dimension: the end of one block plus the start of the next, blocks as long as a window."""
    length = lines.shape[-1]
    radius = min(radius, length - 1)
    size = 2 * radius + 1
    blocks = -(-length // size) + 1
    padded = F.pad(lines, (radius, blocks * size - length - radius))
    blocked = padded.unflatten(-1, (blocks, size))
    from_start = blocked.cumsum(dim=-1)
    to_end = blocked.flip(-1).cumsum(dim=-1).flip(-1)
    # The window of place i covers [i, i + size) of the padded line: block i // size from there to its end, and
    # the next one up to its end there; a window that is a block has nothing of the next.
    ends = to_end.flatten(-2)[..., :length]
    starts = F.pad(from_start[..., 1:, :-1], (1, 0)).flatten(-2)[..., :length]
    return ends + starts
