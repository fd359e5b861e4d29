"""White balance, matrix, sRGB curve, quantisation, halving."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import color
from skimage.color.colorconv import xyz_from_rgb

from relo.postprocess import isp

MATRIX = np.array([[1.62, -0.47, -0.15], [-0.21, 1.53, -0.32], [0.02, -0.48, 1.46]])


def closed_form(value: float) -> float:
    """IEC 61966-2-1, in Python floats."""
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


@settings(deadline=None)
@given(st.floats(0, 1))
def test_srgb_curve(value):
    encoded = float(isp.srgb_encode(np.float32(value)))
    assert encoded == pytest.approx(closed_form(float(np.float32(value))), abs=2e-6)


def test_srgb_decode_is_that_of_skimage():
    image = np.random.default_rng(0).random((20, 30, 3))
    xyz = isp.srgb_decode(image) @ xyz_from_rgb.T
    assert np.abs(xyz - color.rgb2xyz(image)).max() < 1e-6


def test_encode_and_decode_are_inverse_for_every_16_bit_code():
    codes = np.arange(65536) / 65535
    assert np.abs(isp.srgb_encode(isp.srgb_decode(codes)) - codes).max() < 2e-6
    assert np.array_equal(isp.quantise(isp.srgb_encode(isp.srgb_decode(codes)), 16), np.arange(65536))
    assert (np.diff(isp.srgb_encode(codes)) > 0).all()


def test_develop_pixel_by_pixel():
    rng = np.random.default_rng(1)
    rgb = rng.uniform(-0.1, 1.3, (9, 11, 3)).astype(np.float32)
    rgb.setflags(write=False)
    wb = (2.1, 1.0, 1.6)
    result = isp.develop(rgb, wb, MATRIX)
    assert result.dtype == np.float32
    for y, x in np.ndindex(9, 11):
        balanced = [min(max(float(value) * gain, 0.0), 1.0) for value, gain in zip(rgb[y, x], wb, strict=True)]
        for channel in range(3):
            linear = sum(float(MATRIX[channel, k]) * balanced[k] for k in range(3))
            assert result[y, x, channel] == pytest.approx(closed_form(min(max(linear, 0.0), 1.0)), abs=3e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_only_the_ratio_of_the_gains_counts(scale):
    rgb = np.random.default_rng(2).random((5, 6, 3)).astype(np.float32)
    gains = np.array([2.1, 1.0, 1.6])
    assert isp.develop(rgb, scale * gains, MATRIX) == pytest.approx(isp.develop(rgb, gains, MATRIX), abs=1e-6)


def test_clipped_highlights_are_white_and_not_magenta():
    # The sensor clips all channels at 1; without the clip after the gains red would be twice green.
    assert isp.develop(np.ones((1, 1, 3), np.float32), (2.1, 1.0, 1.6), MATRIX).ravel() == pytest.approx([1, 1, 1])


def test_grey_stays_grey():
    grey = np.linspace(0, 1, 50)[:, None, None] / np.array([2.1, 1.0, 1.6])
    result = isp.develop(grey.astype(np.float32), (2.1, 1.0, 1.6), MATRIX)
    assert np.ptp(result, axis=2).max() < 2e-6


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_quantise(bits, dtype):
    top = 2**bits - 1
    codes = np.arange(top + 1, dtype=np.float64)
    for offset in (-0.4, 0.0, 0.4):
        result = isp.quantise((codes + offset) / top, bits)
        assert result.dtype == dtype
        assert np.array_equal(result, codes)
    assert isp.quantise(np.array([-3.0, 5.0], np.float32), bits).tolist() == [0, top]
    with pytest.raises(ValueError, match="bits"):
        isp.quantise(codes, 12)


def test_quantise_leaves_its_input_alone():
    image = np.random.default_rng(3).random((4, 5, 3)).astype(np.float32)
    image.setflags(write=False)
    before = image.copy()
    isp.quantise(image, 8)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(2, 2), (6, 8, 3), (7, 9, 3), (5, 4)])
def test_halve(shape):
    image = np.random.default_rng(4).random(shape).astype(np.float32)
    image.setflags(write=False)
    result = isp.halve(image)
    assert result.shape == (shape[0] // 2, shape[1] // 2, *shape[2:])
    for y, x in np.ndindex(result.shape[:2]):
        block = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, -1).mean(axis=0)
        assert result[y, x].ravel() == pytest.approx(block, abs=1e-6)


def test_grey_is_the_luma_of_bt601():
    image = np.eye(3, dtype=np.float32)[None]
    assert isp.grey(image).ravel() == pytest.approx([0.299, 0.587, 0.114])
    assert isp.grey(np.ones((2, 2, 3))) == pytest.approx(np.ones((2, 2)))


def test_nan_becomes_black():
    rgb = np.full((4, 5, 3), 0.5, np.float32)
    rgb[1, 2, 0] = rgb[3, 4] = np.nan
    for image in (isp.develop(rgb, (1, 1, 1), np.eye(3)), isp.to_linear_srgb(rgb, (1, 1, 1), np.eye(3))):
        assert np.isfinite(image).all()
        assert image[1, 2, 0] == 0
        assert image[1, 2, 1] > 0
        assert not image[3, 4].any()
