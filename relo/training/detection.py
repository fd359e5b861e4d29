"""What training and scoring of a blur detector need: its loss on a batch, and how many patches it tells right."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from relo.models.exprdiff.detector import BlurDetection, BlurDetector, blur_cross_entropy, blurred_share, decide
from relo.training.data import Item


class PatchCounts(NamedTuple):
    """Patches by what they are and what they were taken for; sums of counts are counts of more images.

    Attributes
    ----------
    patches : int
        All of them.
    blurred : int
        Blurred by the mask.
    found : int
        Blurred by the detector.
    both : int
        Blurred by both.
    """

    patches: int
    blurred: int
    found: int
    both: int

    @property
    def quality(self) -> dict[str, float]:
        """Shares of patches, in [0, 1]; NaN where there is nothing to take a share of.

        accuracy: told right. majority: told right by saying the same of every patch, the better of the two.
        precision: of those found, blurred. recall: of those blurred, found.
        """
        right = self.patches - self.blurred - self.found + 2 * self.both
        return {
            "accuracy": _share(right, self.patches),
            "majority": _share(max(self.blurred, self.patches - self.blurred), self.patches),
            "precision": _share(self.both, self.found),
            "recall": _share(self.both, self.blurred),
        }


def sum_of_counts(counts: list[PatchCounts]) -> PatchCounts:
    """Counts over several images."""
    return PatchCounts(*map(sum, zip(*counts, strict=True)))


def count_patches(detector: BlurDetector, found: BlurDetection, mask: Tensor) -> PatchCounts:
    """Compare what was found in a batch with its masks.

    Parameters
    ----------
    detector : BlurDetector
        Tells the size of the patches, and from which share of blurred pixels one is blurred.
    found : BlurDetection
        In evaluation mode.
    mask : (N, 1, H, W) tensor of 0 and 1
    """
    truth = detector.is_blurred(blurred_share(mask, detector.patch))
    guess = decide(found.scores)[:, 0] > 0
    return PatchCounts(truth.numel(), int(truth.sum()), int(guess.sum()), int((truth & guess).sum()))


def with_sharp_frames(batch: Item) -> Item:
    """Add the sharp frames of a batch as images in which nothing is blurred.

    What moves is then seen at rest too, so that what it is does not tell that it is blurred.

    Parameters
    ----------
    batch : Item
        Of N patches, as float32.

    Returns
    -------
    Item
        Of 2 N; the names are still those of N.
    """
    blur, sharp, mask = batch["blur"], batch["sharp"], batch["mask"]
    return {
        "blur": torch.cat([blur, sharp]),
        "sharp": torch.cat([sharp, sharp]),
        "mask": torch.cat([mask, torch.zeros_like(mask)]),
        "name": batch["name"],
    }


def detection_loss(detector: BlurDetector, found: BlurDetection, mask: Tensor) -> dict[str, Tensor]:
    """Loss of a training batch, in the form of `relo.training.losses.total_loss`.

    Parameters
    ----------
    detector : BlurDetector
    found : BlurDetection
        In training mode.
    mask : (N, 1, H, W) tensor of 0 and 1

    Returns
    -------
    dict of () tensors
        "patch_ce", see `relo.models.exprdiff.detector.blur_cross_entropy`, and the same as "total".
    """
    labels = detector.labels(blurred_share(mask, detector.patch))
    entropy = blur_cross_entropy(found.scores, labels)
    return {"patch_ce": entropy, "total": entropy}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
