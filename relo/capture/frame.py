"""`RawFrame`: one Bayer mosaic with what is needed to interpret it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")

Levels4 = tuple[float, float, float, float]
Gains3 = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One exposure of one camera as the sensor gave it.

    Convention: `pattern` names the visible area's top-left 2 x 2 cell row by row; `black` has the same order.

    Attributes
    ----------
    mosaic : (H, W) uint16 array
        Digital numbers of the visible area [DN].
    pattern : {"RGGB", "BGGR", "GRBG", "GBRG"}
    black : 4 floats
        Black level of each position of the 2 x 2 cell [DN].
    white : float
        Saturation level [DN].
    wb : 3 floats
        White-balance gains of R, G, B, scaled so that G is 1.
    colour_matrix : (3, 3) float64 array
        White-balanced camera RGB -> linear sRGB; each row sums to 1.
    exposure_s : float or None
        Exposure time [s].
    camera : str
        "B" (long exposure), "S" (short exposure) or "" where unknown.
    iso : float or None
    nd_transmittance : float or None
        Transmittance of the neutral-density filter in front of the camera, in (0, 1].
    notes : tuple of str
        What the reader had to assume, for the log and the report.
    """

    mosaic: np.ndarray
    pattern: str
    black: Levels4
    white: float
    wb: Gains3 = (1.0, 1.0, 1.0)
    colour_matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    exposure_s: float | None = None
    camera: str = ""
    iso: float | None = None
    nd_transmittance: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mosaic.ndim != 2 or self.mosaic.dtype != np.uint16:
            raise ValueError(f"mosaic must be (H, W) uint16, got {self.mosaic.shape} {self.mosaic.dtype}")
        if min(self.mosaic.shape) < 2:
            raise ValueError(f"mosaic must hold at least one 2 x 2 cell, got {self.mosaic.shape}")
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if len(self.black) != 4 or len(self.wb) != 3 or np.shape(self.colour_matrix) != (3, 3):
            raise ValueError("black needs 4 values, wb 3 and colour_matrix 3 x 3")
        numbers = np.array([*self.black, self.white, *self.wb, *np.ravel(self.colour_matrix)], np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("black, white, wb and colour_matrix must be finite")
        if self.white <= max(self.black):
            raise ValueError(f"white level {self.white:g} must exceed the black levels {self.black}")
        if min(self.wb) <= 0:
            raise ValueError(f"white-balance gains must be positive, got {self.wb}")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the mosaic."""
        height, width = self.mosaic.shape
        return height, width

    def normalised(self) -> np.ndarray:
        """Linear light: black at 0, white at 1, clipped on neither side.

        Computes (raw - black of the position) / (white - largest black). Keeping the negative noise tail
        keeps means and colours unbiased.

        Returns
        -------
        (H, W) float32 array
        """
        black = np.array(self.black, np.float32).reshape(2, 2)
        scale = np.float32(1.0 / (self.white - max(self.black)))
        # Whole rows: several times as fast as every other site at a time.
        levels = np.tile(black, self.shape[1] // 2 + 1)[:, : self.shape[1]]
        result = self.mosaic.astype(np.float32)
        for row in range(2):
            result[row::2] -= levels[row]
        result *= scale
        return result

    def saturated(self, level: float = 0.98) -> np.ndarray:
        """(H, W) bool array: sites at or above `level` of the white level."""
        return self.mosaic >= np.float32(level * self.white)


def channel_of_position(pattern: str) -> tuple[int, int, int, int]:
    """RGB channel index (0, 1, 2) of each position of the 2 x 2 cell, row by row."""
    red, green, blue, last = ("RGB".index(letter) for letter in pattern)
    return red, green, blue, last


def flip_pattern(pattern: str, shape: tuple[int, int]) -> str:
    """Pattern of a mosaic of `shape` (H, W) after a left-right flip: an odd width keeps the phase."""
    if shape[1] % 2:
        return pattern
    return pattern[1] + pattern[0] + pattern[3] + pattern[2]
