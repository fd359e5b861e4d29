"""Synthetic short exposures."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from skimage import color

from relo.postprocess.short import ShortExposureConfig, draw_parameters, gaussian_quantiles, short_exposure


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_scaling_is_that_of_the_hsv_value():
    image = generator().random((20, 30, 3))
    hsv = color.rgb2hsv(image)
    hsv[..., 2] *= 0.37
    result = short_exposure(image, generator(), scale=0.37, noise=0)
    assert np.abs(result - color.hsv2rgb(hsv)).max() < 1e-6


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)])
def test_statistics_and_dtype(dtype, top):
    image = np.full((300, 300, 3), 0.6 * top).astype(dtype)
    image.setflags(write=False)
    result = short_exposure(image, generator(), scale=0.5, noise=0.02)
    assert result.dtype == dtype
    assert result.shape == image.shape
    # 270000 samples: the mean is good to 4e-5 of the range, the deviation to 0.14 %
    assert result.mean() / top == pytest.approx(0.5 * float(image[0, 0, 0]) / top, abs=2e-4)
    expected = np.hypot(0.02, (1 / top) / np.sqrt(12) if top > 1 else 0)  # rounding adds its own
    assert result.std() / top == pytest.approx(expected, rel=0.01)
    noise = result.astype(np.float64) - result.mean()
    assert abs((noise[..., 0] * noise[..., 1]).mean() / noise.var()) < 0.02  # channels are independent


def test_clipped_to_the_range_of_the_dtype():
    dark = short_exposure(np.zeros((50, 50, 3), np.uint8), generator(), noise=0.2)
    bright = short_exposure(np.full((50, 50, 3), 255, np.uint8), generator(), scale=1.0, noise=0.2)
    assert dark.min() == 0
    assert dark.max() < 255
    assert bright.max() == 255
    assert bright.min() > 0


def test_the_generator_decides():
    image = np.full((20, 20, 3), 128, np.uint8)
    assert np.array_equal(short_exposure(image, generator(1)), short_exposure(image, generator(1)))
    assert not np.array_equal(short_exposure(image, generator(1)), short_exposure(image, generator(2)))


def test_drawn_parameters_fill_their_ranges():
    config = ShortExposureConfig(scale=(0.2, 0.4), noise=(0.0, 0.1))
    rng = generator(5)
    drawn = [draw_parameters(config, rng) for _ in range(500)]
    for values, (low, high) in (([d.scale for d in drawn], (0.2, 0.4)), ([d.noise for d in drawn], (0.0, 0.1))):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert draw_parameters(config, generator(5)) == drawn[0]


@pytest.mark.parametrize(
    "values", [{"scale": (0.7, 0.3)}, {"scale": (0.5, 1.5)}, {"noise": (-0.1, 0.1)}, {"noise": (0.2, 0.1)}]
)
def test_ranges_rise_within_the_unit_interval(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        ShortExposureConfig(**values)


def test_the_table_of_normal_numbers_is_normal():
    numbers = gaussian_quantiles()
    assert numbers.std() == pytest.approx(1, abs=1e-5)
    assert stats.kstest(numbers, "norm").statistic < 1e-4
