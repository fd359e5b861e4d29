"""Forward warping: every pixel is carried along its flow and shared out among the four pixels where it lands.

As defined by Niklaus and Liu 2020 (softmax splatting); own formulation with torch's `index_add`, differentiable in
image, flow and metric.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SplatMode = Literal["sum", "average", "linear", "softmax"]
LEAST_WEIGHT = 1e-7


def splat(
    image: Tensor,
    flow_xy: Tensor,
    mode: SplatMode = "average",
    metric: Tensor | None = None,
    *,
    divide: Literal["floor", "add"] = "floor",
) -> Tensor:
    """Carry pixel p of `image` to p + flow, bilinearly.

    Convention: flow channel 0 is dx, channel 1 is dy, and it belongs to the pixel that it moves (forward flow).

    What lands outside is dropped, and so is a pixel whose flow, metric or any value is not finite; it gets no
    gradient. Where nothing lands the result is 0. The gradient in the flow is that of the bilinear weights;
    at whole numbers, the one towards larger flow.

    Parameters
    ----------
    image : (N, C, H, W) tensor
    flow_xy : (N, 2, H, W) tensor
        (dx, dy) [px].
    mode : {"sum", "average", "linear", "softmax"}
        Sum of what lands; its mean by bilinear weight; the mean with weights `metric`, or exp(`metric`) as well.
    metric : (N, 1, H, W) tensor, optional
        Importance of each pixel, for "linear" and "softmax" only; for "linear" not negative.
    divide : {"floor", "add"}
        How a mean avoids dividing by nothing: by a weight of 1e-7 at least, so that means are exact wherever more
        than that lands, or by the weight plus 1e-7 as in the public code of softmax splatting. "softmax" takes the
        weights relative to the largest metric of each image, so that no exponential overflows; where nothing lands
        but pixels whose metric is 16 or more below it, the result is too dark.

    Returns
    -------
    (N, C, H, W) tensor
        In at least single precision.

    Raises
    ------
    ValueError
        Shapes do not fit, or a metric is missing, or given where none is used.
    """
    _check(image, flow_xy, mode, metric)
    precise = torch.promote_types(torch.promote_types(image.dtype, flow_xy.dtype), torch.float32)
    image, flow_xy = image.to(precise), flow_xy.to(precise)
    finite = torch.isfinite(flow_xy).all(1, keepdim=True) & torch.isfinite(image).all(1, keepdim=True)
    weight = None
    if metric is not None:
        metric = metric.to(precise)
        finite = finite & torch.isfinite(metric)
        weight = _weight(metric, finite, mode)
    elif mode == "average":
        weight = torch.ones_like(image[:, :1])
    # Before any product: 0 times NaN is NaN, forwards and backwards.
    image = torch.where(finite, image, 0)
    flow_xy = torch.where(finite, flow_xy, 0)
    if weight is None:
        return _sum(image, flow_xy, finite)
    total = _sum(torch.cat([image * weight, weight], dim=1), flow_xy, finite)
    landed, share = total[:, :-1], total[:, -1:]
    return landed / (share.clamp(min=LEAST_WEIGHT) if divide == "floor" else share + LEAST_WEIGHT)


def _weight(metric: Tensor, finite: Tensor, mode: SplatMode) -> Tensor:
    metric = torch.where(finite, metric, 0)
    if mode == "linear":
        return metric
    largest = torch.where(finite, metric, -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
    return (metric - torch.where(torch.isfinite(largest), largest, 0).detach()).exp()


def _sum(values: Tensor, flow_xy: Tensor, lands: Tensor) -> Tensor:
    """Splat (N, C, H, W) by summation, only where `lands` (N, 1, H, W)."""
    count, channels, height, width = values.shape
    column = torch.arange(width, dtype=values.dtype, device=values.device) + flow_xy[:, 0]
    row = torch.arange(height, dtype=values.dtype, device=values.device)[:, None] + flow_xy[:, 1]
    # Without gradient: the derivative of the weights is then that of x - floor(x) for every x, whole numbers too.
    left, top = column.detach().floor(), row.detach().floor()
    right_share, bottom_share = column - left, row - top
    flat = values.movedim(1, -1).reshape(-1, channels)
    first_row = torch.arange(count, device=values.device).view(-1, 1, 1) * height
    result = torch.zeros_like(flat)
    for below in (0, 1):
        for right in (0, 1):
            x, y = left + right, top + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & lands[:, 0]
            weight = (right_share if right else 1 - right_share) * (bottom_share if below else 1 - bottom_share)
            weight = torch.where(inside, weight, 0)
            x, y = (torch.where(inside, place, 0).long() for place in (x, y))
            index = (first_row + y) * width + x
            result = result.index_add(0, index.flatten(), flat * weight.flatten()[:, None])
    return result.view(count, height, width, channels).movedim(-1, 1)


def _check(image: Tensor, flow_xy: Tensor, mode: str, metric: Tensor | None) -> None:
    if mode not in ("sum", "average", "linear", "softmax"):
        raise ValueError(f"there is no mode '{mode}': sum, average, linear, softmax")
    if image.ndim != 4 or flow_xy.shape != (image.shape[0], 2, *image.shape[2:]):
        raise ValueError(f"a flow {tuple(flow_xy.shape)} does not fit an image {tuple(image.shape)}")
    if (metric is not None) != (mode in ("linear", "softmax")):
        raise ValueError(f"mode '{mode}' {'needs a' if metric is None else 'takes no'} metric")
    if metric is not None and metric.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ValueError(f"a metric {tuple(metric.shape)} does not fit an image {tuple(image.shape)}")
