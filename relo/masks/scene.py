"""Masks of a whole scene, for what they cost together: background models and medians are shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from relo.images import to_bytes
from relo.masks.combined import MEDIAN_FRAMES, combine, enlarged, halved, mask_factor, reduced, spread
from relo.masks.config import MaskConfig
from relo.masks.lbfmg import BackgroundModel
from relo.masks.pair import background_median
from relo.masks.quality import MaskQuality, mask_quality

K = TypeVar("K")
Frames = tuple[np.ndarray, np.ndarray]

# Up to so many pairs each target gets a background model of its own.
_FEW_PAIRS = 5


class SceneMask(NamedTuple):
    """Mask of a pair, (H, W) uint8 with 255 = blurred, and how far it can be trusted."""

    mask: np.ndarray
    quality: MaskQuality


def scene_masks(
    pairs: Sequence[K],
    read: Callable[[K], Frames],
    config: MaskConfig,
    *,
    valid: np.ndarray | None = None,
    static: Sequence[np.ndarray] = (),
) -> Iterator[tuple[K, SceneMask]]:
    """Masks of every pair of a scene, in any order.

    Published is a background model for each target, of every other frame of the scene. That costs the square of
    the number of pairs; from six pairs on they are dealt to a few groups, and a group's model learns every frame
    but the blurred ones of that group. Memory: one model, and a few frames.

    Parameters
    ----------
    pairs : sequence
        What `read` takes.
    read : callable
        Gives (blurred, sharp) frame of a pair: (H, W, 3) uint8 or uint16, sRGB-encoded, aligned. Called two or
        three times a pair. Frames may already be `reduced`, all of them and `valid`.
    config : MaskConfig
    valid : (H, W) array, optional
        0 where not both cameras see.
    static : sequence of (H, W, 3) arrays, optional
        Frames of the still scene.

    Yields
    ------
    pair, SceneMask
        The mask has the size of the frames.

    Raises
    ------
    ValueError
        Frames differ in size.
    """
    if not pairs:
        return
    shape = read(pairs[0])[0].shape[:2]
    factor = mask_factor(shape[1], config)

    def small(pair: K) -> Frames:
        blur, sharp = read(pair)
        if blur.shape[:2] != shape or sharp.shape[:2] != shape:
            raise ValueError(f"frames differ in size: {blur.shape[:2]}, {sharp.shape[:2]} and {shape}")
        return reduced(to_bytes(blur), factor), reduced(to_bytes(sharp), factor)

    whole = np.full(shape, 255, np.uint8) if valid is None else np.where(valid > 0, np.uint8(255), np.uint8(0))
    seen = (reduced(whole, factor) == 255).astype(np.uint8)
    still = [reduced(to_bytes(frame), factor) for frame in static]
    background = _still_background(pairs, small, still) if config.method == "fused" else None
    groups = config.models if len(pairs) > _FEW_PAIRS else len(pairs)
    for group in range(groups):
        targets = pairs[group::groups]
        model = None if config.method == "pair" else _background_model(pairs, group, groups, small, still, config)
        for pair in targets:
            blur, sharp = small(pair)
            mask, agreement = combine(blur, sharp, model, background, config, seen)
            mask = enlarged(mask, whole)
            yield pair, SceneMask(mask, mask_quality(mask, whole, agreement))


def _still_background(
    pairs: Sequence[K], small: Callable[[K], Frames], still: list[np.ndarray]
) -> np.ndarray | None:
    """The scene without moving things: its static frames, else the median of a few; None for a single pair."""
    if still:
        return background_median(still)
    if len(pairs) < 2:
        return None
    each = [(pair, name) for pair in pairs for name in (1, 0)]
    return background_median([small(pair)[name] for pair, name in spread(each, MEDIAN_FRAMES)])


def _background_model(
    pairs: Sequence[K],
    group: int,
    groups: int,
    small: Callable[[K], Frames],
    still: list[np.ndarray],
    config: MaskConfig,
) -> BackgroundModel | None:
    """A model of every frame but the blurred ones of one group; None where no frame is left."""
    # As published. But it shows the object where it is, and of few frames each is soon background: not for gaps.
    own_sharp = config.own_sharp and config.method == "lbfmg"
    frames = [
        (pair, name)
        for number, pair in enumerate(pairs)
        for name in (1, 0)
        if number % groups != group or (name == 1 and own_sharp)
    ]
    if not frames and not still:
        return None
    model = BackgroundModel(config)
    scaled = halved if config.method == "fused" else np.asarray
    for _ in range(config.passes):
        for frame in still:
            model.learn(scaled(frame))
        for pair, name in spread(frames, config.most_frames):
            model.learn(scaled(small(pair)[name]))
    return model
