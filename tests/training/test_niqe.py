"""NIQE against reference values, a direct computation in loops, and each of its steps against another library."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter
from scipy.special import gamma
from scipy.stats import gennorm
from skimage import data

from relo.training import metrics
from relo.training.niqe import niqe, pristine_model
from relo.training.niqe_features import block_features, fit_asymmetric_gaussian, halve, normalise

# Original / blurred (Gaussian of 2 px) under studio luma, by BasicSR 1.4.2, and under full-range luma, by its
# algorithm in double precision. These four photographs lie in scikit-image's wheel.
REFERENCE = {
    "astronaut": ((3.0646, 7.2681), (3.0615, 7.1744)),
    "coffee": ((4.1152, 8.0587), (4.0562, 7.9167)),
    "chelsea": ((2.6255, 8.5049), (2.5721, 8.3986)),
    "rocket": ((6.9691, 10.1141), (7.0367, 9.8318)),
}
# BasicSR takes moments in float32: with those, its value for the flat background of the blurred astronaut comes out
# to the last digit. Under full luma, pixels halfway between integers go where the last bit of a sum sends them, on
# which processors do not agree: every order of summation stays within this.
FLOAT32_MOMENTS, HALVES = 0.01, 0.007


def blurred(image):
    channels = [gaussian_filter(image[..., c].astype(float), 2) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("name", REFERENCE)
def test_published_photographs(name):
    image = getattr(data, name)()
    studio, full = REFERENCE[name]
    for picture, expected_studio, expected_full in zip((image, blurred(image)), studio, full, strict=True):
        tolerance = FLOAT32_MOMENTS if (name, picture is image) == ("astronaut", False) else 1e-3
        assert niqe(picture, luma="studio") == pytest.approx(expected_studio, abs=tolerance)
        assert niqe(picture) == pytest.approx(expected_full, abs=HALVES)


def test_a_grey_photograph_is_its_own_luma():
    camera = data.camera()
    assert niqe(camera) == pytest.approx(3.0964, abs=1e-3)
    assert niqe(camera, luma="studio") == niqe(camera)


def picture(seed, height, width):
    """Grey integers: texture of several scales, with a flat rectangle over a whole block."""
    rng = np.random.default_rng(seed)
    image = sum(gaussian_filter(rng.normal(size=(height, width)), s) * s * 40 for s in (0.5, 2, 6)) + 120
    image[:100, :100] = 37
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def fit_by_search(values):
    """Shape and widths: moments of a list of numbers, and the nearest of all ratios of the grid."""
    values = values.ravel()
    left, right = (
        np.sqrt(np.mean(side**2)) if side.size else np.nan for side in (values[values < 0], values[values > 0])
    )
    shape = 0.2
    if np.isfinite(left + right):
        ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        ratio *= ((left / right) ** 3 + 1) * (left / right + 1) / ((left / right) ** 2 + 1) ** 2
        grid = np.arange(0.2, 10.001, 0.001)
        shape = grid[np.argmin((gamma(2 / grid) ** 2 / gamma(1 / grid) / gamma(3 / grid) - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def normalise_by_window(image):
    """7 x 7 windows written out, by a two-dimensional convolution."""
    squares = np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2)
    window = np.exp(-squares / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = convolve(image, window, mode="nearest")
    deviation = np.sqrt(np.abs(convolve(image**2, window, mode="nearest") - mean**2))
    return (image - mean) / (deviation + 1)


def halve_by_torch(image):
    """torch's antialiased bicubic interpolation, given the mirror images beyond the border."""
    padded = torch.from_numpy(np.pad(image, 8, mode="symmetric"))[None, None]
    half = F.interpolate(padded, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    return half[0, 0, 4:-4, 4:-4].numpy()


def niqe_by_loops(image):
    """The definition, a block after the other."""
    rows, columns = image.shape[0] // 96, image.shape[1] // 96
    image = image[: rows * 96, : columns * 96].astype(np.float64)
    features = []
    for row in range(rows):
        for column in range(columns):
            numbers = []
            for scale, scaled in ((1, image), (2, halve_by_torch(image))):
                side = 96 // scale
                values = normalise_by_window(scaled)
                values = values[row * side : (row + 1) * side, column * side : (column + 1) * side]
                values = np.where(np.abs(values) < 1e-9, 0, values)  # flat but for rounding
                shape, left, right = fit_by_search(values)
                numbers += [shape, (left + right) / 2]
                for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    neighbours = np.array(
                        [[values[(y - dy) % side, (x - dx) % side] for x in range(side)] for y in range(side)]
                    )
                    shape, left, right = fit_by_search(values * neighbours)
                    numbers += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
            features.append(numbers)
    features = np.array(features)
    complete = features[~np.isnan(features).any(axis=1)]
    mean, covariance = pristine_model()
    difference = mean - np.nanmean(features, axis=0)
    return np.sqrt(difference @ np.linalg.inv((covariance + np.cov(complete.T)) / 2) @ difference), features


@pytest.mark.parametrize("size", [(192, 300), (211, 207)])
def test_the_whole_equals_a_computation_in_loops(size):
    image = picture(0, *size)
    expected, features = niqe_by_loops(image)
    assert np.isnan(features[0]).any() and not np.isnan(features[1:]).any()  # the first block is flat
    np.testing.assert_allclose(block_features(image.astype(float)), features, rtol=1e-6, atol=1e-9)
    assert niqe(image) == pytest.approx(expected, rel=1e-6)


def test_normalisation_equals_windows_written_out():
    image = picture(1, 60, 75).astype(float)
    np.testing.assert_allclose(normalise(image), normalise_by_window(image), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 37.0, 254.0, 255.0])
def test_flat_is_exactly_nothing(value):
    flat = np.full((40, 50), value)
    assert (normalise(flat) == 0).all()
    assert (normalise(halve(flat)) == 0).all()
    flat[20, 20] += 1  # the least that can differ is seen by every window that holds it
    assert (
        (normalise(flat) != 0) == (np.maximum.outer(abs(np.arange(40) - 20), abs(np.arange(50) - 20)) <= 3)
    ).all()


def test_halving_equals_torch_with_mirrored_borders():
    image = np.random.default_rng(2).random((50, 64)) * 255
    np.testing.assert_allclose(halve(image), halve_by_torch(image), atol=1e-9)


@given(st.integers(0, 999), st.floats(0.7, 4), st.floats(0.5, 3), st.floats(0.5, 3))
@settings(deadline=None, max_examples=20)
def test_a_known_distribution_is_found(seed, shape, left, right):
    rng = np.random.default_rng(seed)
    sizes = np.abs(gennorm.rvs(shape, size=200_000, random_state=rng))
    on_left = rng.random(sizes.size) < left / (left + right)
    values = np.where(on_left, -left * sizes, right * sizes).reshape(1, 400, 500)
    found = np.array(fit_asymmetric_gaussian(values))[:, 0]
    np.testing.assert_allclose(found, [shape, left, right], rtol=0.1)


def test_fits_of_several_blocks_are_fits_of_each():
    blocks = np.random.default_rng(3).normal(size=(4, 20, 30)) + np.array([0, 0.3, -0.3, 50])[:, None, None]
    found = np.transpose(fit_asymmetric_gaussian(blocks))
    np.testing.assert_allclose(found, [fit_by_search(block) for block in blocks], rtol=1e-12)
    assert np.isnan(found[3, 1]) and np.isfinite(found[:3]).all()  # all of the last one lies on the right
    assert found[3, 0] == pytest.approx(0.2)


def test_the_constants_are_the_published_ones():
    mean, covariance = pristine_model()
    assert (mean.shape, covariance.shape) == ((36,), (36, 36))
    digest = hashlib.sha256(np.vstack([mean, covariance]).astype("<f8").tobytes()).hexdigest()
    assert digest == "f6284a2b53fd40bbc960472b76ec55b67a299a0270294b804c847e99b8cc1e30"
    assert (covariance == covariance.T).all()
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_every_dtype_gives_the_same_number():
    image = data.chelsea()
    expected = niqe(image)
    as_float = np.divide(image, 255, dtype=np.float32)
    for same in (image.astype(np.uint16) * 257, image / 255, as_float, as_float[::-1][::-1]):
        assert niqe(same) == expected
    before = as_float.copy()
    batch = torch.from_numpy(np.stack([as_float, as_float[:, ::-1]])).permute(0, 3, 1, 2)
    values = metrics.niqe(batch)
    assert (values.dtype, values.shape) == (torch.float64, (2,))
    assert values.tolist() == [expected, niqe(image[:, ::-1])]
    assert (as_float == before).all()
    assert metrics.niqe(image) == expected
    assert metrics.niqe(image, luma="studio") == niqe(image, luma="studio") != expected


def test_values_beyond_white_are_clipped():
    image = data.chelsea() / 200
    assert niqe(image) == niqe(image.clip(0, 1))


@pytest.mark.parametrize("image", [np.full((200, 300, 3), 90, np.uint8), np.zeros((192, 192))])
def test_a_flat_image_has_no_value(image):
    assert np.isnan(niqe(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((191, 400, 3)), "sides of at least 192 px, got 191 x 400"),
        (np.zeros((400, 191)), "sides of at least 192 px"),
        (np.zeros((200, 200, 4)), r"\(H, W, 3\) or \(H, W\) image, got \(200, 200, 4\)"),
        (np.zeros((1, 200, 200, 3)), "image, got"),
        (np.zeros((200, 200), np.int32), "floating-point values, got int32"),
        (np.zeros((200, 200), bool), "got bool"),
        (np.full((200, 200, 3), np.nan), "finite values"),
        (np.full((200, 200), np.inf), "finite values"),
        (torch.zeros(3, 200, 200), r"\(N, 3, H, W\) floating-point images, got \(3, 200, 200\)"),
        (torch.zeros(1, 3, 200, 200, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 200, 200), torch.nan), "finite values"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        metrics.niqe(image)


def test_an_unknown_luma_is_refused():
    with pytest.raises(ValueError, match="unknown luma 'y', expected one of full, studio"):
        niqe(np.zeros((200, 200)), luma="y")
