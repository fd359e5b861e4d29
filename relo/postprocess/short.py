"""Synthetic short exposures: what a second, much shorter frame of the same moment would look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from relo.config import Config

_ROWS = 64


class ShortExposureConfig(Config):
    """Ranges the parameters of each sample are drawn from. The papers give no amounts: these are guesses."""

    enabled: bool = Field(True, description="Whether shards get /short.")
    scale: tuple[float, float] = Field((0.3, 0.7), description="Range of the factor on the HSV value.")
    noise: tuple[float, float] = Field((0.005, 0.03), description="Range of the noise's sigma, of 1.")

    @model_validator(mode="after")
    def _ordered(self) -> ShortExposureConfig:
        for name, (low, high), top in (("scale", self.scale, 1.0), ("noise", self.noise, 1.0)):
            if not 0 <= low <= high <= top:
                raise ValueError(f"{name} must be two rising numbers within 0 and {top:g}")
        return self


@dataclass(frozen=True)
class ShortParameters:
    """Factor on the value channel and standard deviation of the noise, of 1."""

    scale: float
    noise: float


def draw_parameters(config: ShortExposureConfig, rng: np.random.Generator) -> ShortParameters:
    """Draw one sample's parameters uniformly from the ranges of `config`."""
    return ShortParameters(float(rng.uniform(*config.scale)), float(rng.uniform(*config.noise)))


def short_exposure(
    sharp: np.ndarray, rng: np.random.Generator, *, scale: float = 0.5, noise: float = 0.01
) -> np.ndarray:
    """Simulate a short exposure from a sharp frame: HSV value scaled, Gaussian noise added.

    Scaling V of HSV by g with hue and saturation kept is exactly R, G, B times g, which is what is computed:
    no detour over 8-bit HSV, whose rounding alone costs up to 2.8/255.

    Parameters
    ----------
    sharp : (H, W, 3) uint8, uint16 or float array
        sRGB-encoded; floats in [0, 1].
    rng : Generator
    scale : float
        g in [0, 1].
    noise : float
        Standard deviation, relative to full scale.

    Returns
    -------
    (H, W, 3) array of the dtype of `sharp`, clipped to its range

    References
    ----------
    The ExpRDiff paper, section 4.1 (HSV variant).
    """
    sharp = np.asarray(sharp)
    top = np.iinfo(sharp.dtype).max if np.issubdtype(sharp.dtype, np.integer) else 1
    out = np.empty(sharp.shape, sharp.dtype)
    # A few rows at a time stay in the cache; the random numbers come in the same order.
    for first in range(0, sharp.shape[0], _ROWS):
        rows = np.s_[first : first + _ROWS]
        result = sharp[rows].astype(np.float32) * np.float32(scale)
        if noise:
            result += rng.standard_normal(result.shape, dtype=np.float32) * np.float32(noise * top)
        np.clip(result, 0, top, out=result)
        if top != 1:
            np.rint(result, out=result)
        out[rows] = result
    return out
