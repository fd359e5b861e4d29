"""Synthetic short exposures: what a second, much shorter frame of the same moment would look like."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from relo.config import Config
from relo.kernels import kernel
from relo.srgb import srgb_decode, srgb_encode

ShortModel = Literal["hsv", "physical"]

_ROWS = 64
# Where neither a range is given nor the exposure times are known.
_RATIOS = (1 / 16, 1 / 2)
# Brooks et al. 2019: log(read variance) = slope log(shot) + offset + N(0, spread), fitted to phones.
_READ_SLOPE, _READ_OFFSET, _READ_SPREAD = 2.18, 1.20, 0.26


class ShortExposureConfig(Config):
    """Ranges the parameters of each sample are drawn from. No paper gives amounts for "hsv": those are guesses."""

    enabled: bool = Field(True, description="Whether shards get /short.")
    model: ShortModel = Field("hsv", description="HSV value scaled, or linear light with photon and read noise.")
    scale: tuple[float, float] = Field((0.3, 0.7), description="hsv: range of the factor on the HSV value.")
    noise: tuple[float, float] = Field((0.005, 0.03), description="hsv: range of the noise's sigma, of 1.")
    ratio: tuple[float, float] | None = Field(
        None, description="physical: range of the exposure ratio; t_short/t_long where it is known if not given."
    )
    shot: tuple[float, float] = Field(
        (1e-4, 1.2e-2), description="physical: range of the noise variance per unit of signal; [0, 0] is no noise."
    )
    colour: float = Field(0.0, ge=0, lt=1, description="physical: red and blue are off by up to this share.")
    brighten: float = Field(0.0, ge=0, le=1, description="physical: digital gain ratio^-brighten after the noise.")

    @model_validator(mode="after")
    def _ordered(self) -> ShortExposureConfig:
        for name, (low, high), top in (("scale", self.scale, 1.0), ("noise", self.noise, 1.0)):
            if not 0 <= low <= high <= top:
                raise ValueError(f"{name} must be two rising numbers within 0 and {top:g}")
        if self.ratio is not None and not 1e-4 <= self.ratio[0] <= self.ratio[1] <= 1:
            raise ValueError("ratio must be two rising numbers within 0.0001 and 1")
        if self.shot != (0, 0) and not 1e-6 <= self.shot[0] <= self.shot[1] <= 1:
            raise ValueError("shot must be two rising numbers within 0.000001 and 1, or [0, 0]")
        return self


@dataclass(frozen=True)
class ShortParameters:
    """What one short exposure was made with; None where its model has no such parameter.

    Attributes
    ----------
    model : {"hsv", "physical"}
    scale, noise : float
        hsv: factor on the value channel, and standard deviation of the noise, of 1.
    ratio, shot, read, gain : float
        physical: exposure ratio, noise variance per unit of signal, standard deviation of the read noise, digital
        gain after the noise; in linear light of full scale 1.
    red, blue : float
        physical: factors of the colour shift.
    """

    model: ShortModel = "hsv"
    scale: float | None = None
    noise: float | None = None
    ratio: float | None = None
    shot: float | None = None
    read: float | None = None
    gain: float | None = None
    red: float | None = None
    blue: float | None = None

    def keywords(self) -> dict[str, Any]:
        """Keywords of `short_exposure`."""
        if self.model == "hsv":
            return {"model": "hsv", "scale": self.scale, "noise": self.noise}
        return {
            "model": "physical",
            "ratio": self.ratio,
            "shot": self.shot,
            "read": self.read,
            "colour": (self.red, 1.0, self.blue),
            "brighten": self.gain,
        }

    def columns(self) -> dict[str, float]:
        """Columns of /pairs: `short_scale` and so on, NaN where the model has no such parameter."""
        numbers = {
            "short_scale": self.scale,
            "short_noise": self.noise,
            "short_ratio": self.ratio,
            "short_shot": self.shot,
            "short_read": self.read,
            "short_gain": self.gain,
            "short_red": self.red,
            "short_blue": self.blue,
        }
        return {name: float("nan") if value is None else value for name, value in numbers.items()}


def pair_generator(seed: int, scene: str, pair_id: str) -> np.random.Generator:
    """Random numbers of one pair: the same whatever else is processed, in whatever order."""
    digest = hashlib.sha256(f"{scene}/{pair_id}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def exposure_ratio(t_long: float | None, t_short: float | None) -> float | None:
    """t_short / t_long; None where a time [s] is unknown (None, NaN, 0) or the short one is the longer."""
    if not t_long or not t_short:
        return None
    ratio = t_short / t_long
    return ratio if 0 < ratio <= 1 else None


def draw_parameters(
    config: ShortExposureConfig, rng: np.random.Generator, *, exposure_ratio: float | None = None
) -> ShortParameters:
    """Draw one sample's parameters from the ranges of `config`.

    Those of "hsv" are uniform. For "physical" the exposure ratio and the shot noise are log-uniform, and the read
    noise follows the shot noise as it does in phones.

    Parameters
    ----------
    config : ShortExposureConfig
    rng : Generator
    exposure_ratio : float, optional
        t_short / t_long of the pair: taken where `config.ratio` gives no range.

    References
    ----------
    Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019, section 3.1.
    """
    if config.model == "hsv":
        scale = float(rng.uniform(*config.scale))
        return ShortParameters(scale=scale, noise=float(rng.uniform(*config.noise)))
    # Drawn also where it is known: what is drawn after it must not depend on that.
    ratio = _log_uniform(config.ratio or _RATIOS, rng)
    if config.ratio is None and exposure_ratio is not None:
        ratio = exposure_ratio
    shot = _log_uniform(config.shot, rng)
    variance = shot**_READ_SLOPE * float(np.exp(rng.normal(_READ_OFFSET, _READ_SPREAD)))
    red, blue = (1 + config.colour * float(rng.uniform(-1, 1)) for _ in range(2))
    return ShortParameters(
        model="physical",
        ratio=ratio,
        shot=shot,
        read=float(np.sqrt(variance)),
        gain=ratio**-config.brighten,
        red=red,
        blue=blue,
    )


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """A number whose logarithm is uniform between those of `limits`; 0 where both are 0."""
    low, high = limits
    share = float(rng.random())
    return low * (high / low) ** share if low > 0 else 0.0


def short_exposure(
    sharp: np.ndarray,
    rng: np.random.Generator,
    *,
    model: ShortModel = "hsv",
    scale: float = 0.5,
    noise: float = 0.01,
    ratio: float = 0.25,
    shot: float = 1e-3,
    read: float = 1e-3,
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0),
    brighten: float = 1.0,
) -> np.ndarray:
    """Simulate a short exposure from a sharp frame.

    "hsv" scales the HSV value and adds Gaussian noise. Scaling V of HSV by g with hue and saturation kept is
    exactly R, G, B times g, which is what is computed: no detour over 8-bit HSV, whose rounding alone costs up to
    2.8/255.

    "physical" works in linear light, as a sensor does: x = ratio * colour * decode(sharp), then
    brighten * (shot * Poisson(x / shot) + N(0, read^2)), clipped and encoded. Before the gain the mean is x and the
    variance shot * x + read^2.

    Parameters
    ----------
    sharp : (H, W, 3) uint8, uint16 or float array
        sRGB-encoded; floats in [0, 1].
    rng : Generator
    model : {"hsv", "physical"}
    scale : float
        hsv: g in [0, 1].
    noise : float
        hsv: standard deviation, relative to full scale.
    ratio : float
        physical: exposure ratio t_short / t_long, a factor on linear light.
    shot : float
        physical: variance per unit of signal, that is 1 / (electrons at full scale); 0 for none.
    read : float
        physical: standard deviation of the read noise, relative to full scale in linear light.
    colour : 3 floats
        physical: factors on linear R, G, B.
    brighten : float
        physical: digital gain after the noise.

    Returns
    -------
    (H, W, 3) array of the dtype of `sharp`, clipped to its range

    Raises
    ------
    ValueError
        The model is unknown, or a parameter of the physical one is negative.

    References
    ----------
    The ExpRDiff paper, section 4.1 (hsv); Brooks et al., CVPR 2019, section 3.1 (noise of the physical model).
    """
    sharp = np.asarray(sharp)
    if model == "hsv":
        return _hsv(sharp, rng, scale, noise)
    if model != "physical":
        raise ValueError(f"model must be 'hsv' or 'physical', got {model!r}")
    if min(ratio, shot, read, brighten, *colour) < 0:
        raise ValueError("ratio, shot, read, colour and brighten must not be negative")
    factors = np.float32(ratio) * np.asarray(colour, np.float32)
    top = _full_scale(sharp.dtype)
    out = np.empty(sharp.shape, sharp.dtype)
    for first in range(0, sharp.shape[0], _ROWS):  # a few rows at a time: Poisson numbers take 8 bytes each
        rows = np.s_[first : first + _ROWS]
        light = factors * srgb_decode(sharp[rows] / np.float32(top))
        exposed = np.float32(brighten) * _expose(light, rng, shot, read)
        encoded = top * srgb_encode(np.clip(exposed, 0, 1))
        out[rows] = np.rint(encoded) if np.issubdtype(sharp.dtype, np.integer) else encoded
    return out


def _full_scale(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1


def _expose(light: np.ndarray, rng: np.random.Generator, shot: float, read: float) -> np.ndarray:
    """Photon noise of variance `shot` * `light` and read noise of deviation `read`; float32, may be negative."""
    if shot > 0:
        light = (shot * rng.poisson(np.maximum(light, 0) / shot)).astype(np.float32)
    return light + np.float32(read) * rng.standard_normal(light.shape, np.float32)


def _hsv(sharp: np.ndarray, rng: np.random.Generator, scale: float, noise: float) -> np.ndarray:
    integer = np.issubdtype(sharp.dtype, np.integer)
    top = _full_scale(sharp.dtype)
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
