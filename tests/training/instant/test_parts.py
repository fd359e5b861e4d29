"""The parts of the instant path, each against what is known."""

import numpy as np
import pytest
from scipy.fft import dctn

from relo.srgb import srgb_decode, srgb_encode
from relo.training.instant.alignment import (
    Alignment,
    _enlarged,
    apply_alignment,
    estimate_alignment,
)
from relo.training.instant.composite import composite, feathered
from relo.training.instant.matching import match_gain, match_tone
from relo.training.instant.noise import calm_strong_noise, estimate_noise
from relo.training.instant.shrinkage import _BASIS, BLOCK, measure_noise, shrink_difference

from .conftest import texture


def test_basis_is_the_cosine_transform():
    block = np.random.default_rng(0).random((BLOCK, BLOCK))
    assert np.allclose(_BASIS @ block @ _BASIS.T, dctn(block, norm="ortho"), atol=1e-5)


def test_noise_is_measured_in_every_range_of_brightness():
    rng = np.random.default_rng(1)
    deviation = np.where(np.arange(400) < 200, 0.02, 0.05).astype(np.float32)
    planes = (rng.standard_normal((3, 400, 400)) * deviation).astype(np.float32)
    level = np.broadcast_to(deviation, (400, 400)).astype(np.float32)
    corners = np.array([(y, x) for y in range(0, 384, 8) for x in (*range(0, 180, 8), *range(200, 384, 8))])
    planes[0, :40] += 5  # a few blocks with something else
    edges, variance = measure_noise(planes, level, corners)
    assert np.all(np.diff(edges) >= 0)
    for value in (0.02, 0.05):
        found = variance[np.searchsorted(edges, np.float32(value))]
        assert np.sqrt(found[1:]).mean() == pytest.approx(value, rel=0.05)
        assert np.sqrt(found[0]).mean() == pytest.approx(value, rel=0.15)


def test_noise_goes_and_differences_stay():
    rng = np.random.default_rng(2)
    truth = np.zeros((128, 160, 3), np.float32)
    truth[40:80, 50:100] = (0.3, -0.2, 0.1)
    noisy = truth + rng.normal(0, 0.03, truth.shape).astype(np.float32)
    wanted = np.zeros((128, 160), bool)
    wanted[30:90, 40:110] = True
    found = shrink_difference(noisy, np.full((128, 160), 0.5, np.float32), ~wanted, wanted)
    assert np.sqrt(np.mean((found - truth)[wanted] ** 2)) < 0.3 * 0.03
    assert not found[:10].any()
    nothing = shrink_difference(noisy - truth, np.full((128, 160), 0.5, np.float32), ~wanted, wanted)
    assert np.sqrt(np.mean(nothing[wanted] ** 2)) < 0.2 * 0.03


def test_gains_are_those_of_linear_light():
    rng = np.random.default_rng(3)
    light = rng.uniform(0.05, 0.6, (60, 80, 3)).astype(np.float32)
    static = np.ones((60, 80), bool)
    static[:30] = False
    blur = srgb_encode(light)
    blur[:30] = 0.1
    short = srgb_encode(light * np.array([0.5, 0.25, 0.125], np.float32))
    matched, gains = match_gain(blur, short, static)
    assert gains == pytest.approx((2, 4, 8), rel=1e-4)
    assert np.allclose(matched, srgb_encode(light), atol=1e-5)
    sixteen = np.rint(65535 * short).astype(np.uint16)
    assert np.allclose(match_gain(blur, sixteen, static)[0], matched, atol=1e-3)


def test_tones_and_contrast_are_matched():
    rng = np.random.default_rng(4)
    x = np.arange(160)
    blur = (0.5 + 0.3 * np.sin(x / 25) + 0.05 * rng.standard_normal((120, 160))).clip(0, 1)
    blur = np.repeat(blur[..., None], 3, axis=2).astype(np.float32)
    short = (0.8 * blur + 0.05).astype(np.float32)
    found = match_tone(blur, short, np.ones((120, 160), bool))
    assert np.abs(found - blur)[10:-10, 10:-10].mean() < 0.01 < np.abs(short - blur).mean()


def test_noise_of_an_image():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:200, :220]
    clean = np.repeat((0.4 + 0.2 * (x // 40 % 2) + 0.1 * np.sin(y / 9))[..., None], 3, axis=2).astype(np.float32)
    weak, strong = (clean + rng.normal(0, sigma, clean.shape).astype(np.float32) for sigma in (0.03, 0.2))
    assert estimate_noise(weak) == pytest.approx(0.03, rel=0.1)
    assert calm_strong_noise(weak) is weak
    calm = calm_strong_noise(np.clip(strong, 0, 1))
    assert estimate_noise(calm) < 0.1
    assert srgb_decode(calm).mean() == pytest.approx(srgb_decode(np.clip(strong, 0, 1)).mean(), rel=0.01)


def test_the_map_of_reduced_frames_is_that_of_whole_ones():
    """Reduced by 4, pixel X lies at 4 X + 1.5 of the whole frame."""
    small = np.array([[1.01, 0.02, 1.5], [-0.01, 0.99, -2.0]])
    whole = _enlarged(small, 4, 4)
    for place in ((3.0, 5.0), (100.0, 40.0)):
        there = small @ (*place, 1)
        assert np.allclose(whole @ (4 * place[0] + 1.5, 4 * place[1] + 1.5, 1), 4 * there + 1.5)


def test_convention_of_the_alignment():
    short = np.random.default_rng(6).random((20, 30, 3)).astype(np.float32)
    shift = Alignment(np.array([[1.0, 0, 3], [0, 1.0, -2]]), 1.0, 3.6)
    moved, seen = apply_alignment(shift, short)
    assert np.allclose(moved[2:, :-3], short[:-2, 3:], atol=1e-6)
    assert seen[2:, :-3].all() and not seen[:2].any() and not seen[:, -3:].any()


@pytest.mark.parametrize("shift", [(0, 4), (-3, 2), (40, -25)])
def test_foreign_rows_at_the_border_do_not_bend_the_alignment(shift):
    rng = np.random.default_rng(0)
    brightness = np.linspace(0.05, 1, 240)[:, None, None] * np.linspace(1, 0.3, 320)[:, None]
    image = (texture(rng, (240, 320)) * brightness).astype(np.float32)
    static = np.ones((240, 320), bool)
    static[60:180, 100:240] = False
    short = np.roll(image, shift[::-1], (0, 1))  # what leaves at one side comes in at the other
    matrix = estimate_alignment(image, short, static, search_range=64).matrix
    corners = np.array([[0, 0, 1], [319, 0, 1], [0, 239, 1], [319, 239, 1]], float)
    assert corners @ matrix.T == pytest.approx(corners[:, :2] + shift, abs=0.15)


@pytest.mark.parametrize("ring", [0, 9, 18, 30])
def test_a_narrow_ring_without_motion_aligns(ring):
    """Where next to nothing stands still away from the border, all of the frame has to do."""
    image = texture(np.random.default_rng(0), (240, 320))
    static = np.ones((240, 320), bool)
    static[ring : 240 - ring, ring : 320 - ring] = False
    found = estimate_alignment(image, np.roll(image, (3, -4), (0, 1)), static, search_range=64)
    assert found.matrix[:, 2] == pytest.approx([-4, 3], abs=0.1)


@pytest.mark.parametrize("size", [(240, 320), (241, 323)])
def test_frames_that_are_the_same_correlate_whatever_their_size(size):
    """Sizes that suit the Fourier transform are where OpenCV's phase correlation changes what it is given."""
    image = texture(np.random.default_rng(0), size)
    found = estimate_alignment(image, image.copy(), np.ones(size, bool), search_range=64)
    assert found.correlation == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 8), (40, 50)])
def test_tiny_frames_are_aligned_or_left(size):
    image = texture(np.random.default_rng(0), size)
    found = estimate_alignment(image, image, np.ones(size, bool), search_range=64)
    assert found.displacement < 0.1


def test_opacity_rises_inside_of_the_mask_only():
    mask = np.zeros((9, 12), bool)
    mask[:, 4:] = True
    assert np.allclose(feathered(mask, 2)[4], [0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert np.array_equal(feathered(mask, 0), mask)
    assert feathered(np.ones((3, 4), bool), 5).all()


def test_composite():
    image = np.array([[[10, 20, 30], [10, 20, 30], [10, 20, 30]]], np.uint16)
    restored = np.full((1, 3, 3), 1000 / 65535, np.float32)
    restored[0, 2] = 2
    found = composite(image, restored, np.array([[0, 0.5, 1]], np.float32))
    assert found.tolist() == [[[10, 20, 30], [505, 510, 515], [65535] * 3]]
    assert found.dtype == np.uint16
