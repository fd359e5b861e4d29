"""The corrections in their order: from two RAW frames to an aligned pair of display images.

black/white -> colour cast -> gain (camera B) -> white balance -> Menon demosaic -> matrix, sRGB -> warp
(camera B) -> optional halving -> quantisation. What a scene needs for that is measured once, on its static
pair, and is a `SceneCalibration`. The paper balances after demosaicing; why relo does it before stands in
docs/decisions/0003-white-balance-first.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relo.capture.frame import RawFrame
from relo.errors import ProcessError
from relo.postprocess import isp, quality
from relo.postprocess.calibration import SceneCalibration
from relo.postprocess.photometric import apply_gain
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

# A pair whose own gain differs by more than this from the scene's has flicker or an exposure fault.
_GAIN_TOLERANCE = 0.02
_CLIPPED_TOLERANCE = 0.05


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
    mosaic_blur, mosaic_sharp = correct_colour(blur, calibration.casts), correct_colour(sharp, calibration.casts)
    flags: list[str] = []
    try:
        own = pair_gain(blur, sharp, mosaic_blur, mosaic_sharp, config.gain)
    except ProcessError:
        own = None
        flags.append("gain-unknown")
    gain, deviation = calibration.gain, float("nan")
    if own:
        # Both were measured before alignment, on the same background: what that costs cancels.
        red, green, blue = (a / b for a, b in zip(own.rgb, calibration.mosaic_gain.rgb, strict=True))
        deviation = max(abs(value - 1) for value in (red, green, blue))
        if config.gain.per_pair:
            gain = gain.times((red, green, blue))
        elif deviation > _GAIN_TOLERANCE:
            flags.append("gain")
    mosaic_blur = apply_gain(gain, mosaic_blur, blur.pattern)
    wb, matrix = calibration.wb, calibration.colour_matrix
    rgb_blur = balanced_rgb(mosaic_blur, blur.pattern, wb, config.develop)
    rgb_sharp = balanced_rgb(mosaic_sharp, sharp.pattern, wb, config.develop)
    flow = calibration.flow.dense()
    if config.warp.light == "linear":
        linear = resample(isp.to_linear_srgb(rgb_blur, BALANCED, matrix), flow, config.warp)
        image_blur = isp.srgb_encode(np.clip(linear, 0, 1))
    else:
        image_blur = resample(isp.develop(rgb_blur, BALANCED, matrix), flow, config.warp)
    image_sharp = isp.develop(rgb_sharp, BALANCED, matrix)
    clipped_blur, clipped_sharp = (
        np.count_nonzero(frame.saturated(SATURATED)) / frame.mosaic.size for frame in (blur, sharp)
    )
    if max(clipped_blur, clipped_sharp) > _CLIPPED_TOLERANCE:
        flags.append("clipped")
    numbers = {
        "gain_r": gain.red,
        "gain_g": gain.green,
        "gain_b": gain.blue,
        "gain_deviation": deviation,
        "clipped_blur": clipped_blur,
        "clipped_sharp": clipped_sharp,
        "noise_blur": quality.noise_level(isp.grey(image_blur)),
        "noise_sharp": quality.noise_level(isp.grey(image_sharp)),
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
