"""Blur masks: what moved while the shutter of camera B was open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from relo.masks.config import MaskConfig, MaskMethod

__all__ = ["blur_mask"]


def blur_mask(
    target: np.ndarray,
    background: Iterable[np.ndarray],
    *,
    sharp: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    method: MaskMethod | None = None,
    config: MaskConfig | None = None,
) -> np.ndarray:
    """Mask of what moved in a blurred frame.

    `relo.masks.combined.scene_masks` makes those of a whole scene at a fraction of the cost.

    Parameters
    ----------
    target : (H, W, 3) uint8, uint16 or float array
        The blurred frame; RGB, sRGB-encoded.
    background : iterable of such arrays
        Every other sharp and blurred frame of the scene. May be empty where `sharp` is given.
    sharp : such an array, optional
        The target's own sharp frame, aligned with it. With "lbfmg" the background model sees it as well, as the
        paper does.
    valid : (H, W) array, optional
        0 where not both cameras see: never masked.
    method : {"fused", "lbfmg", "pair"}, optional
        Both cues; the paper's background model; the difference of target and sharp frame. By default that of
        `config`; without `sharp` there is only "lbfmg".
    config : MaskConfig, optional
        "lbfmg" looks at the frames as they are, the others at frames of about `config.width` px.

    Returns
    -------
    (H, W) uint8 array
        255 = blurred, 0 = not.

    Raises
    ------
    ValueError
        Sizes or dtypes differ, the method is unknown, or a frame that it needs is missing.
    """
    from relo.masks.combined import one_mask
    from relo.masks.config import MaskConfig

    config = config or MaskConfig()
    return one_mask(
        target, background, sharp, valid, method or (config.method if sharp is not None else "lbfmg"), config
    )
