"""From a blur mask to the windows of an image that have to be restored, and how much of each counts.

Convention: the weight of a pixel is its share of the restored image, 1 where the mask is set, falling to 0 over
`FEATHER` pixels around it. Windows start and end at multiples of `ALIGNMENT`, or at the image's border, and see
`CONTEXT` pixels beyond all that counts in them. What hangs together belongs to one window as a whole: no seam runs
through a blurred object, whatever two windows would make of it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from relo.training.inference.tiling import ALIGNMENT
from relo.training.inference.whole_image import OVERLAP

CONTEXT = 3 * OVERLAP // 8  # [px]; as much as counts nothing of an overlap. How far networks see: at OVERLAP
FEATHER = 16  # [px]; two cells of the coarsest masks, so that the corners of a cell do not show

# Rows of y0, x0, y1, x1 [px], the last two excluded.
Boxes = NDArray[np.int64]


class Region(NamedTuple):
    """A window of an image.

    Attributes
    ----------
    rows, columns : slice
        What the network sees.
    weight : (h, w) float32 array in [0, 1]
        Share of the restored pixels in the result; 0 for what belongs to another window.
    """

    rows: slice
    columns: slice
    weight: NDArray[np.float32]


def blend_weights(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shares of the restored image: 1 in the mask, 1 - d / 16 at a distance of d px from it, 0 from 16 px on.

    Parameters
    ----------
    mask : (H, W) bool array

    Returns
    -------
    (H, W) float32 array in [0, 1]
    """
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - np.asarray(distance) / FEATHER, 0, 1).astype(np.float32)


def plan_regions(weight: NDArray[np.float32]) -> tuple[Region, ...]:
    """Choose windows that hold all pixels that count, with a small area altogether.

    Pixels that hang together get one window. Two windows become one where that has no more pixels than both have.
    The whole image is the only window where all of them have as many pixels.

    Parameters
    ----------
    weight : (H, W) float32 array in [0, 1]
        See `blend_weights`.

    Returns
    -------
    tuple of Region
        Their weights add up to `weight`. Empty where it is 0.
    """
    height, width = weight.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats((weight > 0).astype(np.uint8), connectivity=8)
    if count == 1:  # label 0 is what does not count
        return ()
    left, top, across, down = np.asarray(stats, np.int64)[1:, :4].T
    boxes = np.stack([top, left, top + down, left + across], axis=1)
    groups, hulls = _merge(boxes, weight.shape)
    laid = _windows(hulls, weight.shape)
    if _areas(laid).sum() >= weight.size:
        return (Region(slice(0, height), slice(0, width), weight.copy()),)
    regions = []
    for group, (first_row, first_column, last_row, last_column) in zip(groups, laid.tolist(), strict=True):
        rows, columns = slice(first_row, last_row), slice(first_column, last_column)
        mine = np.zeros(count, bool)
        mine[np.add(group, 1)] = True
        regions.append(Region(rows, columns, np.where(mine[labels[rows, columns]], weight[rows, columns], 0)))
    return tuple(regions)


def _merge(boxes: Boxes, shape: tuple[int, ...]) -> tuple[list[list[int]], Boxes]:
    """Group boxes greedily until no two groups have a smaller or equal window together.

    Returns
    -------
    list of list of int, Boxes
        The boxes' indices in each group, and the box around each group.
    """
    groups: list[list[int]] = []
    hulls = np.empty((0, 4), np.int64)
    for index, box in enumerate(boxes):
        group, hull = [index], box
        while groups:
            together = np.concatenate([np.minimum(hulls[:, :2], hull[:2]), np.maximum(hulls[:, 2:], hull[2:])], 1)
            apart = _areas(_windows(hulls, shape)) + _areas(_windows(hull[None], shape))
            saved = apart - _areas(_windows(together, shape))
            best = int(saved.argmax())
            if saved[best] < 0:
                break
            group, hull = group + groups.pop(best), together[best]
            hulls = np.delete(hulls, best, axis=0)
        groups.append(group)
        hulls = np.vstack([hulls, hull])
    return groups, hulls


def _windows(boxes: Boxes, shape: tuple[int, ...]) -> Boxes:
    """Windows for boxes of pixels that count: with their context, aligned, inside the image."""
    first = np.maximum(boxes[:, :2] - CONTEXT, 0) // ALIGNMENT * ALIGNMENT
    last = np.minimum(-(-(boxes[:, 2:] + CONTEXT) // ALIGNMENT) * ALIGNMENT, shape)
    return np.concatenate([first, last], axis=1)


def _areas(boxes: Boxes) -> NDArray[np.int64]:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
