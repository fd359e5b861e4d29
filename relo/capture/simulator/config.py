"""What a simulated session looks like, and the random generators it is drawn from."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from relo.config import Config

REFERENCE_WIDTH = 2152  # frame width of the published dataset; extents in pixels are meant at this width


PRESETS = {file.stem: file for file in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}


class Stream(IntEnum):
    """First part of a spawn key: what the numbers are for. Never renumber: it would change sessions."""

    CAST = 0
    GAIN = 1
    LEVELS = 2
    ALIGNMENT = 3
    CALIBRATION = 4
    SCENE = 5
    SCENE_NOISE = 6
    SCENE_LIGHT = 7
    SCENE_ALIGNMENT = 8
    OBJECTS = 9
    PAIR_NOISE = 10
    PAIR_LIGHT = 11


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Make the generator of one purpose; `key` is scene, pair, camera, as far as they apply.

    Each purpose has its own stream: more pairs, other noise or another option leave everything else alone.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), *key)))


class SimulationConfig(Config):
    """A simulated rig and what stands before it.

    Extents "at width 2152" are scaled by width / 2152. The options after `blur_px_max` are the hard cases;
    they are off by default.
    """

    seed: int = Field(0, ge=0, lt=2**63, description="Everything random follows from it.")
    scenes: int = Field(2, ge=1, le=9999, description="Number of scenes.")
    pairs: int = Field(4, ge=1, le=9999, description="Pairs a scene.")
    width: int = Field(2152, ge=64, le=16384, description="Columns of the sensors; may be odd.")
    height: int = Field(1436, ge=64, le=16384, description="Rows of the sensors; may be odd.")
    bits: Literal[12, 14] = Field(14, description="Bit depth of the RAW files.")
    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = Field(
        "RGGB", description="CFA pattern of both sensors, as saved."
    )
    t_long_s: float = Field(0.020, gt=0, le=10, description="Exposure of camera B [s].")
    t_short_s: float = Field(0.001, gt=0, le=10, description="Exposure of camera S [s].")
    short_delay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="When camera S exposes: 0 when B starts, 0.5 in the middle of B, 1 at its end.",
    )
    black_level: float = Field(
        512, ge=16, le=4096, description="Black level at 14 bits [DN]; the positions lie up to 4 DN above it."
    )
    full_well_e: float = Field(30000, ge=100, le=1e6, description="Electrons at the white level.")
    read_noise_e: float = Field(4, ge=0, le=1000, description="Standard deviation of the read noise [e].")
    lightbox_frames: int = Field(
        16, ge=1, le=1000, description="Exposures averaged into a lightbox or a whiteboard frame."
    )
    cast_strength: float = Field(
        0.25, ge=0, le=0.6, description="Peak to peak of the colour cast; each channel within 20 % of it."
    )
    non_cubic: float = Field(
        0.01, ge=0, le=0.05, description="Peak to peak of the part of the cast no cubic can follow."
    )
    gain_mismatch: float = Field(0.1, ge=0, le=0.4, description="Largest deviation of camera B's gain from 1.")
    misalignment: float = Field(
        1.0,
        ge=0,
        le=4,
        description="Factor on camera B's misalignment; 1: 0.1 degree, 1.001, k1 1.2e-3, 2.5 px.",
    )
    objects: int = Field(3, ge=1, le=8, description="Largest number of moving objects in a pair.")
    covered: float = Field(
        0.1, gt=0, le=0.3, description="Mean share of the frame to cover with trails; about a tenth more comes out."
    )
    blur_px_min: float = Field(15, gt=0, le=400, description="Shortest path during t_long [px at width 2152].")
    blur_px_max: float = Field(70, gt=0, le=400, description="Longest path during t_long [px at width 2152].")
    steepest_deg: float = Field(
        90, ge=0, le=90, description="Largest slope of an object's way against the horizontal [degrees]."
    )
    steady: bool = Field(False, description="Objects move evenly, straight, and do not turn.")

    parallax_px: float = Field(
        0.0, ge=0, le=4, description="Shift of a large soft foreground ellipse in camera B [px]."
    )
    mirrored: bool = Field(False, description="Camera B sees a reflection: its files are flipped left-right.")
    same_area: bool = Field(False, description="The objects of all pairs of a scene move in one area.")
    cross_border: bool = Field(False, description="Objects cross the frame border.")
    highlights: bool = Field(False, description="Small very bright lights, in the scene and on the objects.")
    flicker: float = Field(0.0, ge=0, le=0.6, description="Modulation depth of the 100 Hz light.")
    bump_px: float = Field(
        0.0,
        ge=0,
        le=12,
        description="Camera B is knocked by this [px] from pair 1 or 2 of the first scene on.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.t_short_s >= self.t_long_s:
            raise ValueError(f"t_short_s ({self.t_short_s:g}) must be below t_long_s ({self.t_long_s:g})")
        if self.blur_px_min > self.blur_px_max:
            raise ValueError(f"blur_px_min ({self.blur_px_min:g}) exceeds blur_px_max ({self.blur_px_max:g})")
        return self

    @property
    def tau(self) -> float:
        """Transmittance of the ND filter in front of camera B."""
        return self.t_short_s / self.t_long_s

    @property
    def short_span(self) -> tuple[float, float]:
        """When camera S opens and closes, in units of t_long: 0 to 1 is camera B's exposure."""
        start = self.short_delay * (1 - self.tau)
        return start, start + self.tau

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the sensors."""
        return self.height, self.width

    @property
    def scale(self) -> float:
        """Size of this frame relative to the published one."""
        return self.width / REFERENCE_WIDTH

    @property
    def white(self) -> int:
        """Saturation level [DN]."""
        return 2**self.bits - 1
