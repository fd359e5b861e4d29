"""Settings of the blur masks of a scene."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from relo.config import Config
from relo.masks.lbfmg import LbfmgConfig

MaskMethod = Literal["fused", "lbfmg", "pair"]


class PairConfig(Config):
    """Settings of the difference between the two frames of a pair."""

    threshold: float = Field(4.0, gt=0, description="Difference beyond which a pixel has moved, in noise sigmas.")
    smoothing_px: float = Field(1.2, ge=0, le=10, description="Sigma of the smoothing of the difference [px].")
    misalignment_px: float = Field(
        0.1, ge=0, le=2, description="What edges may be off by without counting as movement [px]."
    )
    detect_shadows: bool = Field(True, description="Leave out what is the background, only darker, in both frames.")
    darkest_shadow: float = Field(0.35, gt=0, lt=1, description="Light left in the darkest shadow.")
    closing_fraction: float = Field(0.015, ge=0, le=0.2, description="Diameter of the closing, of the width.")


class MaskConfig(LbfmgConfig):
    """Settings of the blur masks."""

    method: MaskMethod = Field(
        "fused", description="lbfmg as published, pair (the difference of the two frames), or fused: both."
    )
    pair: PairConfig = PairConfig()
    reach_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fused: how wide a gap of the pair's mask the background may fill, of the width.",
    )
    own_sharp: bool = Field(
        True, description="lbfmg: show the target's own sharp frame to the model, as published."
    )
    static: bool = Field(True, description="Use the static pair as background too.")
    width: int = Field(1100, ge=64, description="Frames are reduced to about this width for the masks.")
    most_frames: int = Field(24, ge=1, description="Frames of the pairs a background model at most, evenly spaced.")
    models: int = Field(
        2, ge=2, description="Background models a scene of more than 5 pairs; smaller ones get one a pair."
    )
