"""Whole images through a blur detector in training: patches told right, and pictures of a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from relo.models.exprdiff.detector import BlurDetection, BlurDetector
from relo.training.data import WholeImages
from relo.training.detection import PatchCounts, count_patches, sum_of_counts
from relo.training.run.distributed import Processes
from relo.training.run.sample_images import densest_window, side_by_side, stacked
from relo.training.run.validation import Validated, own_images, pictured_positions


class _Row(NamedTuple):
    position: int
    counts: PatchCounts
    picture: NDArray[np.uint8] | None


def validate_detector(
    detect: Callable[[torch.Tensor, torch.Tensor], BlurDetection],
    detector: BlurDetector,
    images: WholeImages,
    device: torch.device,
    processes: Processes,
    report: Callable[[int, int], None],
) -> Validated:
    """Find the blurred patches of validation images, shared out among the processes, and count those told right.

    Parameters
    ----------
    detect : callable
        Maps the `blur` and the `sharp` of an item, as batches of one on `device`, to what `detector` finds in the
        first.
    detector : BlurDetector
        Tells what counts as blurred.
    images : WholeImages
        At least one.
    device : torch.device
    processes : Processes
    report : callable
        Called before each image with how many are done, of how many, by this process.

    Returns
    -------
    Validated
        Its quality is that of `relo.training.detection.PatchCounts`, over all patches of all images; a picture
        shows the blurred image, the patches found and the mask.
    """
    pictured = pictured_positions(len(images))
    rows = []
    for position, item in own_images(images, processes, report):
        blur, sharp, mask = (item[name][None].to(device) for name in ("blur", "sharp", "mask"))
        with torch.no_grad():
            found = detect(blur, sharp)
        picture = None
        if position in pictured:
            shown = [tensor[0].float().permute(1, 2, 0).cpu().numpy() for tensor in (blur, found.mask, mask)]
            picture = side_by_side(shown, densest_window(item["mask"][0].numpy() > 0))
        rows.append(_Row(position, count_patches(detector, found, mask), picture))
    rows = sorted(processes.gathered(rows), key=lambda row: row.position)
    quality = sum_of_counts([row.counts for row in rows]).quality
    pictures = stacked([row.picture for row in rows if row.picture is not None])
    return Validated(quality, "accuracy", len(rows), pictures)
