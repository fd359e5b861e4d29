"""Photometric alignment: the gain that brings camera B to camera S (Li et al. 2023, eq. 6-7).

The paper divides the means of whole frames. Where an object crosses the frame's border or something
saturates that is wrong by percents; the median over blocks of the ratio of block means is not. Both are
here; the means are `method="mean"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from relo.capture.frame import channel_of_position
from relo.config import Config
from relo.errors import ProcessError

# Blocks darker than this share of white are dominated by noise and by errors of the black level.
_DARKEST = 0.01


class GainConfig(Config):
    """Settings of the photometric alignment."""

    method: Literal["median", "mean"] = Field("median", description="Median over blocks, or the paper's means.")
    block: int = Field(32, ge=4, multiple_of=2, description="Side of a block [px].")
    per_pair: bool = Field(False, description="Fit each pair by itself: for light that flickers.")


@dataclass(frozen=True)
class Gain:
    """Factors of R, G, B that bring camera B to camera S."""

    red: float
    green: float
    blue: float

    @property
    def rgb(self) -> tuple[float, float, float]:
        """The three factors."""
        return self.red, self.green, self.blue


def fit_gain(
    target: np.ndarray,
    moving: np.ndarray,
    pattern: str | None = None,
    moving_pattern: str | None = None,
    *,
    exclude: np.ndarray | None = None,
    method: Literal["median", "mean"] = "median",
    block: int = 32,
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
        Pixels that do not count, such as those saturated in either RAW.
    method : {"median", "mean"}
        Median over blocks of the ratio of block means, or the ratio of whole-frame means as published.
    block : int
        Side of a block [px]; even, and several times the misalignment.

    Returns
    -------
    Gain

    Raises
    ------
    ProcessError
        Too few blocks are bright enough and unsaturated.
    """
    if target.shape != moving.shape:
        raise ValueError(f"frames differ in size: {target.shape} and {moving.shape}")
    if target.ndim == 2 and pattern is None:
        raise ValueError("mosaics need their CFA pattern")
    if block < 2 or block % 2:
        raise ValueError(f"block must be even, so that it holds whole CFA cells, got {block}")
    height, width = target.shape[:2]
    block = max(4, min(block, 2 * (height // 8), 2 * (width // 8)))
    keep = np.ones((height, width), bool) if exclude is None else ~exclude
    gains = []
    full = _blocks(keep, block).all(axis=(1, 3))
    means_target = _block_means(target, pattern, block)
    means_moving = _block_means(moving, moving_pattern or pattern, block)
    for channel in range(3):
        usable = full & (means_target[channel] > _DARKEST) & (means_moving[channel] > _DARKEST)
        if method == "mean":
            usable = full
        if usable.sum() < 4:
            raise ProcessError(
                "the two cameras cannot be matched in brightness: too few blocks are bright enough and unsaturated",
                advice="Expose the static pair so that most of the frame is well lit.",
            )
        if method == "mean":
            gains.append(float(means_target[channel][usable].mean() / means_moving[channel][usable].mean()))
        else:
            gains.append(float(np.median(means_target[channel][usable] / means_moving[channel][usable])))
    if not np.isfinite(gains).all() or min(gains) <= 0:
        raise ProcessError(f"the fitted gain {gains} is no positive number", advice="Check the static pair.")
    return Gain(*gains)


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
    result = image.astype(np.float32, copy=True)
    for row in range(2):
        for column in range(2):
            result[row::2, column::2] *= cell[row, column]
    return result


def _blocks(plane: np.ndarray, block: int) -> np.ndarray:
    """View of an (H, W) plane as (rows, block, columns, block); what does not fill a block is left out."""
    rows, columns = plane.shape[0] // block, plane.shape[1] // block
    return plane[: rows * block, : columns * block].reshape(rows, block, columns, block)


def _block_means(image: np.ndarray, pattern: str | None, block: int) -> np.ndarray:
    """(3, rows, columns) float64 means of R, G, B over each block of a mosaic or of an RGB image."""
    if image.ndim == 3:
        planes = [_blocks(image[..., channel], block) for channel in range(3)]
        return np.stack([plane.mean(axis=(1, 3), dtype=np.float64) for plane in planes])
    assert pattern is not None
    cut = _blocks(image, block)
    sums: list[list[np.ndarray]] = [[], [], []]
    for position, channel in enumerate(channel_of_position(pattern)):
        sites = cut[:, position // 2 :: 2, :, position % 2 :: 2]
        sums[channel].append(sites.mean(axis=(1, 3), dtype=np.float64))
    return np.stack([np.mean(means, axis=0) for means in sums])
