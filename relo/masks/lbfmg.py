"""Local blur foreground mask generation (LBFMG) of Li et al. 2023, section 4.

Every sharp and blurred frame of the scene but the target updates a Gaussian-mixture background
(Zivkovic 2004, OpenCV's MOG2); what the target shows beyond that background is its blur mask. The paper
gives no parameters; those here were chosen on simulated scenes, see docs/masks.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from relo.config import Config


class LbfmgConfig(Config):
    """Settings of the background model and of the clean-up; variances are in 8-bit units, squared."""

    var_threshold: float = Field(16.0, gt=0, description="Squared distance to the background, in variances.")
    var_init: float = Field(15.0, gt=0, description="Variance of a new mode.")
    var_min: float = Field(4.0, gt=0, description="Smallest variance of a mode.")
    var_max: float = Field(75.0, gt=0, description="Largest variance of a mode.")
    detect_shadows: bool = Field(
        False, description="Leave out darker copies of the background; that also loses dark, see-through blur."
    )
    shadow_threshold: float = Field(0.5, gt=0, lt=1, description="Darkest shadow, of the background.")
    learning_rate: Literal["equal", "automatic"] = Field(
        "equal", description="Each frame the same weight, or OpenCV's rate, which favours the first."
    )
    passes: int = Field(1, ge=1, le=10, description="How often the background frames are shown.")
    opening_px: int = Field(3, ge=1, description="Diameter of the opening, removes specks [px].")
    closing_fraction: float = Field(0.02, ge=0, le=0.2, description="Diameter of the closing, of the width.")
    smallest_fraction: float = Field(0.001, ge=0, lt=1, description="Smallest component, of the frame's area.")
    fill_holes: bool = Field(True, description="Fill what a component encloses.")


# OpenCV's own settings, and nothing done to the result: `LbfmgConfig(**PLAIN_MOG2)`.
PLAIN_MOG2: dict[str, Any] = {
    "learning_rate": "automatic",
    "detect_shadows": True,
    "opening_px": 1,
    "closing_fraction": 0.0,
    "smallest_fraction": 0.0,
    "fill_holes": False,
}


class BackgroundModel:
    """A Gaussian mixture per pixel that learns frames and then segments others, which it does not learn.

    By default each frame gets the same weight (learning rate 1/k for the k-th): with OpenCV's automatic rate the
    first frame keeps a quarter of the weight after twenty. Takes 100 bytes a pixel.

    Parameters
    ----------
    config : LbfmgConfig
    """

    def __init__(self, config: LbfmgConfig) -> None:
        self._model = cv2.createBackgroundSubtractorMOG2(history=500, detectShadows=config.detect_shadows)
        self._model.setVarThreshold(config.var_threshold)
        self._model.setVarInit(config.var_init)
        self._model.setVarMin(config.var_min)
        self._model.setVarMax(config.var_max)
        self._model.setShadowThreshold(config.shadow_threshold)
        self._equal = config.learning_rate == "equal"
        self._seen = 0
        self._kind: tuple[tuple[int, ...], np.dtype] | None = None

    def learn(self, frame: np.ndarray) -> None:
        """Show a background frame, (H, W, 3) uint8, uint16 or float in [0, 1]."""
        self._seen += 1
        rate = 1.0 / self._seen if self._equal else -1.0
        self._model.apply(self._checked(frame), learningRate=rate)

    def foreground(self, target: np.ndarray) -> np.ndarray:
        """(H, W) bool: where the frame `target` is no background; shadows are not foreground.

        Raises
        ------
        ValueError
            The model has learnt nothing, or frames of another size or type.
        """
        if self._seen == 0:
            raise ValueError("a background model needs at least one frame")
        # 255 is foreground, 127 shadow.
        return np.asarray(self._model.apply(self._checked(target), learningRate=0.0)) > 200

    def _checked(self, frame: np.ndarray) -> np.ndarray:
        # MOG2 would silently start afresh at a frame of another size or type.
        kind = frame.shape, _eight_bit_units(frame[:1, :1]).dtype
        if self._kind is not None and kind != self._kind:
            shape, dtype = self._kind
            raise ValueError(f"a background of {shape} {dtype} cannot take a frame of {frame.shape} {frame.dtype}")
        self._kind = kind
        return _eight_bit_units(frame)


def foreground(
    target: np.ndarray, background: Iterable[np.ndarray], config: LbfmgConfig | None = None
) -> np.ndarray:
    """Segment `target` against a background model of the other frames; no clean-up.

    Parameters
    ----------
    target : (H, W, 3) uint8, uint16 or float array
        RGB, sRGB-encoded; floats in [0, 1].
    background : iterable of such arrays
        Consumed once a pass; a generator does for one pass.
    config : LbfmgConfig, optional

    Returns
    -------
    (H, W) bool array
        True where the target is no background; shadows are not.

    Raises
    ------
    ValueError
        No background frame, or sizes or dtypes differ.
    """
    config = config or LbfmgConfig()
    model = BackgroundModel(config)
    frames = list(background) if config.passes > 1 else background
    for _ in range(config.passes):
        for frame in frames:
            model.learn(frame)
    return model.foreground(target)


def clean_up(raw: np.ndarray, config: LbfmgConfig | None = None, valid: np.ndarray | None = None) -> np.ndarray:
    """Opening, closing, hole filling, small components, valid area.

    Parameters
    ----------
    raw : (H, W) bool array
    config : LbfmgConfig, optional
    valid : (H, W) array, optional
        Outside (0) no mask is given.

    Returns
    -------
    (H, W) uint8 array
        255 = blurred, 0 = not.
    """
    config = config or LbfmgConfig()
    mask: np.ndarray = raw.astype(np.uint8)
    if valid is not None:
        mask[valid == 0] = 0
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disk(config.opening_px))
    closing = round(config.closing_fraction * mask.shape[1])
    if closing > 1:
        # Without the margin what lies near the frame's border would be joined to it.
        padded = cv2.copyMakeBorder(mask, closing, closing, closing, closing, cv2.BORDER_REPLICATE)
        mask = close_gaps(padded, closing)[closing:-closing, closing:-closing]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= config.smallest_fraction * mask.size
    keep[0] = False
    mask = keep[labels].astype(np.uint8) if count > 1 else np.zeros_like(mask)
    if config.fill_holes:
        mask = _fill_holes(mask)
    if valid is not None:
        mask = np.where(valid == 0, 0, mask)
    return (mask * 255).astype(np.uint8)


def _eight_bit_units(image: np.ndarray) -> np.ndarray:
    """The model's variances are in 8-bit units whatever the input's depth: bytes, or float32 in 0..255."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return image.astype(np.float32) / np.float32(257)
    return np.asarray(image, np.float32) * np.float32(255)


def _disk(diameter: int) -> np.ndarray:
    """Disk of an odd diameter: OpenCV's opening and closing shift the mask with an even one."""
    diameter |= 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))


def close_gaps(mask: np.ndarray, diameter: int) -> np.ndarray:
    """Closing by a disk of an odd diameter [px]; by distances, good to a few percent, at the same cost for any."""
    radius = (diameter | 1) / 2
    far = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5) >= radius
    # What no disk of background covers is filled.
    return np.asarray(
        cv2.distanceTransform(1 - far.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) >= radius, np.uint8
    )


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Background that does not reach the frame's border becomes foreground."""
    padded = cv2.copyMakeBorder(1 - mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    outside = labels[1:-1, 1:-1] == labels[0, 0]
    return (~outside).astype(np.uint8)
