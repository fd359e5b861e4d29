"""Synthetic short exposures."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from skimage import color

from relo.postprocess.isp import srgb_decode, srgb_encode
from relo.postprocess.short import (
    ShortExposureConfig,
    ShortParameters,
    draw_parameters,
    exposure_ratio,
    gaussian_quantiles,
    pair_generator,
    short_exposure,
)
from relo.shards import schema


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
    "values",
    [
        {"scale": (0.7, 0.3)},
        {"scale": (0.5, 1.5)},
        {"noise": (-0.1, 0.1)},
        {"noise": (0.2, 0.1)},
        {"ratio": (0.5, 0.1)},
        {"ratio": (0.0, 0.5)},
        {"ratio": (0.5, 1.1)},
        {"shot": (0.0, 0.01)},
        {"shot": (0.01, 0.001)},
        {"colour": 1.0},
        {"brighten": -0.1},
        {"model": "hsl"},
    ],
)
def test_ranges_rise_within_their_limits(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        ShortExposureConfig(**values)


def test_the_table_of_normal_numbers_is_normal():
    numbers = gaussian_quantiles()
    assert numbers.std() == pytest.approx(1, abs=1e-5)
    assert stats.kstest(numbers, "norm").statistic < 1e-4


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
@pytest.mark.parametrize(("shot", "read"), [(1e-3, 0.0), (0.0, 4e-3), (2e-3, 3e-3)])
def test_mean_and_variance_follow_the_closed_form(dtype, shot, read):
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = np.full((300, 300, 3), 0.7 * top).astype(dtype)
    image.setflags(write=False)
    colour = (1.1, 1.0, 0.8)
    result = short_exposure(image, generator(), model="physical", ratio=0.25, shot=shot, read=read, colour=colour)
    assert result.dtype == dtype
    light = srgb_decode(result.astype(np.float64) / top).astype(np.float64)
    for channel in range(3):
        x = 0.25 * colour[channel] * float(srgb_decode(np.float32(0.7)))
        values = light[..., channel]
        variance = shot * x + read**2
        # 90000 samples: standard errors sqrt(variance / n) of the mean and sqrt(2 / n) = 0.47 % of the variance
        assert values.mean() == pytest.approx(x, abs=4 * np.sqrt(variance / values.size) + 2e-5)
        assert values.var() == pytest.approx(variance, rel=0.02)
    noise = light - light.mean((0, 1))
    assert abs((noise[..., 0] * noise[..., 1]).mean() / noise[..., 0].var()) < 0.02


def test_low_counts_are_those_of_poisson():
    shot, ratio = 0.05, 0.1  # 20 electrons at full scale, two of them collected
    image = np.ones((200, 200, 3), np.float64)
    result = short_exposure(image, generator(3), model="physical", ratio=ratio, shot=shot, read=0)
    counts = srgb_decode(result) / shot
    assert np.abs(counts - np.rint(counts)).max() < 1e-4
    found = np.bincount(np.rint(counts).astype(int).ravel(), minlength=12)[:12]
    expected = stats.poisson.pmf(np.arange(12), ratio / shot) * counts.size
    few = expected < 5
    found, expected = (np.append(v[~few], v[few].sum()) for v in (found, expected))
    assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-3


def test_without_noise_only_the_light_changes():
    image = generator(1).random((70, 20, 3))  # more rows than one block
    keywords = {"model": "physical", "ratio": 0.25, "shot": 0.0, "read": 0.0}
    assert np.allclose(
        short_exposure(image, generator(), **keywords), srgb_encode(0.25 * srgb_decode(image)), atol=1e-6
    )
    assert np.allclose(short_exposure(image, generator(), **keywords, brighten=4.0), image, atol=1e-6)
    bright = short_exposure(image, generator(), **keywords, brighten=40.0)
    assert bright.max() == pytest.approx(1, abs=1e-6) and bright.min() >= 0
    eight = np.rint(255 * image).astype(np.uint8)
    result = short_exposure(eight, generator(), **keywords)
    assert result.dtype == np.uint8
    assert np.array_equal(
        result, np.rint(255 * srgb_encode(np.float32(0.25) * srgb_decode(eight / np.float32(255))))
    )


def test_brightening_comes_after_the_noise():
    image = np.full((200, 200, 3), 0.6)
    keywords = {"model": "physical", "ratio": 0.1, "shot": 1e-3, "read": 2e-3}
    dark, bright = (srgb_decode(short_exposure(image, generator(), **keywords, brighten=g)) for g in (1.0, 5.0))
    assert np.allclose(5 * dark, bright, atol=1e-5)


@pytest.mark.parametrize("values", [{"model": "hsl"}, {"shot": -1.0}, {"read": -1.0}, {"colour": (1, -1, 1)}])
def test_what_has_no_meaning_is_refused(values):
    with pytest.raises(ValueError, match="must"):
        short_exposure(np.zeros((4, 4, 3)), generator(), **{"model": "physical", **values})


PHYSICAL = ShortExposureConfig(model="physical")


def test_physical_parameters_follow_their_laws():
    config = ShortExposureConfig(model="physical", colour=0.1, brighten=0.5)
    rng = generator(5)
    drawn = [draw_parameters(config, rng) for _ in range(3000)]
    ratio, shot, read, gain, red, blue = (
        np.array([getattr(d, name) for d in drawn]) for name in ("ratio", "shot", "read", "gain", "red", "blue")
    )
    for values, low, high in ((ratio, 1 / 16, 1 / 2), (shot, 1e-4, 1.2e-2)):
        share = np.log(values / low) / np.log(high / low)
        assert stats.kstest(share, "uniform").pvalue > 1e-3
    offset = np.log(read**2) - 2.18 * np.log(shot)
    assert stats.kstest(offset, "norm", (1.20, 0.26)).pvalue > 1e-3
    assert np.allclose(gain, ratio**-0.5)
    for values in (red, blue):
        assert stats.kstest(values, "uniform", (0.9, 0.2)).pvalue > 1e-3
    assert drawn[0].scale is None and drawn[0].noise is None


def test_the_ratio_is_that_of_the_exposures_unless_a_range_is_given():
    free, known = (draw_parameters(PHYSICAL, generator(), exposure_ratio=ratio) for ratio in (None, 0.03))
    assert 1 / 16 <= free.ratio <= 1 / 2 and known.ratio == 0.03
    assert (free.shot, free.read) == (known.shot, known.read), "the noise does not depend on what is known"
    ranged = ShortExposureConfig(model="physical", ratio=(0.2, 0.3))
    assert 0.2 <= draw_parameters(ranged, generator(), exposure_ratio=0.03).ratio <= 0.3


@pytest.mark.parametrize(
    ("t_long", "t_short", "expected"),
    [
        (0.02, 0.005, 0.25),
        (None, 0.005, None),
        (0.02, None, None),
        (float("nan"), 0.005, None),
        (0.0, 0.005, None),
        (0.005, 0.02, None),
    ],
)
def test_exposure_ratio(t_long, t_short, expected):
    assert exposure_ratio(t_long, t_short) == expected


def test_no_noise_can_be_asked_for():
    drawn = draw_parameters(ShortExposureConfig(model="physical", shot=(0, 0)), generator())
    assert (drawn.shot, drawn.read) == (0, 0)


def test_each_model_fills_its_own_columns():
    hsv, physical = (draw_parameters(config, generator()) for config in (ShortExposureConfig(), PHYSICAL))
    assert {name for name, value in hsv.columns().items() if np.isfinite(value)} == {"short_scale", "short_noise"}
    assert {name for name, value in physical.columns().items() if np.isnan(value)} == {"short_scale", "short_noise"}
    assert set(physical.columns()) <= set(schema.PAIR_DTYPE.names)
    image = np.full((20, 20, 3), 128, np.uint8)
    for parameters in (hsv, physical, ShortParameters(scale=0.5, noise=0.0)):
        assert short_exposure(image, generator(), **parameters.keywords()).mean() < 128


def test_a_pairs_short_exposure_depends_on_its_name_only():
    image = np.full((40, 40, 3), 128, np.uint8)

    def make(name):
        rng = pair_generator(0, "desk", name)
        return short_exposure(image, rng, **draw_parameters(PHYSICAL, rng).keywords())

    forwards = [make(name) for name in ("0000", "0001", "0002")]
    backwards = [make(name) for name in ("0002", "0001", "0000")][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(forwards[0], forwards[1])
