"""The colour cast of a synthetic lightbox frame is found and undone."""

import numpy as np
import pytest

from relo.capture.frame import PATTERNS, RawFrame, channel_of_position
from relo.errors import ProcessError
from relo.postprocess import polynomial
from relo.postprocess.colour import (
    ColourCast,
    ColourConfig,
    _leave_one_out,
    apply_colour_cast,
    fit_colour_cast,
)

BLACK = (512.0, 515.0, 513.0, 516.0)
WHITE = 16383.0


def cubic(shape: tuple[int, int], seed: int = 4, strength: float = 0.12) -> np.ndarray:
    """(3, H, W) factors, cubic in the pixel coordinates and 1 at the frame's centre."""
    height, width = shape
    rng = np.random.default_rng(seed)
    x = (np.arange(width) - (width - 1) / 2) / (width / 2)
    y = ((np.arange(height) - (height - 1) / 2) / (height / 2))[:, None]
    result = np.ones((3, *shape))
    for plane in result:
        for i in range(4):
            for j in range(4 - i):
                if i + j:
                    plane += strength * rng.uniform(-1, 1) / (i + j) ** 2 * x**i * y**j
    return result


def lightbox(
    alpha, pattern="RGGB", levels=(0.3, 0.6, 0.4), electrons=None, seed=0, green_two=1.0, dust=()
) -> RawFrame:
    """A field of constant colour as a camera with the cast 1/alpha records it."""
    rng = np.random.default_rng(seed)
    height, width = alpha.shape[1:]
    mosaic = np.empty((height, width), np.uint16)
    seen_green = False
    for position, channel in enumerate(channel_of_position(pattern)):
        sites = np.s_[position // 2 :: 2, position % 2 :: 2]
        signal = levels[channel] / alpha[channel][sites]
        if channel == 1:
            signal = signal * (green_two if seen_green else 1.0)
            seen_green = True
        for top, left, size in dust:
            signal[top // 2 : (top + size) // 2, left // 2 : (left + size) // 2] *= 0.9
        if electrons:
            signal = rng.poisson(signal * electrons) / electrons
        mosaic[sites] = np.clip(np.rint(BLACK[position] + signal * (WHITE - max(BLACK))), 0, WHITE)
    return RawFrame(mosaic, pattern, BLACK, WHITE, camera="B")


def worst(cast: ColourCast, alpha: np.ndarray) -> float:
    """Largest relative error over the frame, apart from one factor a channel."""
    ratio = cast.alpha() / alpha
    ratio /= ratio.mean(axis=(1, 2), keepdims=True)
    return float(np.abs(ratio - 1).max())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(240, 360), (241, 363)])
def test_a_cubic_cast_is_recovered(pattern, shape):
    alpha = cubic(shape)
    assert np.ptp(alpha) > 0.2
    cast = fit_colour_cast(lightbox(alpha, pattern))
    assert np.abs(cast.alpha() / alpha - 1).max() < 1e-3
    assert cast.residual_peak_to_peak.max() < 1e-3
    assert cast.green_ratio == pytest.approx(1, abs=1e-3)
    assert cast.pattern == pattern
    assert cast.shape == shape


def test_shot_noise_costs_little_and_averaging_less():
    alpha = cubic((480, 720))
    one = fit_colour_cast(lightbox(alpha, electrons=30_000))
    many = fit_colour_cast([lightbox(alpha, electrons=30_000, seed=seed) for seed in range(9)])
    assert worst(one, alpha) < 3e-3
    assert worst(many, alpha) < 1e-3
    assert many.residual_rms.max() < one.residual_rms.max() / 2


def test_dust_does_not_matter():
    alpha = cubic((480, 720))
    rng = np.random.default_rng(8)
    dust = [(int(y), int(x), 36) for y, x in zip(rng.integers(0, 440, 12), rng.integers(0, 680, 12), strict=True)]
    clean = fit_colour_cast(lightbox(alpha))
    dusty = fit_colour_cast(lightbox(alpha, dust=dust))
    assert lightbox(alpha, dust=dust).mosaic.mean() < lightbox(alpha).mosaic.mean()
    assert np.abs(dusty.alpha() / clean.alpha() - 1).max() < 1e-3


def test_black_must_be_subtracted_per_position():
    alpha = cubic((240, 360))
    frame = lightbox(alpha)
    wrong = RawFrame(frame.mosaic, frame.pattern, (0.0,) * 4, WHITE)
    assert worst(fit_colour_cast(frame), alpha) < 1e-3
    assert worst(fit_colour_cast(wrong), alpha) > 5e-3


def test_the_factor_undoes_the_cast_and_does_not_double_it():
    alpha = cubic((240, 360))
    frame = lightbox(alpha)
    flat = apply_colour_cast(fit_colour_cast(frame), frame.normalised())
    for position, channel in enumerate(channel_of_position(frame.pattern)):
        plane = flat[position // 2 :: 2, position % 2 :: 2]
        assert np.ptp(plane) / plane.mean() < 2e-3
        assert plane.mean() == pytest.approx((0.3, 0.6, 0.4)[channel], rel=2e-3)


def test_channels_have_their_own_factors():
    alpha = cubic((240, 360))
    shared = np.broadcast_to(alpha[:1], alpha.shape)
    assert np.abs(alpha / shared - 1).max() > 0.05  # a test with one cast for all would prove nothing
    cast = fit_colour_cast(lightbox(alpha))
    for channel in range(3):
        assert np.abs(cast.alpha()[channel] / alpha[channel] - 1).max() < 1e-3


@pytest.mark.parametrize(("degree", "bound"), [(3, None), (5, 2e-3)])
def test_a_higher_degree_follows_a_higher_cast(degree, bound):
    shape = (240, 360)
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) / (shape[1] / 2)
    alpha = cubic(shape) + 0.05 * x**5
    cast = fit_colour_cast(lightbox(alpha), degree=degree)
    assert (worst(cast, alpha) < bound) if bound else (worst(cast, alpha) > 5e-3)


def test_unequal_greens_are_reported():
    cast = fit_colour_cast(lightbox(cubic((240, 360)), green_two=0.97))
    assert cast.green_ratio == pytest.approx(1 / 0.97, abs=1e-3)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_mosaic_and_image_get_the_same_factor(pattern):
    cast = fit_colour_cast(lightbox(cubic((121, 163)), pattern), patch_rows=9, patch_columns=9)
    image = np.random.default_rng(0).random((121, 163, 3), dtype=np.float32)
    rows, columns = np.indices(image.shape[:2])
    channel = np.array(channel_of_position(pattern))[2 * (rows % 2) + columns % 2][..., None]
    mosaic = np.take_along_axis(image, channel, axis=2)[..., 0]
    image.setflags(write=False)
    mosaic.setflags(write=False)
    expected = np.take_along_axis(apply_colour_cast(cast, image), channel, axis=2)[..., 0]
    result = apply_colour_cast(cast, mosaic)
    assert result.dtype == np.float32
    assert np.array_equal(result, expected)


@pytest.mark.parametrize(
    ("levels", "message"),
    [((0.3, 1.2, 0.4), "over-exposed"), ((0.3, 0.97, 0.4), "over-exposed"), ((0.3, 0.6, 0.005), "too dark")],
)
def test_wrong_exposures_are_refused(levels, message):
    flat = np.ones((3, 240, 360))
    with pytest.raises(ProcessError, match=message) as caught:
        fit_colour_cast(lightbox(flat, levels=levels))
    assert caught.value.advice


def test_other_frames_are_refused():
    flat = np.ones((3, 240, 360))
    with pytest.raises(ProcessError, match="too small"):
        fit_colour_cast(lightbox(flat[:, :28]))
    with pytest.raises(ProcessError, match="differ"):
        fit_colour_cast([lightbox(flat), lightbox(flat[:, :238])])
    with pytest.raises(ProcessError, match="differ"):
        fit_colour_cast([lightbox(flat), lightbox(flat, "BGGR")])
    with pytest.raises(ProcessError, match="no lightbox"):
        fit_colour_cast([])
    with pytest.raises(ProcessError, match=r"degree 5.*6 each way"):
        fit_colour_cast(lightbox(flat), degree=5, patch_rows=5)


def test_another_size_than_the_scenes():
    cast = fit_colour_cast(lightbox(np.ones((3, 240, 360))))
    with pytest.raises(ProcessError, match=r"360x238.*360x240"):
        apply_colour_cast(cast, np.zeros((238, 360), np.float32))


def test_the_smallest_frame_with_one_cell_a_patch():
    config = ColourConfig()
    shape = (2 * config.patch_rows, 2 * config.patch_columns)
    alpha = cubic(shape)
    assert worst(fit_colour_cast(lightbox(alpha)), alpha) < 2e-3


def non_cubic(shape: tuple[int, int], seed: int) -> np.ndarray:
    """(3, H, W) casts whose part of higher degree than 3 spans 1 %."""
    height, width = shape
    rng = np.random.default_rng(seed)
    x = (np.arange(width) - (width - 1) / 2) / (width / 2)
    y = (np.arange(height) - (height - 1) / 2) / (height / 2)
    alpha = cubic(shape, seed)
    for plane in alpha:
        terms = np.zeros((6, 6))
        for i in range(6):
            terms[i, 5 - i] = rng.normal()
        rest = np.polynomial.legendre.leggrid2d(y, x, terms)
        plane += 0.01 * rest / np.ptp(rest)
    return alpha


@pytest.mark.parametrize(("degree", "limit"), [(3, 0.012), (4, 0.012), (5, 0.002)])
def test_what_a_cast_that_is_no_cubic_leaves(degree, limit):
    for seed in range(4):
        alpha = non_cubic((359, 538), seed)
        frames = [lightbox(alpha, electrons=30_000, seed=number) for number in range(8)]
        ratio = fit_colour_cast(frames, degree=degree).alpha() / alpha
        assert np.ptp(ratio, axis=(1, 2)).max() < limit


def test_the_largest_error_is_smaller_than_that_of_plain_least_squares():
    alpha = non_cubic((240, 360), 2)
    cast = fit_colour_cast(lightbox(alpha))
    y, x = np.indices((240, 360))
    u, v = (x.ravel() - 179.5) / 180, (y.ravel() - 119.5) / 120
    matrix = np.stack([u**i * v**j for i in range(4) for j in range(4 - i)], axis=1)
    for channel in range(3):
        plain = matrix @ np.linalg.lstsq(matrix, alpha[channel].ravel(), rcond=None)[0]
        assert np.ptp(cast.alpha()[channel] / alpha[channel]) < 0.95 * np.ptp(plain / alpha[channel].ravel())


def test_badly_exposed_frames_are_left_out():
    alpha = cubic((240, 360))
    good = lightbox(alpha)
    frames = [lightbox(alpha, levels=(0.3, 0.93, 0.4)), good, lightbox(alpha, levels=(0.003, 0.01, 0.004))]
    cast = fit_colour_cast(frames)
    assert np.array_equal(cast.coefficients, fit_colour_cast(good).coefficients)
    assert len(cast.notes) == 2
    assert "1 of 3 is over-exposed" in cast.notes[0]
    assert "3 of 3 is too dark" in cast.notes[1]
    with pytest.raises(ProcessError, match="over-exposed"):
        fit_colour_cast(frames[0])


def test_leave_one_out_is_the_error_of_fits_without_that_patch():
    rng = np.random.default_rng(3)
    u, v = rng.uniform(-1, 1, (2, 60))
    matrix = polynomial.design_matrix(u, v, 3)
    values, weights = rng.normal(1, 0.1, 60), rng.uniform(0.2, 3, 60)
    root = np.sqrt(weights)
    fit = np.linalg.lstsq(matrix * root[:, None], values * root, rcond=None)[0]
    expected = []
    for index in range(60):
        rest = np.arange(60) != index
        without = np.linalg.lstsq((matrix * root[:, None])[rest], (values * root)[rest], rcond=None)[0]
        expected.append(values[index] - matrix[index] @ without)
    assert _leave_one_out(matrix, values, weights, fit) == pytest.approx(expected, rel=1e-9)


def test_the_record_of_a_fit():
    alpha = cubic((240, 360))
    cast = fit_colour_cast(lightbox(alpha, electrons=30_000), degree=4)
    assert cast.degree == 4
    assert cast.alpha_range[:, 0] == pytest.approx(alpha.min(axis=(1, 2)), rel=5e-3)
    assert cast.alpha_range[:, 1] == pytest.approx(alpha.max(axis=(1, 2)), rel=5e-3)
    assert (cast.leave_one_out > 0).all()
    assert (cast.leave_one_out < 2 * cast.residual_rms).all()
