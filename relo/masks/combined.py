"""A mask from both cues: the difference of the pair, and the background of all frames.

The pair tells best what moved, wherever the object is and however few frames there are. It misses the inside of
a uniform object that overlaps itself: there the background model, which knows the scene without the object,
fills in, but only between parts that the pair has found. So an object that became part of the background costs
nothing, and neither does a ghost in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, get_args

import cv2
import numpy as np

from relo.images import to_bytes
from relo.masks.config import MaskConfig, MaskMethod
from relo.masks.lbfmg import BackgroundModel, clean_up, close_gaps, foreground
from relo.masks.pair import background_median, pair_foreground
from relo.masks.quality import overlap

# The median of so many frames is the scene without moving things.
MEDIAN_FRAMES = 9


def mask_factor(width: int, config: MaskConfig) -> int:
    """By how much frames of this width are reduced for the masks."""
    return max(1, round(width / config.width))


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """An image a whole factor smaller, by area means."""
    if factor == 1:
        return image
    size = max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def halved(image: np.ndarray) -> np.ndarray:
    """`reduced` by 2: the size at which "fused" looks at the background."""
    return reduced(image, 2)


def enlarged(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A mask made on reduced frames at the size of `valid`, and 0 outside it; one of that size as it is."""
    if mask.shape == valid.shape:
        return mask
    large = cv2.resize(mask, (valid.shape[1], valid.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.where((large > 127) & (valid > 0), np.uint8(255), np.uint8(0))


def combine(
    blur: np.ndarray,
    sharp: np.ndarray,
    model: BackgroundModel | None,
    background: np.ndarray | None,
    config: MaskConfig,
    valid: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """Mask of one pair by `config.method`, and the agreement of both cues where both were asked.

    Parameters
    ----------
    blur, sharp : (H, W, 3) uint8 arrays
    model : BackgroundModel, optional
        That has learnt the other frames, for "fused" `halved`; not for "pair".
    background : (H, W, 3) uint8 array, optional
        The scene without moving things, for the shadow test of "fused".
    config : MaskConfig
    valid : (H, W) array, optional
    """
    nothing = float("nan")
    if config.method == "lbfmg":
        assert model is not None
        return clean_up(model.foreground(blur), config, valid), nothing
    close_pair = config.model_copy(update={"closing_fraction": config.pair.closing_fraction})
    moved, shadow = pair_foreground(blur, sharp, background, config.pair)
    if config.method == "pair" or model is None:
        return clean_up(moved, close_pair, valid), nothing
    # Filling gaps needs no more than half the resolution, and costs a quarter there.
    coarse_valid = None if valid is None else halved(valid)
    found = model.foreground(halved(blur)) & (halved(shadow.astype(np.uint8)) == 0)
    if coarse_valid is not None:
        found &= coarse_valid > 0
    found = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    sure = clean_up(halved(moved.astype(np.uint8) * 255) > 127, close_pair, coarse_valid)
    agreement = overlap(sure, found)
    reach = round(config.reach_fraction * sure.shape[1])
    if sure.any() and reach >= 2:
        between = found & (close_gaps((sure > 0).astype(np.uint8), reach) > 0)
        fill = cv2.resize(between.astype(np.uint8), moved.shape[::-1], interpolation=cv2.INTER_NEAREST)
        moved |= fill > 0
    return clean_up(moved, close_pair, valid), agreement


def one_mask(
    target: np.ndarray,
    background: Iterable[np.ndarray],
    sharp: np.ndarray | None,
    valid: np.ndarray | None,
    method: MaskMethod,
    config: MaskConfig,
) -> np.ndarray:
    """`relo.masks.blur_mask`."""
    if method not in get_args(MaskMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(MaskMethod))}, got {method!r}")
    if method == "lbfmg":
        frames = background if sharp is None else chain(background, [sharp])
        return clean_up(foreground(target, frames, config), config, valid)
    if sharp is None:
        raise ValueError(f"method {method!r} needs the sharp frame")
    factor = mask_factor(target.shape[1], config)
    whole = (
        np.full(target.shape[:2], 255, np.uint8) if valid is None else np.where(valid > 0, 255, 0).astype(np.uint8)
    )
    seen = (reduced(whole, factor) == 255).astype(np.uint8)

    def small(frame: np.ndarray) -> np.ndarray:
        if frame.shape != target.shape or frame.dtype != target.dtype:
            raise ValueError(
                f"a target of {target.shape} {target.dtype} does not go with a frame of {frame.shape} {frame.dtype}"
            )
        return reduced(to_bytes(frame), factor)

    own = small(target), small(sharp)
    others = [small(frame) for frame in background] if method == "fused" else []
    model, still = None, None
    if others:
        model = BackgroundModel(config)
        for frame in others:
            model.learn(halved(frame))
        still = background_median(spread(others, MEDIAN_FRAMES))
    used = config.model_copy(update={"method": method})
    return enlarged(combine(*own, model, still, used, seen)[0], whole)


def spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced: a mask's cost must not grow with the scene."""
    if len(items) <= most:
        return items
    return [items[round(number * (len(items) - 1) / max(1, most - 1))] for number in range(most)]
