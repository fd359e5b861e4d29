"""M2AENet's losses on its mask and its motion (Shang et al., section 3.4), which live on a grid of 1/8 of the size.

The paper does not say how images and masks are reduced to that grid, nor the norm of the total variation: blocks of
8 x 8 pixels are averaged here, and the norm is the L1 norm of Motion-ETR, from which this idea of motion comes. The
paper writes the blurred image as a sum of moved sharp ones; only their mean is as bright as it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relo.models.m2aenet.splatting import LEAST_WEIGHT, splat
from relo.models.m2aenet.trajectories import TAPS, TrajectoryForm, trajectory
from relo.models.restoration import MotionRestoration
from relo.training.loss_weights import LossWeights

LARGEST_BLOCK = 64


def motion_terms(
    restored: MotionRestoration,
    sharp: Tensor,
    mask: Tensor,
    weights: LossWeights,
    blur: Tensor | None,
    trajectory_form: TrajectoryForm = "quadratic",
) -> dict[str, Tensor]:
    """The terms that `weights` asks for, before weighting, under the names they have there.

    Parameters
    ----------
    restored : MotionRestoration
    sharp : (N, 3, H, W) tensor
    mask : (N, 1, H, W) tensor of 0 and 1
    weights : LossWeights
    blur : (N, 3, H, W) tensor or None
    trajectory_form : {"quadratic", "linear", "learned"}

    Returns
    -------
    dict of () tensors

    Raises
    ------
    ValueError
        `weights` asks for the reblur term, and `blur` is None.
    """
    terms = {}
    if weights.mask_ce:
        terms["mask_ce"] = mask_cross_entropy(restored.logits, mask, weights.mask_ce_form)
    if weights.reblur or weights.tv:
        motion = trajectory(restored.offsets, TAPS, trajectory_form)
        if weights.reblur:
            if blur is None:
                raise ValueError("the reblur loss needs the blurred image")
            terms["reblur"] = reblur(motion, sharp, blur, weights.reblur_form)
        if weights.tv:
            terms["tv"] = total_variation(motion)
    return terms


def mask_cross_entropy(logits: Tensor, mask: Tensor, form: str = "half") -> Tensor:
    """Mean cross-entropy of the classes blurred (0) and sharp (1).

    Parameters
    ----------
    logits : (N, 2, ceil(H/s), ceil(W/s)) tensor
    mask : (N, 1, H, W) tensor of 0 and 1
        1 where blurred.
    form : {"half", "any"}
        A block of s x s pixels, or what of it is in the image, is blurred if at least half of it is, or any pixel.

    Returns
    -------
    () tensor
    """
    share = reduced(mask, logits)
    blurred = share > 0 if form == "any" else share >= 0.5
    return F.cross_entropy(logits, (~blurred[:, 0]).long())


def reblur(motion: Tensor, sharp: Tensor, blur: Tensor, form: str = "mean") -> Tensor:
    """Mean squared error of the blurred image that the motion makes of the sharp one, both reduced to its grid.

    Parameters
    ----------
    motion : (K, N, 2, ceil(H/s), ceil(W/s)) tensor
        (dy, dx) of every pixel at K moments of the exposure, in pixels of this grid.
    sharp, blur : (N, 3, H, W) tensor
    form : {"mean", "pooled"}
        "mean" averages K moved images, which are black where they have holes; "pooled" averages at once all that is
        moved to a pixel, so that holes do not count.

    Returns
    -------
    () tensor
    """
    moments, images = motion.shape[:2]
    still = reduced(sharp, motion)
    if form == "pooled":
        still = torch.cat([still, torch.ones_like(still[:, :1])], dim=1)
    flow_xy = motion.flip(2).flatten(0, 1)
    moved = splat(still.repeat(moments, 1, 1, 1), flow_xy, mode="sum" if form == "pooled" else "average")
    exposure = moved.unflatten(0, (moments, images)).mean(dim=0)
    if form == "pooled":
        exposure = exposure[:, :-1] / exposure[:, -1:].clamp(min=LEAST_WEIGHT)
    return F.mse_loss(exposure, reduced(blur, motion))


def total_variation(motion: Tensor) -> Tensor:
    """Sum over the moments of the mean absolute differences of neighbours, down and to the right.

    Parameters
    ----------
    motion : (K, N, 2, h, w) tensor

    Returns
    -------
    () tensor
    """
    differences = (motion.diff(dim=dim).abs() for dim in (-2, -1))
    # A grid of one row or column has no neighbours, and the mean of nothing is no number.
    return sum((d.mean(dim=(1, 2, 3, 4)).sum() for d in differences if d.numel()), motion.new_zeros(()))


def reduced(image: Tensor, grid: Tensor) -> Tensor:
    """Means of square blocks of pixels, at the border of the pixels that there are.

    Parameters
    ----------
    image : (N, C, H, W) tensor
    grid : (..., ceil(H/s), ceil(W/s)) tensor
        Of the wanted size, where s, a power of two, is the side of a block [px].

    Returns
    -------
    (N, C, ceil(H/s), ceil(W/s)) tensor

    Raises
    ------
    ValueError
        No such block gives this size.
    """
    block = 1
    while tuple(-(-side // block) for side in image.shape[-2:]) != tuple(grid.shape[-2:]):
        block *= 2
        if block > LARGEST_BLOCK:
            raise ValueError(f"no blocks reduce {tuple(image.shape[-2:])} to {tuple(grid.shape[-2:])}")
    return F.avg_pool2d(image, block, ceil_mode=True)
