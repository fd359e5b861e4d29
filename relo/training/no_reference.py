"""Metrics without a reference as an evaluation takes them: NIQE always, those of pyiqa where there is pyiqa."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from relo.errors import TrainingError
from relo.training import metrics, pyiqa_metrics
from relo.training.niqe import SMALLEST

Scorers = dict[str, Callable[[Tensor], Tensor] | None]


def load_scorers(device: torch.device) -> tuple[Scorers, list[str]]:
    """Metrics by name, and a note on those that cannot be had.

    Parameters
    ----------
    device : torch.device
        For the learnt ones.

    Returns
    -------
    scorers : dict
        niqe, clipiqa_plus, musiq_paq2piq: each maps (N, 3, H, W) to (N,), or is None.
    notes : list of str
        Why some are None, one line for each reason.
    """
    scorers: Scorers = {"niqe": metrics.niqe}
    reasons: dict[str, list[str]] = {}
    for name, published in pyiqa_metrics.NAMES.items():
        try:
            scorers[name] = pyiqa_metrics.load_metric(name, device)
        except TrainingError as error:
            scorers[name] = None
            reasons.setdefault(str(error), []).append(published)
    return scorers, [f"without {' and '.join(names)}: {reason}" for reason, names in reasons.items()]


def score(scorers: Scorers, image: Tensor) -> dict[str, float | None]:
    """Values of one image.

    Parameters
    ----------
    scorers : dict
        See `load_scorers`.
    image : (3, H, W) tensor
        In [0, 1] after clamping; rounded to 8 bits, as the image files that published evaluations read.

    Returns
    -------
    dict
        None for a metric that cannot be had; NaN where it has no value: an image below 192 px, or a flat one.
    """
    rounded = (image.clamp(0, 1) * 255).round()[None] / 255
    too_small = min(image.shape[-2:]) < SMALLEST
    return {
        name: None if scorer is None else math.nan if too_small else float(scorer(rounded))
        for name, scorer in scorers.items()
    }
