"""Settings of deblurring with a short exposure without training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from relo.config import Config

Method = Literal["shrinkage", "prefiltered"]


class InstantConfig(Config):
    """Settings of `relo.training.instant.restore.restore_from_short`; the defaults were chosen by measurement."""

    method: Method = Field(
        "shrinkage",
        description="What the short exposure shows beyond its noise, or a guided filter fitted on smoothed images.",
    )
    threshold: float = Field(
        2.5, gt=0, description="Differences below so many standard deviations of the noise are noise."
    )
    search_range: float = Field(
        64, ge=0, description="Largest displacement of the short exposure that is undone [px]; 0: it is aligned."
    )
    feather: int = Field(1, ge=0, description="Width of the transition, inside of the mask [px].")
    radius: int = Field(32, ge=1, description="prefiltered: half the side of the filter's windows [px].")
    eps: float = Field(
        1e-4, gt=0, description="prefiltered: keeps slopes small where the short exposure is smooth."
    )
    prefilter_sigma: float = Field(
        10, gt=0, description="prefiltered: smoothing before the fit [px]; half the blur's length or more."
    )
