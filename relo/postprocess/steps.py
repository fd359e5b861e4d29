"""What `calibration` and `pipeline` share: the settings of all corrections, and the steps up to linear RGB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from relo.capture.frame import RawFrame
from relo.config import Config
from relo.errors import ProcessError
from relo.postprocess.colour import ColourCast, ColourConfig, apply_colour_cast
from relo.postprocess.demosaic import DemosaicBackend, demosaic_menon
from relo.postprocess.flow.auto import FlowConfig
from relo.postprocess.photometric import Gain, GainConfig, apply_gain, fit_gain
from relo.postprocess.resample import WarpMethod, warp

# RAW sites from here on count as saturated, in shares of the white level.
SATURATED = 0.98
# White balance of an image that has been balanced already.
BALANCED = (1.0, 1.0, 1.0)


class WarpConfig(Config):
    """Settings of the resampling of camera B."""

    method: WarpMethod = Field("cmtf", description="cmtf or cmtf-matched (constant MTF), cubic, lanczos or linear.")
    clamp: bool = Field(False, description="Limit each sample to its neighbours' range, against ringing.")
    light: Literal["encoded", "linear"] = Field(
        "encoded", description="Warp after the sRGB curve as published, or before it."
    )


class DevelopConfig(Config):
    """Settings of demosaicing and output size."""

    demosaic: DemosaicBackend = Field(
        "relo", description="relo's kernel, or colour-demosaicing: Menon's method both."
    )
    refine: bool = Field(True, description="Menon's refining step.")
    balance: Literal["mosaic", "image"] = Field(
        "mosaic", description="White balance before demosaicing, or after it as published."
    )
    output_scale: float = Field(1.0, description="1, or 0.5 for the mean over 2 x 2 pixels.")

    @field_validator("output_scale")
    @classmethod
    def _whole_or_half(cls, value: float) -> float:
        if value not in (0.5, 1.0):
            raise ValueError("must be 1 or 0.5")
        return value


class PostprocessConfig(Config):
    """Settings of all corrections."""

    colour: ColourConfig = ColourConfig()
    gain: GainConfig = GainConfig()
    develop: DevelopConfig = DevelopConfig()
    flow: FlowConfig = FlowConfig()
    warp: WarpConfig = WarpConfig()


def correct_colour(frame: RawFrame, casts: Mapping[str, ColourCast]) -> np.ndarray:
    """Normalise a frame and undo its camera's colour cast: (H, W) float32 mosaic; no casts, no correction."""
    mosaic = frame.normalised()
    if not casts:
        return mosaic
    cast = casts.get(frame.camera)
    if cast is None:
        raise ProcessError(f"camera '{frame.camera}' has no colour calibration (there is: {', '.join(casts)})")
    if cast.pattern != frame.pattern:
        cast = replace(cast, pattern=frame.pattern)
    return apply_colour_cast(cast, mosaic)


def balanced_rgb(
    mosaic: np.ndarray, pattern: str, wb: tuple[float, float, float], config: DevelopConfig
) -> np.ndarray:
    """Demosaiced and white-balanced linear camera RGB, (H, W, 3) float32; the smallest gain is 1."""
    smallest = min(wb)
    gains = Gain(wb[0] / smallest, wb[1] / smallest, wb[2] / smallest)
    if config.balance == "mosaic":
        return demosaic_menon(apply_gain(gains, mosaic, pattern), pattern, config.refine, backend=config.demosaic)
    return apply_gain(gains, demosaic_menon(mosaic, pattern, config.refine, backend=config.demosaic))


def resample(image: np.ndarray, flow: np.ndarray, config: WarpConfig) -> np.ndarray:
    """Warp camera B's image along the flow, as `config` says."""
    return warp(image, flow, method=config.method, clamp=config.clamp)


def pair_gain(
    blur: RawFrame, sharp: RawFrame, mosaic_blur: np.ndarray, mosaic_sharp: np.ndarray, config: GainConfig
) -> Gain:
    """Gain of a pair, measured on its corrected but unaligned mosaics; saturated sites do not count."""
    saturated = blur.saturated(SATURATED) | sharp.saturated(SATURATED)
    return fit_gain(
        mosaic_sharp,
        mosaic_blur,
        sharp.pattern,
        blur.pattern,
        exclude=saturated,
        method=config.method,
        block=config.block,
    )
