"""Blur masks by background subtraction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from relo.masks.lbfmg import LbfmgConfig

__all__ = ["blur_mask"]


def blur_mask(
    target: np.ndarray,
    background: Iterable[np.ndarray],
    *,
    sharp: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    method: Literal["lbfmg"] = "lbfmg",
    config: LbfmgConfig | None = None,
) -> np.ndarray:
    """Mask of what moved in a blurred frame.

    Parameters
    ----------
    target : (H, W, 3) uint8, uint16 or float array
        The blurred frame; RGB, sRGB-encoded.
    background : iterable of such arrays
        Every other sharp and blurred frame of the scene.
    sharp : such an array, optional
        The target's own sharp frame; shown to the background model as well, as the paper does.
    valid : (H, W) array, optional
        0 where not both cameras see: never masked.
    method : {"lbfmg"}
        The paper's method.
    config : LbfmgConfig, optional

    Returns
    -------
    (H, W) uint8 array
        255 = blurred, 0 = not.

    Raises
    ------
    ValueError
        Sizes or dtypes differ, there is no background frame, or the method is unknown.
    """
    from itertools import chain

    from relo.masks.lbfmg import clean_up, foreground

    if method != "lbfmg":
        raise ValueError(f"method must be 'lbfmg', got {method!r}")
    frames = background if sharp is None else chain(background, [sharp])
    return clean_up(foreground(target, frames, config), config, valid)
