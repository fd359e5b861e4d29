"""Colour cast, levels, noise and mosaic of the simulated cameras."""

import numpy as np
import pytest

from relo.capture.frame import PATTERNS, channel_of_position
from relo.capture.simulator.config import SimulationConfig, Stream, generator
from relo.capture.simulator.rig import (
    COLOUR_MATRIX,
    WHITE_BALANCE,
    colour_cast,
    draw_cameras,
    lightbox,
    radiance_cap,
    record,
    white_dn,
)

SMALL = SimulationConfig(width=161, height=123, seed=5)


def _residual(surface: np.ndarray, degree: int) -> np.ndarray:
    height, width = surface.shape
    u, v = (
        (np.arange(width) - (width - 1) / 2) / (width / 2),
        (np.arange(height) - (height - 1) / 2) / (height / 2),
    )
    U, V = np.meshgrid(u, v)
    terms = [(U**i * V**j).ravel() for i in range(degree + 1) for j in range(degree + 1 - i)]
    matrix = np.stack(terms, axis=1)
    solution = np.linalg.lstsq(matrix, surface.ravel().astype(float), rcond=None)[0]
    return surface.ravel() - matrix @ solution


@pytest.mark.parametrize("seed", range(8))
def test_cast_has_the_promised_shape(seed):
    alpha = colour_cast(np.random.default_rng(seed), (123, 161), 0.25, 0.01)
    assert alpha.shape == (3, 123, 161) and alpha.dtype == np.float32
    assert np.all(alpha[:, 61, 80] == 1)  # exactly 1 at the centre of an odd frame
    assert alpha.min() > 0.8
    for surface in alpha:
        assert 0.19 <= np.ptp(surface) <= 0.31
        assert np.ptp(_residual(surface, 3)) == pytest.approx(0.01, rel=0.15)
        assert abs(_residual(surface, 3).mean()) < 1e-6
        assert np.ptp(_residual(surface, 5)) <= 0.004


def test_cast_without_non_cubic_part_is_cubic():
    alpha = colour_cast(np.random.default_rng(1), (64, 90), 0.25, 0.0)
    assert max(np.ptp(_residual(surface, 3)) for surface in alpha) < 1e-6
    assert np.all(colour_cast(np.random.default_rng(1), (64, 90), 0.0, 0.0) == 1)


def test_channels_and_cameras_differ():
    cameras = draw_cameras(SMALL)
    assert np.abs(cameras["B"].alpha - cameras["S"].alpha).max() > 0.02
    assert np.abs(cameras["B"].alpha[0] - cameras["B"].alpha[2]).max() > 0.02
    assert np.all(cameras["S"].gain == 1) and np.all(np.abs(cameras["B"].gain - 1) <= 0.1)
    assert np.ptp(cameras["B"].gain) > 0


@pytest.mark.parametrize("bits", [12, 14])
def test_levels(bits):
    config = SMALL.model_copy(update={"bits": bits})
    for camera in draw_cameras(config).values():
        low = 512 >> (14 - bits)
        assert all(low <= level <= low + 4 for level in camera.black)
        assert white_dn(config, camera) == 2**bits - 1 - max(camera.black)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bits", [12, 14])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_site_records_its_channel(pattern, bits, mirrored):
    config = SMALL.model_copy(update={"bits": bits, "pattern": pattern, "mirrored": mirrored})
    camera = draw_cameras(config)["B"]
    radiance = np.random.default_rng(0).uniform(0.05, 0.6, (*config.shape, 3)).astype(np.float32)
    frame = record(config, camera, radiance, None)
    assert (frame.pattern, frame.white, frame.camera) == (pattern, 2**bits - 1, "B")
    expected = radiance @ np.linalg.inv(COLOUR_MATRIX).T / WHITE_BALANCE
    expected = expected / camera.alpha.transpose(1, 2, 0) / camera.gain
    if mirrored:
        expected = expected[:, ::-1]
    signal = frame.normalised()
    for position, channel in enumerate(channel_of_position(pattern)):
        sites = slice(position // 2, None, 2), slice(position % 2, None, 2)
        assert np.abs(signal[sites] - expected[..., channel][sites]).max() < 0.51 / white_dn(config, camera) + 1e-6


def test_neutral_white_reaches_the_white_level_in_green_only():
    config = SMALL.model_copy(update={"cast_strength": 0.0, "non_cubic": 0.0, "gain_mismatch": 0.0})
    camera = draw_cameras(config)["S"]
    signal = record(config, camera, np.ones((*config.shape, 3), np.float32), None).normalised()
    assert signal[0, 1] == pytest.approx(1, abs=1e-3)
    assert signal[0, 0] == pytest.approx(0.5, abs=1e-3)
    assert signal[1, 1] == pytest.approx(1 / 1.6, abs=1e-3)


def test_noise_follows_the_photon_transfer_line():
    config = SMALL.model_copy(
        update={"cast_strength": 0.0, "non_cubic": 0.0, "full_well_e": 8000, "read_noise_e": 12}
    )
    camera = draw_cameras(config)["S"]
    means, variances = [], []
    for k, level in enumerate(np.linspace(0.0, 0.8, 9)):
        field = np.full((*config.shape, 3), level, np.float32)
        green = record(config, camera, field, np.random.default_rng(k)).mosaic[0::2, 1::2].astype(float)
        means.append(green.mean() - camera.black[1])
        variances.append(green.var())
    slope, offset = np.polyfit(means, variances, 1)
    dn_per_e = white_dn(config, camera) / config.full_well_e
    assert slope == pytest.approx(dn_per_e, rel=0.05)
    assert variances[0] == pytest.approx((12 * dn_per_e) ** 2 + 1 / 12, rel=0.06)
    assert offset == pytest.approx(variances[0], rel=0.5)


def test_averaging_lowers_the_noise():
    camera, field = draw_cameras(SMALL)["S"], np.full((*SMALL.shape, 3), 0.4, np.float32)
    exact = record(SMALL, camera, field, None).mosaic.astype(float)
    single, mean = (
        (record(SMALL, camera, field, np.random.default_rng(1), average=n).mosaic - exact).std() for n in (1, 16)
    )
    assert mean == pytest.approx(single / 4, rel=0.05)


def test_saturation_is_clipped_at_white():
    camera = draw_cameras(SMALL)["B"]
    frame = record(SMALL, camera, np.full((*SMALL.shape, 3), 40, np.float32), np.random.default_rng(0))
    assert np.all(frame.mosaic == SMALL.white)


@pytest.mark.parametrize("seed", range(4))
def test_lightbox_is_neutral_and_well_exposed(seed):
    config = SMALL.model_copy(update={"seed": seed})
    for camera in draw_cameras(config).values():
        frame = lightbox(config, camera, generator(seed, Stream.CALIBRATION, 0))
        signal, means = frame.normalised(), []
        assert 0.55 < np.percentile(signal, 99.9) < 0.65
        for position, channel in enumerate(channel_of_position(config.pattern)):
            sites = slice(position // 2, None, 2), slice(position % 2, None, 2)
            flat = signal[sites] * camera.alpha[channel][sites] * camera.gain[channel] * WHITE_BALANCE[channel]
            assert flat.std() / flat.mean() < 0.01
            means.append(flat.mean())
        assert np.ptp(means) < 2e-3 * np.mean(means)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("flicker", [0.0, 0.4])
def test_content_below_the_cap_saturates_nowhere(seed, flicker):
    config = SMALL.model_copy(update={"seed": seed, "flicker": flicker, "gain_mismatch": 0.3})
    cameras = draw_cameras(config)
    field = np.full((*config.shape, 3), radiance_cap(config, cameras), np.float32)
    for camera in cameras.values():
        assert record(config, camera, field, None, level=1 + flicker).normalised().max() < 0.95
