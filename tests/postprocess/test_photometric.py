"""The gain between the cameras, under everything that may lie in a block."""

import numpy as np
import pytest
from scipy import ndimage

from relo.capture.frame import PATTERNS, channel_of_position
from relo.errors import ProcessError
from relo.postprocess.photometric import Gain, GainConfig, apply_gain, average_gains, fit_gain

TRUE = (1 / 1.07, 1 / 0.96, 1.11)
SHAPE = (320, 480)


def scene(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.stack([ndimage.gaussian_filter(rng.random(shape), 4) for _ in range(3)], axis=-1)
    return 0.1 + 0.5 * (image - image.min()) / np.ptp(image)


def mosaic(image: np.ndarray, pattern: str) -> np.ndarray:
    rows, columns = np.indices(image.shape[:2])
    channel = np.array(channel_of_position(pattern))[2 * (rows % 2) + columns % 2]
    return np.take_along_axis(image, channel[..., None], axis=2)[..., 0].astype(np.float32)


def pair(pattern: str = "RGGB", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Camera S and camera B before the same scene, with noise."""
    rng = np.random.default_rng(seed + 100)
    sharp = scene(seed)
    blur = sharp / np.array(TRUE)
    noisy = [mosaic(image, pattern) + rng.normal(0, 0.005, SHAPE).astype(np.float32) for image in (sharp, blur)]
    return noisy[0], noisy[1]


def error(gain: Gain) -> float:
    return float(np.abs(np.array(gain.rgb) / TRUE - 1).max())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", ["robust", "mean"])
def test_clean_pair(pattern, method):
    sharp, blur = pair(pattern)
    assert error(fit_gain(sharp, blur, pattern, method=method)) < 5e-4


def test_direction_blur_times_gain_is_sharp():
    sharp, blur = pair()
    gain = fit_gain(sharp, blur, "RGGB")
    assert abs(apply_gain(gain, blur, "RGGB").mean() / sharp.mean() - 1) < 1e-3


def test_mean_method_is_the_ratio_of_means():
    sharp, blur = pair("GRBG")
    gain = fit_gain(sharp, blur, "GRBG", method="mean", block=32)
    expected = [
        sharp[0::2, 1::2].mean() / blur[0::2, 1::2].mean(),
        (sharp[0::2, 0::2].mean() + sharp[1::2, 1::2].mean()) / (blur[0::2, 0::2].mean() + blur[1::2, 1::2].mean()),
        sharp[1::2, 0::2].mean() / blur[1::2, 0::2].mean(),
    ]
    assert gain.rgb == pytest.approx(expected, rel=1e-5)


def test_an_object_that_crosses_the_border_moves_the_mean_and_not_the_robust_one():
    sharp, blur = pair()
    blur = blur.copy()
    blur[100:220, :130] *= 0.3  # only in B: it left the frame of S
    assert error(fit_gain(sharp, blur, "RGGB")) < 1e-3
    assert error(fit_gain(sharp, blur, "RGGB", method="mean")) > 0.02


def test_saturated_sites_can_be_excluded():
    sharp, blur = pair()
    sharp, blur = sharp.copy(), blur.copy()
    bright = np.zeros(SHAPE, bool)
    bright[40:300, 20:420] = True
    sharp[bright], blur[bright] = 1.0, 1.0
    assert error(fit_gain(sharp, blur, "RGGB", exclude=np.zeros(SHAPE, bool))) > 5e-3
    assert error(fit_gain(sharp, blur, "RGGB", exclude=bright)) < 1e-3
    assert error(fit_gain(sharp, blur, "RGGB")) < 1e-3  # what reaches white is left out unasked
    assert error(fit_gain(sharp, blur, "RGGB", exclude=bright, method="mean")) < 1e-3


def test_two_hundredths_of_a_percent_with_a_moving_object_and_saturation():
    """Issue of accuracy: an object that crosses the border and 2 % of the frame at white."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        shape = (720, 1080)
        sharp = scene(seed, shape) * 0.7
        blur = sharp / np.array(TRUE)
        blur[250:480, :170] *= 0.3
        sharp[100:190, 600:780] = blur[100:190, 600:780] = 1.4
        electrons = 30_000
        frames = [
            np.clip(rng.poisson(mosaic(image, "RGGB") * electrons) / electrons, 0, 1).astype(np.float32)
            for image in (sharp, blur)
        ]
        assert error(fit_gain(*frames, "RGGB")) < 2e-4


def test_gains_are_averaged_by_the_light_they_were_measured_on():
    first, second = Gain(1.0, 2.0, 4.0, (1.0, 2.0, 3.0)), Gain(2.0, 3.0, 5.0, (3.0, 2.0, 1.0))
    mean = average_gains([first, second])
    assert mean.rgb == pytest.approx((1.75, 2.5, 4.25))
    assert mean.light == (4.0, 4.0, 4.0)


def test_light_is_the_signal_of_the_usable_blocks():
    sharp = np.full((64, 96), 0.5, np.float32)
    exclude = np.zeros((64, 96), bool)
    exclude[:32, :32] = True
    gain = fit_gain(sharp, sharp, "RGGB", exclude=exclude, block=16)
    assert gain.rgb == pytest.approx((1, 1, 1))
    assert gain.light == pytest.approx((0.5 * (64 * 96 - 32 * 32),) * 3)


def test_nan_is_an_error():
    sharp, blur = pair()
    blur = blur.copy()
    blur[5, 5] = np.nan
    with pytest.raises(ProcessError, match="NaN"):
        fit_gain(sharp, blur, "RGGB")


def test_misalignment_of_some_pixels_costs_tenths_of_a_percent():
    sharp, blur = pair()
    moved = np.roll(blur, 4, axis=1)  # even: the CFA phase stays
    assert error(fit_gain(sharp[:, 16:], moved[:, 16:], "RGGB", block=32)) < 5e-3


def test_a_mirrored_camera_has_another_pattern():
    sharp, blur = scene(), scene() / np.array(TRUE)
    gain = fit_gain(mosaic(sharp, "RGGB"), mosaic(blur, "GRBG"), "RGGB", "GRBG")
    assert error(gain) < 5e-3
    assert error(fit_gain(mosaic(sharp, "RGGB"), mosaic(blur, "GRBG"), "RGGB")) > 0.05


def test_images():
    sharp = scene().astype(np.float32)
    blur = (sharp / np.array(TRUE)).astype(np.float32)
    assert error(fit_gain(sharp, blur)) < 1e-5
    assert np.abs(apply_gain(Gain(*TRUE), blur) - sharp).max() < 1e-6


@pytest.mark.parametrize("shape", [(8, 8), (9, 11), (33, 47), (64, 8)])
def test_small_and_odd_frames(shape):
    sharp = mosaic(scene(shape=(64, 64))[: shape[0], : shape[1]], "BGGR")
    gain = fit_gain(sharp, sharp / np.float32(1.25), "BGGR")
    assert gain.rgb == pytest.approx((1.25,) * 3, rel=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_apply_multiplies_each_site_by_its_own_channel(pattern):
    image = np.random.default_rng(1).random((7, 9, 3)).astype(np.float32)
    frame = mosaic(image, pattern)
    frame.setflags(write=False)
    image.setflags(write=False)
    gain = Gain(0.5, 2.0, 4.0)
    assert np.array_equal(apply_gain(gain, frame, pattern), mosaic(image * np.array(gain.rgb), pattern))


def test_inputs_are_not_modified():
    sharp, blur = pair()
    exclude = np.zeros(SHAPE, bool)
    for array in (sharp, blur, exclude):
        array.setflags(write=False)
    fit_gain(sharp, blur, "RGGB", exclude=exclude)


def test_what_cannot_be_matched():
    sharp, blur = pair()
    with pytest.raises(ProcessError, match="too few blocks") as caught:
        fit_gain(sharp, blur, "RGGB", exclude=np.ones(SHAPE, bool))
    assert caught.value.advice
    with pytest.raises(ProcessError, match="too few blocks"):
        fit_gain(sharp * 0.001, blur, "RGGB")
    with pytest.raises(ProcessError, match="no positive number"):
        fit_gain(-sharp, blur, "RGGB", method="mean")
    with pytest.raises(ValueError, match="size"):
        fit_gain(sharp, blur[:-2], "RGGB")
    with pytest.raises(ValueError, match="pattern"):
        fit_gain(sharp, blur)
    with pytest.raises(ValueError, match="pattern"):
        apply_gain(Gain(1, 1, 1), sharp)


@pytest.mark.parametrize("block", [0, 1, 33])
def test_blocks_hold_whole_cells(block):
    sharp, blur = pair()
    with pytest.raises(ValueError, match="even"):
        fit_gain(sharp, blur, "RGGB", block=block)
    with pytest.raises(ValueError, match="block"):
        GainConfig(block=block)
