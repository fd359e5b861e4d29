"""Pictures of a validation: blurred, restored and sharp image side by side, where the blur is densest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relo.images import to_bytes
from relo.training.sampling import Box

SIDE = 256  # largest side of a picture [px]


def densest_window(mask: NDArray[np.bool_], side: int = SIDE) -> Box:
    """Window that holds the most blurred pixels.

    Parameters
    ----------
    mask : (H, W) bool array
    side : int
        Height and width of the window [px], cut to those of the mask.

    Returns
    -------
    Box
        Of all that hold the most, the one nearest to their mean place; so the middle one where nothing is blurred.
    """
    height, width = min(side, mask.shape[0]), min(side, mask.shape[1])
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    corners = np.argwhere(counts == counts.max())
    y, x = corners[np.argmin(((corners - corners.mean(axis=0)) ** 2).sum(axis=1))]
    return Box(int(y), int(x), height, width)


def side_by_side(images: Sequence[NDArray[np.floating]], window: Box) -> NDArray[np.uint8]:
    """Cut `window` from each image and lay the parts out from left to right.

    Parameters
    ----------
    images : sequence of (H, W, 3) or (H, W, 1) float array
        In [0, 1]; what is beyond is clipped. A single channel is shown as grey.
    window : Box

    Returns
    -------
    (window.height, window.width * len(images), 3) uint8 array
    """
    y, x, height, width = window
    parts = [np.broadcast_to(image[y : y + height, x : x + width], (height, width, 3)) for image in images]
    return to_bytes(np.concatenate(parts, axis=1))


def stacked(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay (H, W, 3) images out from top to bottom, narrower ones filled up with black on the right."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
