"""The difference of the two frames of a pair: its noise, its shadows, its limits."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from relo.masks.config import PairConfig
from relo.masks.pair import background_median, difference, matched, noise_curve, pair_foreground
from relo.srgb import srgb_decode, srgb_encode

SHAPE = (120, 160)


def photograph(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return cv2.resize(data.coffee(), shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)


def noisy(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, image.shape) * sigma
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [3.0, 4.0, 8.0])
def test_the_noise_is_found(sigma):
    image = np.clip(photograph((400, 600)), 40, 215)
    curve = noise_curve(noisy(image, sigma, 1), noisy(image, sigma, 2))
    assert curve.dtype == np.float32
    assert curve[40:216] == pytest.approx(np.full(176, sigma), rel=0.1)


def test_what_moves_raises_the_noise_to_twice_the_usual_at_most():
    image = np.clip(photograph((400, 600)), 40, 215)
    first, second = noisy(image, 3, 1), noisy(image, 3, 2)
    first[100:250, 150:400], second[100:250, 150:400] = (
        (30, 230, 120),
        (90, 250, 180),
    )  # all there is at these levels
    curve = noise_curve(first, second)
    assert 2.5 < np.median(curve) < 3.5
    assert curve.max() < 2.2 * 3


def test_strength_is_in_standard_deviations():
    image = np.full((300, 400, 3), 120.0)
    found = difference(noisy(image, 3, 1), noisy(image, 3, 2), PairConfig())
    # The mean of the squares of three channels of unit variance.
    assert np.mean(found.strength**2) == pytest.approx(1, abs=0.05)
    assert (found.strength > 4).mean() < 1e-4


@pytest.mark.parametrize("sigma", [0.0, 0.5, 3.0, 10.0])
def test_what_is_still_has_not_moved(sigma):
    image = photograph()
    moved, _ = pair_foreground(noisy(image, sigma, 1), noisy(image, sigma, 2), None, PairConfig())
    assert moved.mean() < 0.002


def test_edges_that_lie_a_tenth_of_a_pixel_apart_have_not_moved():
    image = photograph()
    shifted = ndimage.shift(image, (0, 0.1, 0), order=3, mode="nearest")
    first, second = noisy(image, 2, 1), noisy(shifted, 2, 2)
    assert pair_foreground(first, second, None, PairConfig())[0].mean() < 0.002
    aware, unaware = (
        difference(first, second, PairConfig(misalignment_px=allowed)).strength.max() for allowed in (0.1, 0.0)
    )
    assert unaware > 1.2 * aware


@pytest.mark.parametrize("quality", [60, 80, 95])
def test_compression_is_no_movement(quality):
    """A still scene, its frames compressed by themselves: blocks differ by several levels."""
    image = photograph((240, 320))
    frames = [
        np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", noisy(image, 1, seed), [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
        )
        for seed in (1, 2)
    ]
    assert pair_foreground(frames[0], frames[1], None, PairConfig())[0].mean() < 0.002


def test_a_difference_of_one_level_is_no_movement():
    sharp = np.clip(photograph(), 0, 250).astype(np.uint8)
    target = sharp.copy()
    target[30:80, 40:110] += 1
    assert not pair_foreground(target, sharp, None, PairConfig())[0].any()


def test_another_brightness_is_no_movement():
    image = np.clip(photograph(), 20, 220)
    target, sharp = noisy(image * (1.06, 0.97, 1.02), 2, 1), noisy(image, 2, 2)
    assert pair_foreground(target, sharp, None, PairConfig())[0].mean() < 0.002
    gains = matched(target, sharp).mean(axis=(0, 1)) / sharp.mean(axis=(0, 1))
    assert gains == pytest.approx(np.ones(3), abs=0.01)


def test_a_moving_shadow_is_no_blur_but_an_object_is():
    image = np.clip(photograph((240, 320)), 30, 230)
    light = srgb_decode(image / 255)
    blurred, sharp = light.copy(), light.copy()
    blurred[60:160, 40:120] *= 0.6
    sharp[60:160, 64:144] *= 0.55
    blurred[60:160, 200:260] = 0.5 * blurred[60:160, 200:260] + 0.5 * np.array([0.7, 0.1, 0.1])
    frames = [noisy(255 * srgb_encode(part), 1.5, seed) for seed, part in enumerate((blurred, sharp))]
    background = noisy(image, 1.5, 7)
    moved, shadow = pair_foreground(*frames, background, PairConfig())
    inner_shadow, inner_object = np.s_[70:150, 45:59], np.s_[70:150, 205:255]
    assert moved[inner_object].mean() > 0.95
    assert moved[inner_shadow].mean() < 0.1
    assert shadow[inner_shadow].mean() > 0.9
    with_shadow, _ = pair_foreground(*frames, background, PairConfig(detect_shadows=False))
    assert with_shadow[inner_shadow].mean() > 0.8


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_the_median_is_numpys(count):
    frames = list(np.random.default_rng(count).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8))
    assert np.array_equal(background_median(frames), np.sort(frames, axis=0)[count // 2])
