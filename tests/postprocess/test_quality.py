"""Quality numbers against known shifts, errors and noise."""

import numpy as np
import pytest

from relo.postprocess import quality

SHAPE = (260, 330)


def shifted(dx: float, dy: float) -> np.ndarray:
    """A texture with the 1/f spectrum of photographs, moved exactly by its phases: result(x) = texture(x + d)."""
    fy, fx = np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(np.random.default_rng(9).normal(size=(512, 512))) / frequency * (frequency < 0.35)
    texture = np.fft.irfft2(spectrum * np.exp(2j * np.pi * (fx * dx + fy * dy)))
    return (0.5 + 0.15 * texture / np.abs(np.fft.irfft2(spectrum)).std())[: SHAPE[0], : SHAPE[1]].astype(np.float32)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.1), (-0.8, 0.45), (2.6, -3.3), (-7.2, 5.5)])
def test_misalignment_is_the_shift(dx, dy):
    result = quality.misalignment(shifted(0, 0), shifted(dx, dy)).length
    assert result == pytest.approx(np.hypot(dx, dy), abs=0.02 + 0.01 * np.hypot(dx, dy))


def test_noise_hardly_matters():
    rng = np.random.default_rng(0)
    images = [shifted(dx, 0) + rng.normal(0, 0.02, SHAPE).astype(np.float32) for dx in (0, 0.4)]
    assert quality.misalignment(*images).length == pytest.approx(0.4, abs=0.05)


def test_only_static_blocks_count():
    target, moving = shifted(0, 0), shifted(0.2, 0)
    moving[:, :200] = shifted(2.2, 0)[:, :200]
    static = np.zeros(SHAPE, bool)
    static[:, 200:] = True
    assert quality.misalignment(target, moving, static).length == pytest.approx(0.2, abs=0.02)
    assert quality.misalignment(target, moving).length > 1


def test_nothing_to_compare():
    flat = np.full(SHAPE, 0.5, np.float32)
    assert np.isnan(quality.misalignment(flat, flat).length)
    assert np.isnan(quality.misalignment(shifted(0, 0), shifted(0, 0), np.zeros(SHAPE, bool)).length)
    assert np.isnan(quality.misalignment(flat[:50, :50], flat[:50, :50]).length)


def test_psnr():
    target = np.random.default_rng(1).random((20, 30, 3)).astype(np.float32)
    # an error of 0.1 everywhere is 20 dB
    assert quality.psnr(target, target + np.float32(0.1)) == pytest.approx(20, abs=1e-4)
    assert quality.psnr(target, target) == float("inf")
    image = target.copy()
    image[:, :10] += 0.5
    image[:, 10:] += 0.01
    static = np.zeros((20, 30), bool)
    static[:, 10:] = True
    assert quality.psnr(target, image, static) == pytest.approx(40, abs=1e-3)
    assert np.isnan(quality.psnr(target, image, np.zeros((20, 30), bool)))


@pytest.mark.parametrize("sigma", [0.002, 0.01, 0.05])
def test_noise_level(picture, sigma):
    rng = np.random.default_rng(2)
    rows, columns = np.indices((320, 480))
    clean = 0.2 + 0.001 * columns + 0.0005 * rows
    clean[:, :240] = picture(columns, rows)[:, :240]  # half of the frame is texture
    measured = quality.noise_level((clean + rng.normal(0, sigma, clean.shape)).astype(np.float32))
    # the tenth percentile over blocks lies a little below the mean
    assert 0.75 * sigma < measured < 1.05 * sigma


def test_noise_level_of_nothing():
    assert quality.noise_level(np.full((64, 64), 0.3, np.float32)) == pytest.approx(0, abs=1e-6)
    assert np.isnan(quality.noise_level(np.zeros((8, 8), np.float32)))
