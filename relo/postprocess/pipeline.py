"""The corrections in their order: from two RAW frames to an aligned pair of display images.

black/white -> colour cast -> gain (camera B) -> white balance -> Menon demosaic -> matrix, sRGB -> warp
(camera B) -> optional halving -> quantisation. What a scene needs for that is measured once, on its static
pair, and is a `SceneCalibration`. The paper balances after demosaicing; why relo does it before stands in
docs/decisions/0003-white-balance-first.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from relo.capture.frame import RawFrame, channel_of_position
from relo.config import Config
from relo.errors import ProcessError
from relo.postprocess import isp, quality
from relo.postprocess.colour import ColourCast, ColourConfig, apply_colour_cast
from relo.postprocess.demosaic import demosaic_menon
from relo.postprocess.flow.auto import FlowConfig, fit_flow
from relo.postprocess.flow.model import FlowModel
from relo.postprocess.photometric import Gain, GainConfig, apply_gain, fit_gain
from relo.postprocess.resample import WarpMethod, valid_area, warp

FramePair = tuple[RawFrame, RawFrame]
"""A frame of camera B and the one of camera S that belongs to it."""

# RAW sites from here on count as saturated, in shares of the white level.
_SATURATED = 0.98
# A pair whose own gain differs by more than this from the scene's has flicker or an exposure fault.
_GAIN_TOLERANCE = 0.02
_CLIPPED_TOLERANCE = 0.05
# White balance of an image that has been balanced already.
_BALANCED = (1.0, 1.0, 1.0)


class WarpConfig(Config):
    """Settings of the resampling of camera B."""

    method: WarpMethod = Field("cmtf", description="cmtf (constant MTF), cubic, lanczos or linear.")
    light: Literal["encoded", "linear"] = Field(
        "encoded", description="Warp after the sRGB curve as published, or before it."
    )


class DevelopConfig(Config):
    """Settings of demosaicing and output size."""

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


@dataclass(frozen=True, eq=False)
class SceneCalibration:
    """What every pair of a scene is corrected with.

    Attributes
    ----------
    casts : mapping of camera -> ColourCast
        Empty where the colour correction is switched off.
    gain : Gain
        Brings camera B to camera S, measured on the aligned static pair.
    mosaic_gain : Gain
        The same measured before alignment: what a pair's own gain is compared with.
    wb : 3 floats
        White-balance gains for both cameras.
    wb_source : str
        "whiteboard", "session" or "as shot".
    colour_matrix : (3, 3) float64 array
        Camera S's, used for both.
    flow : FlowModel
        From camera S to camera B.
    misalignment_before, misalignment_after : float
        Of the static pair [px].
    psnr_before, psnr_after : float
        Of the static pair, only demosaiced and developed, and after all corrections [dB].
    notes : tuple of str
        What was unusual.
    previews : mapping of name -> (h, w, 3) uint8 array
        The static pair for people to look at, at most 640 px wide: "before", "after" (camera B, only
        developed and corrected) and "sharp" (camera S, corrected).
    """

    casts: Mapping[str, ColourCast]
    gain: Gain
    mosaic_gain: Gain
    wb: tuple[float, float, float]
    wb_source: str
    colour_matrix: np.ndarray
    flow: FlowModel
    misalignment_before: float = float("nan")
    misalignment_after: float = float("nan")
    psnr_before: float = float("nan")
    psnr_after: float = float("nan")
    notes: tuple[str, ...] = ()
    previews: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ProcessedPair:
    """An aligned pair.

    Attributes
    ----------
    blur, sharp : (h, w, 3) float32 arrays
        sRGB-encoded; `blur` may leave [0, 1] a little at edges.
    numbers : dict
        Columns of /pairs that the frames alone tell.
    flags : tuple of str
        What is doubtful.
    """

    blur: np.ndarray
    sharp: np.ndarray
    numbers: dict[str, float]
    flags: tuple[str, ...]


def calibrate_scene(
    static: Sequence[FramePair],
    casts: Mapping[str, ColourCast],
    config: PostprocessConfig | None = None,
    *,
    whiteboard: FramePair | None = None,
    wb: tuple[float, float, float] | None = None,
) -> SceneCalibration:
    """Measure gain, white balance and flow on the static pair.

    Parameters
    ----------
    static : sequence of (B, S) frames
        Pairs of the still scene; gains and mosaics of several are averaged.
    casts : mapping of camera -> ColourCast
    whiteboard : (B, S) frames, optional
        White reference; else `wb`, else what the static frame of camera S says.
    wb : 3 floats, optional
        White balance of the session.

    Raises
    ------
    ProcessError
        The pair cannot be matched in brightness or geometry.
    """
    config = config or PostprocessConfig()
    if not static:
        raise ProcessError("the scene has no static pair", advice="Add static_B and static_S.")
    notes: list[str] = []
    gains, corrected = [], []
    for blur, sharp in static:
        mosaics = _correct_colour(blur, casts), _correct_colour(sharp, casts)
        gains.append(_pair_gain(blur, sharp, *mosaics, config.gain).rgb)
        corrected.append(mosaics)
    mosaic_gain = Gain(*(float(value) for value in np.mean(gains, axis=0)))
    blur, sharp = static[0]
    mosaic_blur, mosaic_sharp = (np.mean(frames, axis=0) for frames in zip(*corrected, strict=True))
    balance, source = _white_balance(whiteboard, wb, sharp, casts, notes)
    notes += [note for note in sharp.notes if not (source != "as shot" and "white balance" in note)]

    matrix = np.asarray(sharp.colour_matrix, np.float64)
    saturated = np.any([frame.saturated(_SATURATED) for frames in static for frame in frames], axis=0)
    rgb_blur, rgb_sharp = (
        _balanced_rgb(mosaic, frame.pattern, balance, config.develop)
        for mosaic, frame in ((apply_gain(mosaic_gain, mosaic_blur, blur.pattern), blur), (mosaic_sharp, sharp))
    )
    image_blur, image_sharp = (isp.develop(rgb, _BALANCED, matrix) for rgb in (rgb_blur, rgb_sharp))
    weights = (~_grow(saturated)).astype(np.float32)
    flow = fit_flow(image_sharp, image_blur, config.flow, weights=weights)
    if flow.note:
        notes.append(flow.note)

    # Once the frames are aligned nothing but light differs in a block, and the gain becomes exact.
    dense = flow.dense()
    valid = valid_area(dense, method=config.warp.method)
    rgb_aligned = warp(rgb_blur, dense, method=config.warp.method)
    rest = fit_gain(
        rgb_sharp,
        rgb_aligned,
        exclude=~valid | _grow(saturated, 16),
        method=config.gain.method,
        block=config.gain.block,
    )
    gain = Gain(*(first * second for first, second in zip(mosaic_gain.rgb, rest.rgb, strict=True)))
    aligned = isp.develop(apply_gain(rest, rgb_aligned), _BALANCED, matrix)

    plain = [
        isp.develop(_balanced_rgb(f.normalised(), f.pattern, f.wb, config.develop), _BALANCED, matrix)
        for f in static[0]
    ]
    grey_sharp = quality.grey(image_sharp)
    return SceneCalibration(
        casts=dict(casts),
        gain=gain,
        mosaic_gain=mosaic_gain,
        wb=balance,
        wb_source=source,
        colour_matrix=matrix,
        flow=flow,
        misalignment_before=quality.misalignment(quality.grey(plain[1]), quality.grey(plain[0])),
        misalignment_after=quality.misalignment(grey_sharp, quality.grey(aligned), valid),
        psnr_before=quality.psnr(plain[1], plain[0], valid),
        psnr_after=quality.psnr(image_sharp, aligned, valid),
        notes=tuple(notes),
        previews={
            name: _preview(image)
            for name, image in (("before", plain[0]), ("after", aligned), ("sharp", image_sharp))
        },
    )


def process_pair(
    blur: RawFrame, sharp: RawFrame, calibration: SceneCalibration, config: PostprocessConfig | None = None
) -> ProcessedPair:
    """Correct, develop and align one pair.

    Parameters
    ----------
    blur, sharp : RawFrame
        Of camera B and camera S.
    calibration : SceneCalibration
    config : PostprocessConfig, optional

    Returns
    -------
    ProcessedPair

    Raises
    ------
    ProcessError
        The frames have another size than the calibration.
    """
    config = config or PostprocessConfig()
    if blur.shape != calibration.flow.shape or sharp.shape != calibration.flow.shape:
        raise ProcessError(f"frames of {blur.shape} and {sharp.shape} do not fit the calibration")
    mosaic_blur, mosaic_sharp = _correct_colour(blur, calibration.casts), _correct_colour(sharp, calibration.casts)
    flags: list[str] = []
    try:
        own = _pair_gain(blur, sharp, mosaic_blur, mosaic_sharp, config.gain)
    except ProcessError:
        own = None
        flags.append("gain-unknown")
    gain, deviation = calibration.gain, float("nan")
    if own:
        # Both were measured before alignment, on the same background: what that costs cancels.
        ratio = [a / b for a, b in zip(own.rgb, calibration.mosaic_gain.rgb, strict=True)]
        deviation = max(abs(value - 1) for value in ratio)
        if config.gain.per_pair:
            gain = Gain(*(a * b for a, b in zip(gain.rgb, ratio, strict=True)))
        elif deviation > _GAIN_TOLERANCE:
            flags.append("gain")
    mosaic_blur = apply_gain(gain, mosaic_blur, blur.pattern)
    wb, matrix = calibration.wb, calibration.colour_matrix
    linear_blur, linear_sharp = (
        isp.to_linear_srgb(_balanced_rgb(mosaic, pattern, wb, config.develop), _BALANCED, matrix)
        for mosaic, pattern in ((mosaic_blur, blur.pattern), (mosaic_sharp, sharp.pattern))
    )
    flow = calibration.flow.dense()
    if config.warp.light == "linear":
        linear_blur = np.clip(warp(linear_blur, flow, method=config.warp.method), 0, 1)
        image_blur = isp.srgb_encode(linear_blur)
    else:
        image_blur = warp(isp.srgb_encode(linear_blur), flow, method=config.warp.method)
    image_sharp = isp.srgb_encode(linear_sharp)
    clipped = {"blur": float(blur.saturated(_SATURATED).mean()), "sharp": float(sharp.saturated(_SATURATED).mean())}
    if max(clipped.values()) > _CLIPPED_TOLERANCE:
        flags.append("clipped")
    numbers = {
        "gain_r": gain.red,
        "gain_g": gain.green,
        "gain_b": gain.blue,
        "gain_deviation": deviation,
        "clipped_blur": clipped["blur"],
        "clipped_sharp": clipped["sharp"],
        "noise_blur": quality.noise_level(quality.grey(image_blur)),
        "noise_sharp": quality.noise_level(quality.grey(image_sharp)),
        "residual_before": calibration.misalignment_before,
        "psnr_before": calibration.psnr_before,
    }
    if config.develop.output_scale == 0.5:
        image_blur, image_sharp = isp.halve(image_blur), isp.halve(image_sharp)
    return ProcessedPair(image_blur, image_sharp, numbers, tuple(flags))


def valid_pixels(calibration: SceneCalibration, config: PostprocessConfig | None = None) -> np.ndarray:
    """Pixels of the output that both cameras see.

    Returns
    -------
    (h, w) uint8 array
        255 or 0, at the output's scale.
    """
    config = config or PostprocessConfig()
    valid = valid_area(calibration.flow.dense(), method=config.warp.method).astype(np.float32)
    if config.develop.output_scale == 0.5:
        valid = isp.halve(valid)
    return np.where(valid == 1, 255, 0).astype(np.uint8)


def _correct_colour(frame: RawFrame, casts: Mapping[str, ColourCast]) -> np.ndarray:
    mosaic = frame.normalised()
    if not casts:
        return mosaic
    cast = casts.get(frame.camera)
    if cast is None:
        raise ProcessError(f"camera '{frame.camera}' has no colour calibration (there is: {', '.join(casts)})")
    if cast.pattern != frame.pattern:
        cast = replace(cast, pattern=frame.pattern)
    return apply_colour_cast(cast, mosaic)


def _balanced_rgb(
    mosaic: np.ndarray, pattern: str, wb: tuple[float, float, float], config: DevelopConfig
) -> np.ndarray:
    """Demosaiced and white-balanced linear camera RGB, (H, W, 3) float32; the smallest gain is 1."""
    smallest = min(wb)
    gains = Gain(wb[0] / smallest, wb[1] / smallest, wb[2] / smallest)
    if config.balance == "mosaic":
        return demosaic_menon(apply_gain(gains, mosaic, pattern), pattern, config.refine)
    return apply_gain(gains, demosaic_menon(mosaic, pattern, config.refine))


def _pair_gain(
    blur: RawFrame, sharp: RawFrame, mosaic_blur: np.ndarray, mosaic_sharp: np.ndarray, config: GainConfig
) -> Gain:
    saturated = blur.saturated(_SATURATED) | sharp.saturated(_SATURATED)
    return fit_gain(
        mosaic_sharp,
        mosaic_blur,
        sharp.pattern,
        blur.pattern,
        exclude=saturated,
        method=config.method,
        block=config.block,
    )


def _white_balance(
    whiteboard: FramePair | None,
    wb: tuple[float, float, float] | None,
    sharp: RawFrame,
    casts: Mapping[str, ColourCast],
    notes: list[str],
) -> tuple[tuple[float, float, float], str]:
    """Gains from the middle of camera S's whiteboard frame, else the session's, else the file's."""
    if whiteboard is not None:
        frame = whiteboard[1]
        mosaic = _correct_colour(frame, casts)
        height, width = mosaic.shape
        top, left = height // 4 // 2 * 2, width // 4 // 2 * 2
        middle = np.s_[top : top + height // 2, left : left + width // 2]
        if frame.saturated(_SATURATED)[middle].mean() > 0.001:
            notes.append("the whiteboard frame of camera S is saturated: not used")
        else:
            sums = np.zeros(3)
            for position, channel in enumerate(channel_of_position(frame.pattern)):
                plane = mosaic[middle][position // 2 :: 2, position % 2 :: 2]
                sums[channel] += np.median(plane) / (2 if channel == 1 else 1)
            if sums.min() > 0.02:
                return (float(sums[1] / sums[0]), 1.0, float(sums[1] / sums[2])), "whiteboard"
            notes.append("the whiteboard frame of camera S is too dark: not used")
    if wb is not None:
        return (wb[0] / wb[1], 1.0, wb[2] / wb[1]), "session"
    return sharp.wb, "as shot"


def _preview(image: np.ndarray, width: int = 640) -> np.ndarray:
    import cv2

    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if width < image.shape[1]:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return isp.quantise(image, 8)


def _grow(mask: np.ndarray, margin: int = 2) -> np.ndarray:
    """A mask with `margin` pixels more on every side; demosaicing spreads a saturated site by two."""
    import cv2

    side = 2 * margin + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
