"""Which windows of the frames an evaluation scores: whole frames, or the blurred ones of a grid of crops."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from relo.errors import TrainingError
from relo.training.data import WholeImages
from relo.training.protocols import Crops
from relo.training.sampling import Box


class Window(NamedTuple):
    """A part of an image, as `WholeImages` gives it.

    Attributes
    ----------
    box : Box
        In the coordinates of that image.
    blurred : float
        Share of its pixels whose mask is above 0; NaN for a whole image, of which nobody asked.
    """

    box: Box
    blurred: float


def whole_windows(images: WholeImages) -> list[list[Window]]:
    """One window for each image: all of it."""
    areas = [images.areas[sample.shard.path] for sample in images.dataset]
    return [[Window(Box(0, 0, area.height, area.width), math.nan)] for area in areas]


def blurred_crops(images: WholeImages, rules: Crops) -> tuple[list[list[Window]], int]:
    """Crops of each image that hold enough blur, one mask at a time.

    Parameters
    ----------
    images : WholeImages
        All images of its dataset.
    rules : Crops

    Returns
    -------
    windows : list of lists
        For each image, row by row; empty where nothing is kept.
    count : int
        Number of crops before the choice.

    Raises
    ------
    TrainingError
        No crop of any image is kept.
    """
    windows: list[list[Window]] = []
    count = 0
    for sample in images.dataset:
        area = images.areas[sample.shard.path]
        mask = sample.crop("mask", *area) > 0
        boxes = crop_grid(area.height, area.width, rules.side)
        shares = [float(mask[box.y : box.y + box.height, box.x : box.x + box.width].mean()) for box in boxes]
        kept = [Window(box, share) for box, share in zip(boxes, shares, strict=True) if share > rules.blurred_share]
        windows.append(kept)
        count += len(boxes)
    if not any(windows):
        raise TrainingError(
            f"holds no crop of {rules.side} px with more than {100 * rules.blurred_share:g} % blurred pixels "
            f"(crops: {count})",
            advice="Score whole images: --protocol reloblur.",
        )
    return windows, count


def crop_grid(height: int, width: int, side: int) -> list[Box]:
    """As few square crops as cover an image, spread evenly so that the last ones end with it.

    Parameters
    ----------
    height, width : int
        Of the image [px].
    side : int
        Of the crops [px]; where the image is smaller, a crop has its side.

    Returns
    -------
    list of Box
        Row by row: for 1436 x 2152 px and 512 px, 3 rows of 5.
    """
    rows, columns = _starts(height, side), _starts(width, side)
    return [Box(y, x, min(side, height), min(side, width)) for y in rows for x in columns]


def _starts(length: int, side: int) -> list[int]:
    count = -(-length // side)
    return np.linspace(0, max(0, length - side), count).round().astype(int).tolist()
