"""Photometric alignment: the gain that brings camera B to camera S (Li et al. 2023, eq. 6-7).

The paper divides the means of whole frames. Where an object crosses the frame's border or something
saturates that is wrong by percents; a robust mean over blocks of the ratio of block means is not. Both are
here; the paper's is `method="mean"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from relo.capture.frame import channel_of_position
from relo.config import Config
from relo.errors import ProcessError

# Blocks darker than this share of white are dominated by noise and by errors of the black level.
_DARKEST = 0.01
# Where nobody says what is saturated: from here on it is, in shares of white.
_SATURATED = 0.98
# Tukey's constant: 95 % efficient for Gaussian noise, no weight beyond 4.7 standard deviations.
_TUKEY = 4.685

GainMethod = Literal["robust", "mean"]


class GainConfig(Config):
    """Settings of the photometric alignment."""

    method: GainMethod = Field("robust", description="Robust mean over blocks, or the paper's ratio of means.")
    block: int = Field(16, ge=4, multiple_of=2, description="Side of a block [px].")
    per_pair: bool = Field(False, description="Fit each pair by itself: for light that flickers.")


@dataclass(frozen=True)
class Gain:
    """Factors of R, G, B that bring camera B to camera S.

    Attributes
    ----------
    red, green, blue : float
    light : 3 floats
        Sum of the signal [pixels at white] that each factor was measured on; shot noise makes its variance
        the inverse of that.
    """

    red: float
    green: float
    blue: float
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def rgb(self) -> tuple[float, float, float]:
        """The three factors."""
        return self.red, self.green, self.blue

    def times(self, factors: tuple[float, float, float]) -> Gain:
        """This gain with each factor multiplied by another."""
        red, green, blue = (first * second for first, second in zip(self.rgb, factors, strict=True))
        return replace(self, red=red, green=green, blue=blue)


def fit_gain(
    target: np.ndarray,
    moving: np.ndarray,
    pattern: str | None = None,
    moving_pattern: str | None = None,
    *,
    exclude: np.ndarray | None = None,
    method: GainMethod = "robust",
    block: int = 16,
) -> Gain:
    """Fit the gain per channel that brings `moving` (camera B) to `target` (camera S).

    Parameters
    ----------
    target, moving : (H, W) or (H, W, 3) float32 arrays
        Normalised mosaics or linear camera-RGB images after colour correction, black at 0. Where they are
        not aligned, what enters and leaves the blocks costs a few tenths of a percent.
    pattern : str, optional
        CFA pattern of `target`; needed for mosaics.
    moving_pattern : str, optional
        CFA pattern of `moving`, where it differs (a mirrored camera).
    exclude : (H, W) bool array, optional
        Pixels that do not count, such as those saturated in either RAW; without it, what reaches 0.98.
        A block counts when none of its pixels is excluded.
    method : {"robust", "mean"}
        Tukey's biweight mean over blocks of the ratio of block means, weighted by the light in the block;
        or the ratio of the means over all blocks as published.
    block : int
        Side of a block [px]; even, and several times the misalignment.

    Returns
    -------
    Gain

    Raises
    ------
    ProcessError
        Too few blocks are bright enough and unsaturated, or a frame holds NaN.
    """
    if target.shape != moving.shape:
        raise ValueError(f"frames differ in size: {target.shape} and {moving.shape}")
    if target.ndim == 2 and pattern is None:
        raise ValueError("mosaics need their CFA pattern")
    if block < 2 or block % 2:
        raise ValueError(f"block must be even, so that it holds whole CFA cells, got {block}")
    height, width = target.shape[:2]
    block = max(4, min(block, 2 * (height // 8), 2 * (width // 8)))
    if exclude is None:
        bright = np.fmax(target, moving) >= _SATURATED
        exclude = bright if bright.ndim == 2 else bright.any(axis=-1)
    down, along, rows, columns = _grid(target.shape, block)
    # One axis after the other: ten times as fast as both at once.
    cut = np.asarray(exclude)[down, along].reshape(rows, block, columns * block).any(axis=1)
    full = ~cut.reshape(rows, columns, block).any(axis=2)
    means_target = _block_means(target, pattern, block)
    means_moving = _block_means(moving, moving_pattern or pattern, block)
    if not (np.isfinite(means_target).all() and np.isfinite(means_moving).all()):
        raise ProcessError("a frame to match in brightness holds NaN or infinite values")
    gains, light = [], []
    for of_target, of_moving in zip(means_target, means_moving, strict=True):
        usable = full & (of_target > _DARKEST) & (of_moving > _DARKEST) if method == "robust" else full
        if usable.sum() < 4:
            raise ProcessError(
                "the two cameras cannot be matched in brightness: too few blocks are bright enough and unsaturated",
                advice="Expose the static pair so that most of the frame is well lit.",
            )
        of_target, of_moving = of_target[usable], of_moving[usable]
        if method == "mean":
            gains.append(float(of_target.mean() / of_moving.mean()))
        else:
            gains.append(_biweight_mean(of_target / of_moving, of_target))
        light.append(float(of_target.sum()) * block**2)
    if not np.isfinite(gains).all() or min(gains) <= 0:
        raise ProcessError(f"the fitted gain {gains} is no positive number", advice="Check the static pair.")
    return Gain(gains[0], gains[1], gains[2], (light[0], light[1], light[2]))


def average_gains(gains: Sequence[Gain]) -> Gain:
    """Mean of several measurements of one gain, each weighted by the light it was measured on."""
    values, light = np.array([gain.rgb for gain in gains]), np.array([gain.light for gain in gains])
    total = light.sum(axis=0)
    red, green, blue = ((values * light).sum(axis=0) / total).tolist()
    return Gain(red, green, blue, tuple(total.tolist()))


def _biweight_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Tukey's biweight mean; the variance of a value is taken to be the inverse of its weight."""
    centre = float(np.median(values))
    root = np.sqrt(weights)
    for _ in range(50):
        distance = np.abs(values - centre) * root
        scale = _TUKEY * 1.4826 * float(np.median(distance))
        if scale <= 1e-12 * abs(centre) * root.max():
            break  # half of the blocks agree to rounding: nothing to average
        w = weights * np.clip(1 - (distance / scale) ** 2, 0, None) ** 2
        before, centre = centre, float((w * values).sum() / w.sum())
        if abs(centre - before) < 1e-9 * abs(centre):
            break
    return centre


def apply_gain(gain: Gain, image: np.ndarray, pattern: str | None = None) -> np.ndarray:
    """Multiply camera B's frame by the gain.

    Parameters
    ----------
    gain : Gain
    image : (H, W) or (H, W, 3) float32 array
        A mosaic (then `pattern` is needed) or a linear camera-RGB image.
    pattern : str, optional
        CFA pattern of a mosaic.

    Returns
    -------
    float32 array of the same shape
    """
    if image.ndim == 3:
        return image * np.array(gain.rgb, np.float32)
    if pattern is None:
        raise ValueError("a mosaic needs its CFA pattern")
    cell = np.array([gain.rgb[channel] for channel in channel_of_position(pattern)], np.float32).reshape(2, 2)
    # Whole rows: three times as fast as every other site at a time.
    factors = np.tile(cell, image.shape[1] // 2 + 1)[:, : image.shape[1]]
    result = np.empty(image.shape, np.float32)
    for row in range(2):
        np.multiply(image[row::2], factors[row], out=result[row::2])
    return result


def _grid(shape: tuple[int, ...], block: int) -> tuple[slice, slice, int, int]:
    """Part of a frame that whole blocks cover, and their number down and along.

    As much is left out on either side, but for a CFA cell: what a colour cast has left is odd about the centre,
    and cancels only over a centred area.
    """
    rows, columns = shape[0] // block, shape[1] // block
    top, left = ((size % block) // 4 * 2 for size in shape[:2])
    return slice(top, top + rows * block), slice(left, left + columns * block), rows, columns


def _block_means(image: np.ndarray, pattern: str | None, block: int) -> np.ndarray:
    """(3, rows, columns) float64 means of R, G, B over each block of a mosaic or of an RGB image."""
    down, along, rows, columns = _grid(image.shape, block)
    part = np.asarray(image[down, along], np.float32)

    def means(channels: np.ndarray) -> np.ndarray:
        # Area interpolation by a whole factor is the mean, many times as fast as NumPy's over strided axes.
        resized = cv2.resize(channels, (columns, rows), interpolation=cv2.INTER_AREA)
        return np.moveaxis(np.asarray(resized, np.float64), -1, 0)

    if image.ndim == 3:
        return means(part)
    assert pattern is not None
    # Two neighbours of a row are the channels of one pixel.
    pixels = np.ascontiguousarray(part).reshape(rows * block, -1, 2)
    found: list[list[np.ndarray]] = [[], [], []]
    for row in range(2):
        for channel, plane in zip(channel_of_position(pattern)[2 * row :], means(pixels[row::2]), strict=False):
            found[channel].append(plane)
    return np.stack([np.mean(planes, axis=0) for planes in found])
