"""Synthetic short exposures: what a second, much shorter frame of the same moment would look like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import Field, model_validator

from relo.config import Config
from relo.kernels import kernel

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
    integer = np.issubdtype(sharp.dtype, np.integer)
    top = np.iinfo(sharp.dtype).max if integer else 1
    amounts = gaussian_quantiles() * np.float32(noise * top)
    out = np.empty(sharp.shape, sharp.dtype)
    # A few rows at a time stay in the cache; the random numbers come in the same order.
    for first in range(0, sharp.shape[0], _ROWS):
        rows = np.s_[first : first + _ROWS]
        values = np.ascontiguousarray(sharp[rows]).reshape(-1)
        random = rng.integers(0, 1 << 16, values.size, np.uint16)
        _scale_and_add(values, np.float32(scale), amounts, random, np.float32(top), integer, out[rows].reshape(-1))
    return out


@lru_cache
def gaussian_quantiles() -> np.ndarray:
    """Standard normal numbers, one for each uint16 random number: (65536,) float32, at most 4.3.

    Looked up they cost a quarter of what numpy's generator takes.
    """
    # The integral of the density, inverted: importing scipy for it would take longer than a frame.
    numbers = np.linspace(-5, 5, 20001)
    density = np.exp(-0.5 * numbers**2)
    below = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    quantiles = np.interp((np.arange(1 << 16) + 0.5) / (1 << 16), below / below[-1], numbers)
    quantiles = (quantiles / quantiles.std()).astype(np.float32)
    quantiles.setflags(write=False)
    return quantiles


@kernel()
def _scale_and_add(
    values: np.ndarray,
    scale: np.float32,
    amounts: np.ndarray,
    random: np.ndarray,
    top: np.float32,
    whole: bool,
    out: np.ndarray,
) -> None:
    """Scale `values`, add amounts[random], clip to [0, top], round to whole numbers if asked."""
    for index in range(values.size):
        value = np.float32(values[index]) * scale + amounts[random[index]]
        value = min(max(value, np.float32(0)), top)
        out[index] = np.rint(value) if whole else value
