"""Whole images through a network in training: quality, and pictures of a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from relo.models import Restoration
from relo.training import metrics
from relo.training.data import Item, WholeImages
from relo.training.run.distributed import Processes
from relo.training.run.sample_images import densest_window, side_by_side, stacked

PICTURED = 4  # images


class Validated(NamedTuple):
    """What a validation gave, the same for every process.

    Attributes
    ----------
    quality : dict of str to float
        psnr, psnr_w and, of the blurred input, psnr_input, psnr_w_input: means over the images [dB]. NaN for psnr_w
        where nothing is blurred.
    metric : str
        Which of these validations are compared by: psnr_w, or psnr where no image has anything blurred.
    images : int
    pictures : (H, W, 3) uint8 array
        One image a row: blurred, restored, sharp and, if the network gives one, its mask.
    """

    quality: dict[str, float]
    metric: str
    images: int
    pictures: NDArray[np.uint8]


class _Row(NamedTuple):
    position: int
    quality: dict[str, float]
    picture: NDArray[np.uint8] | None


def validate(
    restore: Callable[[torch.Tensor, torch.Tensor], Restoration],
    images: WholeImages,
    device: torch.device,
    processes: Processes,
    report: Callable[[int, int], None],
) -> Validated:
    """Restore validation images, shared out among the processes, and measure them under the protocol "reloblur".

    Parameters
    ----------
    restore : callable
        Maps the `blur` and the `sharp` of an item, as batches of one on `device`, to a `Restoration`.
    images : WholeImages
        At least one.
    device : torch.device
    processes : Processes
    report : callable
        Called before each image with how many are done, of how many, by this process.
    """
    pictured = pictured_positions(len(images))
    rows = []
    for position, item in own_images(images, processes, report):
        blur, sharp, mask = (item[name][None].to(device) for name in ("blur", "sharp", "mask"))
        with torch.no_grad():
            restored = restore(blur, sharp)
        blur = blur[:, :3]
        image = restored.image.float()
        quality = {
            "psnr": metrics.psnr(image, sharp),
            "psnr_input": metrics.psnr(blur, sharp),
            "psnr_w": metrics.weighted_psnr(image, sharp, mask),
            "psnr_w_input": metrics.weighted_psnr(blur, sharp, mask),
        }
        picture = None
        if position in pictured:
            shown = [blur, image, sharp, *restored.masks[-1:]]
            arrays = [tensor[0].float().permute(1, 2, 0).cpu().numpy() for tensor in shown]
            picture = side_by_side(arrays, densest_window(item["mask"][0].numpy() > 0))
        rows.append(_Row(position, {name: float(value) for name, value in quality.items()}, picture))
    rows = sorted(processes.gathered(rows), key=lambda row: row.position)
    means = {name: metrics.mean_and_excluded(row.quality[name] for row in rows)[0] for name in rows[0].quality}
    metric = "psnr" if math.isnan(means["psnr_w"]) else "psnr_w"
    return Validated(means, metric, len(rows), stacked([row.picture for row in rows if row.picture is not None]))


def own_images(
    images: WholeImages, processes: Processes, report: Callable[[int, int], None]
) -> Iterator[tuple[int, Item]]:
    """Give the images that are this process's to validate on, with their positions; `report` as in `validate`."""
    own = range(processes.rank, len(images), processes.size)
    for done, position in enumerate(own):
        report(done, len(own))
        yield position, images[position]


def pictured_positions(count: int) -> set[int]:
    """Which of so many images are shown: a few, evenly spread."""
    return set(np.linspace(0, count - 1, min(PICTURED, count)).round().astype(int).tolist())
