"""What a training run gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from relo.training.checkpoint import BEST_NAME, FILE_NAME


@dataclass(frozen=True)
class TrainingResult:
    """What a training run gave.

    Attributes
    ----------
    run : Path
        The run folder.
    steps : int
        Optimiser steps in all, those before a resume and those of all stages included.
    notes : tuple of str
        What the user should know, for example why nothing was validated.
    steps_per_second : float
        Of the training steps of this call, of the last stage, loading of patches included; start-up, first step,
        validation and saving are not. NaN if fewer than two steps were left to do.
    loss : float
        Mean loss of the last logged interval; NaN if nothing was left to do.
    validation : dict of str to float
        Last validation: psnr, psnr_w and the same of the input, in dB; of a blur detector the shares of
        `relo.training.detection.PatchCounts.quality`; empty if there was none.
    """

    run: Path
    steps: int
    notes: tuple[str, ...] = ()
    steps_per_second: float = math.nan
    loss: float = math.nan
    validation: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """Its model.safetensors: weights of the last step, averaged if the recipe says so."""
        return self.run / FILE_NAME

    @property
    def best(self) -> Path | None:
        """Its best.safetensors: weights of the best validation; None if there was none."""
        path = self.run / BEST_NAME
        return path if path.is_file() else None
