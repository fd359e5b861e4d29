"""What a scene needs to be corrected, measured once on its static pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from relo.capture.frame import RawFrame, channel_of_position
from relo.errors import ProcessError
from relo.postprocess import isp, quality
from relo.postprocess.colour import ColourCast
from relo.postprocess.flow.auto import fit_flow
from relo.postprocess.flow.model import FlowModel
from relo.postprocess.photometric import Gain, apply_gain, average_gains, fit_gain
from relo.postprocess.resample import valid_area
from relo.postprocess.steps import (
    BALANCED,
    SATURATED,
    PostprocessConfig,
    balanced_rgb,
    correct_colour,
    pair_gain,
    resample,
)

# A whiteboard pair whose gain differs by more than this from the static pair's was taken in other light.
_GAIN_AGREEMENT = 0.005

FramePair = tuple[RawFrame, RawFrame]
"""A frame of camera B and the one of camera S that belongs to it."""


@dataclass(frozen=True, eq=False)
class SceneCalibration:
    """What every pair of a scene is corrected with.

    Attributes
    ----------
    casts : mapping of camera -> ColourCast
        Empty where the colour correction is switched off.
    gain : Gain
        Brings camera B to camera S, measured on the aligned static pair and the whiteboard pair.
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
    static : tuple of (H, W, 3) float32 arrays
        The static pair, corrected and aligned: of camera B and camera S, the mean of several.
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
    static: tuple[np.ndarray, ...] = ()


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
        White reference, for the white balance (else `wb`, else what the static frame of camera S says), and
        for the gain: a bright, even field tells it more precisely than a scene, from less noise.
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
        mosaics = correct_colour(blur, casts), correct_colour(sharp, casts)
        gains.append(pair_gain(blur, sharp, *mosaics, config.gain))
        corrected.append(mosaics)
    mosaic_gain = average_gains(gains)
    blur, sharp = static[0]
    mosaic_blur, mosaic_sharp = (np.mean(frames, axis=0) for frames in zip(*corrected, strict=True))
    board = whiteboard and (correct_colour(whiteboard[0], casts), correct_colour(whiteboard[1], casts))
    balance, source = _white_balance(whiteboard, board, wb, sharp, notes)
    notes += [note for note in sharp.notes if not (source != "as shot" and "white balance" in note)]

    matrix = np.asarray(sharp.colour_matrix, np.float64)
    saturated = np.any([frame.saturated(SATURATED) for frames in static for frame in frames], axis=0)
    rgb_blur, rgb_sharp = (
        balanced_rgb(mosaic, frame.pattern, balance, config.develop)
        for mosaic, frame in ((apply_gain(mosaic_gain, mosaic_blur, blur.pattern), blur), (mosaic_sharp, sharp))
    )
    image_blur, image_sharp = (isp.develop(rgb, BALANCED, matrix) for rgb in (rgb_blur, rgb_sharp))
    weights = (~_grow(saturated)).astype(np.float32)
    flow = fit_flow(image_sharp, image_blur, config.flow, weights=weights)
    if flow.note:
        notes.append(flow.note)

    # Once the frames are aligned nothing but light differs in a block, and the gain becomes exact.
    dense = flow.dense()
    valid = valid_area(dense, method=config.warp.method)
    rgb_aligned = resample(rgb_blur, dense, config.warp)
    rest = fit_gain(
        rgb_sharp,
        rgb_aligned,
        exclude=~valid | _grow(saturated, 16),
        method=config.gain.method,
        block=config.gain.block,
    )
    gain = _refined_gain(mosaic_gain, rest, balance, whiteboard, board, config, notes)
    aligned = isp.develop(apply_gain(rest, rgb_aligned), BALANCED, matrix)

    plain = [
        isp.develop(balanced_rgb(f.normalised(), f.pattern, f.wb, config.develop), BALANCED, matrix)
        for f in static[0]
    ]
    grey_sharp = isp.grey(image_sharp)
    return SceneCalibration(
        casts=dict(casts),
        gain=gain,
        mosaic_gain=mosaic_gain,
        wb=balance,
        wb_source=source,
        colour_matrix=matrix,
        flow=flow,
        misalignment_before=quality.misalignment(isp.grey(plain[1]), isp.grey(plain[0])).length,
        misalignment_after=quality.misalignment(grey_sharp, isp.grey(aligned), valid).length,
        psnr_before=quality.psnr(plain[1], plain[0], valid),
        psnr_after=quality.psnr(image_sharp, aligned, valid),
        notes=tuple(notes),
        previews={
            name: _preview(image)
            for name, image in (("before", plain[0]), ("after", aligned), ("sharp", image_sharp))
        },
        static=(aligned, image_sharp),
    )


def _refined_gain(
    mosaic_gain: Gain,
    rest: Gain,
    balance: tuple[float, float, float],
    whiteboard: FramePair | None,
    board: tuple[np.ndarray, np.ndarray] | None,
    config: PostprocessConfig,
    notes: list[str],
) -> Gain:
    """Gain of the aligned static pair, averaged with the whiteboard's where that agrees."""
    # Measured on balanced frames: back to the light that the sensor saw.
    red, green, blue = (light / gain * min(balance) for light, gain in zip(rest.light, balance, strict=True))
    scene = replace(rest.times(mosaic_gain.rgb), light=(red, green, blue))
    if whiteboard is None or board is None:
        return scene
    try:
        even = pair_gain(*whiteboard, *board, config.gain)
    except ProcessError as error:
        notes.append(f"the whiteboard pair tells no gain: {error.reason}")
        return scene
    difference = max(abs(a / b - 1) for a, b in zip(even.rgb, scene.rgb, strict=True))
    if difference > _GAIN_AGREEMENT:
        notes.append(
            f"the gain of the whiteboard pair differs by {100 * difference:.1f} % from that of the static pair: "
            "not used (other exposures, or light that flickers?)"
        )
        return scene
    return average_gains([scene, even])


def _white_balance(
    whiteboard: FramePair | None,
    board: tuple[np.ndarray, np.ndarray] | None,
    wb: tuple[float, float, float] | None,
    sharp: RawFrame,
    notes: list[str],
) -> tuple[tuple[float, float, float], str]:
    """Gains from the middle of camera S's whiteboard frame, else the session's, else the file's.

    `board` are the whiteboard's mosaics, colour-corrected.
    """
    if whiteboard is not None and board is not None:
        frame, mosaic = whiteboard[1], board[1]
        height, width = mosaic.shape
        top, left = height // 4 // 2 * 2, width // 4 // 2 * 2
        middle = np.s_[top : top + height // 2, left : left + width // 2]
        if frame.saturated(SATURATED)[middle].mean() > 0.001:
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
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if width < image.shape[1]:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return isp.quantise(image, 8)


def _grow(mask: np.ndarray, margin: int = 2) -> np.ndarray:
    """A mask with `margin` pixels more on every side; demosaicing spreads a saturated site by two."""
    side = 2 * margin + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
