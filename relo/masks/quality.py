"""Numbers that tell how far a blur mask can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# Share of the valid pixels that a mask usually covers lies between these.
_LEAST, _MOST = 0.002, 0.5
# Below this agreement of the two cues a mask is doubtful; with three pairs a scene 0.35 is usual, with ten 0.65.
_AGREEMENT = 0.15
_FRAGMENTS = 12
# Mean over the published masks of ReLoBlur (Li et al. 2023): a yardstick, no target.
PAPER_COVERAGE = 0.1175


class MaskQuality(NamedTuple):
    """Numbers of one mask.

    Attributes
    ----------
    covered : float
        Share of the valid pixels.
    agreement : float
        Intersection over union of what the pair and the background tell; NaN where only one was asked, or both
        found nothing.
    fragments : int
        Connected parts.
    border : float
        Share of the covered pixels whose part touches the border of the valid area.
    """

    covered: float
    agreement: float
    fragments: int
    border: float


def mask_quality(mask: np.ndarray, valid: np.ndarray | None = None, agreement: float = float("nan")) -> MaskQuality:
    """Measure a mask.

    Parameters
    ----------
    mask : (H, W) uint8 array
        255 = blurred.
    valid : (H, W) array, optional
        0 where not both cameras see.
    agreement : float
        Passed on.
    """
    seen = mask.size if valid is None else int(np.count_nonzero(valid))
    inside = (mask > 0) if valid is None else (mask > 0) & (valid > 0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    covered = int(stats[1:, cv2.CC_STAT_AREA].sum())
    allowed = np.ones(mask.shape, np.uint8) if valid is None else (valid > 0).astype(np.uint8)
    inner = cv2.erode(allowed, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    touching = np.unique(labels[(inner == 0) & inside])
    border = int(stats[touching, cv2.CC_STAT_AREA].sum()) / covered if covered else 0.0
    return MaskQuality(covered / seen if seen else 0.0, agreement, count - 1, border)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks; NaN if both are empty."""
    union = np.count_nonzero((first > 0) | (second > 0))
    return float(np.count_nonzero((first > 0) & (second > 0)) / union) if union else float("nan")


def mask_flags(quality: MaskQuality) -> tuple[str, ...]:
    """What is doubtful about a mask: "mask-empty", "mask-large", "mask-doubtful", "mask-fragments"."""
    flags = []
    if quality.covered < _LEAST:
        flags.append("mask-empty")
    elif quality.covered > _MOST:
        flags.append("mask-large")
    if quality.agreement < _AGREEMENT:
        flags.append("mask-doubtful")
    if quality.fragments > _FRAGMENTS:
        flags.append("mask-fragments")
    return tuple(flags)
