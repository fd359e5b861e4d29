"""The constant-MTF interpolator: its taps, its frequency response, and `warp` as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data

from relo.postprocess.resample import PHASES, TAPS, taps_table, valid_area, warp

METHODS = ("cmtf", "cubic", "lanczos", "linear")
# Sheet section 7: independent solution of the design problem, n = 12, f_p = 0.40.
HALF = [-0.008775, 0.023678, -0.048183, 0.093971, -0.190154, 0.629463]
QUARTER = [-0.006504, 0.017795, -0.036814, 0.074056, -0.161896, 0.892624,
           0.297659, -0.115536, 0.060572, -0.031878, 0.015889, -0.005966]  # fmt: skip


def keys(phase: float, a: float = -0.5) -> np.ndarray:
    """Four taps of the cubic convolution of Keys 1981 at offsets -1..2."""

    def kernel(s: float) -> float:
        s = abs(s)
        if s <= 1:
            return (a + 2) * s**3 - (a + 3) * s**2 + 1
        return a * (s**3 - 5 * s**2 + 8 * s - 4) if s < 2 else 0.0

    return np.array([kernel(k - phase) for k in (-1, 0, 1, 2)])


def lanczos4(phase: float) -> np.ndarray:
    """Eight normalised taps at offsets -3..4."""
    s = np.arange(-3, 5) - phase
    taps = np.sinc(s) * np.sinc(s / 4)
    return taps / taps.sum()


def response(taps: np.ndarray, phase: float) -> np.ndarray:
    """Frequency response relative to a pure shift, up to 0.35 cycles/px."""
    frequency = np.linspace(0.005, 0.35, 200)
    offsets = np.arange(len(taps)) - (len(taps) // 2 - 1)
    return np.exp(2j * np.pi * frequency[:, None] * (offsets - phase)) @ taps


def mtf_spread(kernel) -> float:
    """Largest difference of the MTF between two phases."""
    mtf = np.abs([response(kernel(d), d) for d in np.arange(33) / 32])
    return float(np.ptp(mtf, axis=0).max())


def cmtf(phase: float) -> np.ndarray:
    return taps_table()[round(phase * PHASES)]


def test_taps_of_the_fact_sheet():
    assert cmtf(0.5) == pytest.approx(np.array(HALF + HALF[::-1]), abs=1e-6)
    assert cmtf(0.25) == pytest.approx(np.array(QUARTER), abs=1e-6)


def test_moments_are_exact():
    table = taps_table()
    offsets = np.arange(TAPS) - (TAPS // 2 - 1)
    phases = np.arange(PHASES + 1) / PHASES
    assert table.shape == (PHASES + 1, TAPS)
    assert np.abs(table.sum(axis=1) - 1).max() < 1e-12
    assert np.abs(table @ offsets - phases).max() < 1e-12
    # also between the phases of the table, where it is interpolated
    between = (table[1:] + table[:-1]) / 2
    assert np.abs(between @ offsets - (phases[1:] + phases[:-1]) / 2).max() < 1e-12


def test_phases_0_and_1_are_the_identity_and_the_table_is_symmetric():
    table = taps_table()
    unit = np.zeros(TAPS)
    unit[TAPS // 2 - 1] = 1
    assert table[0] == pytest.approx(unit, abs=1e-12)
    assert table[-1] == pytest.approx(np.roll(unit, 1), abs=1e-12)
    assert table == pytest.approx(table[::-1, ::-1], abs=1e-12)


def test_the_taps_are_optimal():
    """No other taps with the same moments come closer to the shift in the weighted mean square."""
    frequency = np.linspace(0, 0.5, 4001)
    weight = np.where(frequency <= 0.4, 1.0, 1e-3)
    offsets = np.arange(TAPS) - (TAPS // 2 - 1)
    rng = np.random.default_rng(0)
    for phase in (0.25, 0.5, 0.875):
        shift = np.exp(2j * np.pi * frequency[:, None] * (offsets - phase))

        def cost(taps, shift=shift):
            return float((weight * np.abs(shift @ taps - 1) ** 2).mean())

        best = cmtf(phase)
        for _ in range(20):
            change = rng.normal(0, 1e-2, TAPS)
            basis = np.stack([np.ones(TAPS), offsets])
            change -= basis.T @ np.linalg.solve(basis @ basis.T, basis @ change)
            assert cost(best + change) > cost(best)


def test_mtf_is_constant_and_the_shift_true():
    spread = mtf_spread(cmtf)
    assert spread <= 0.01
    assert spread <= mtf_spread(keys) / 20
    assert spread <= mtf_spread(lanczos4) / 3
    frequency = np.linspace(0.005, 0.35, 200)
    delays = [np.angle(response(cmtf(d), d)) / (2 * np.pi * frequency) for d in np.arange(33) / 32]
    assert np.abs(delays).max() <= 0.002


def test_noise_gain():
    gain = (taps_table() ** 2).sum(axis=1)
    assert gain.min() == pytest.approx(0.888, abs=2e-3)
    assert gain.max() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", ["camera", "grass", "brick"])
def test_there_and_back_blurs_at_most_0_55_of_keys(name):
    image = getattr(data, name)().astype(np.float32)
    flow = np.zeros((*image.shape, 2), np.float32)
    flow[..., 0], flow[..., 1] = 15 / 32, 15 / 32
    inner = np.s_[32:-32, 32:-32]

    def error(result: np.ndarray) -> float:
        return float(np.sqrt(((result - image)[inner] ** 2).mean()))

    ours = error(warp(warp(image, flow), -flow))
    cubic = image.astype(np.float64)
    for taps, origin in ((keys(15 / 32), -1), (keys(15 / 32)[::-1], 0)):
        for axis in (0, 1):
            cubic = ndimage.correlate1d(cubic, taps, axis=axis, origin=origin)
    # Taps at -1..2 look forward: a ramp must gain 15/32 or this comparison would be unfair.
    ramp = ndimage.correlate1d(np.arange(40.0), keys(15 / 32), origin=-1)
    assert ramp[20] == pytest.approx(20 + 15 / 32)
    assert ours <= 0.55 * error(cubic)


def random_flow(shape: tuple[int, int], amount: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-amount, amount, (*shape, 2)).astype(np.float32)


def test_a_band_limited_picture_is_resampled_truly(picture):
    shape = (90, 110)
    rows, columns = np.indices(shape)
    flow = random_flow(shape, 1.5)
    image = picture(columns, rows)
    truth = picture(columns + flow[..., 0], rows + flow[..., 1])
    inner = np.s_[10:-10, 10:-10]
    error = np.abs(warp(image, flow) - truth)[inner].max()
    assert error < 1.5e-3
    assert error < np.abs(warp(image, flow, method="cubic") - truth)[inner].max() / 3
    # scipy's quintic spline is as good on such a picture: both must agree
    spline = ndimage.map_coordinates(image, [rows + flow[..., 1], columns + flow[..., 0]], order=5, mode="mirror")
    assert np.abs(warp(image, flow) - spline)[inner].max() < 2e-3


@pytest.mark.parametrize("method", ["cmtf", "linear"])
def test_ramps_are_exact(method):
    shape = (40, 60)
    rows, columns = np.indices(shape)
    flow = random_flow(shape, 3)
    inner = np.s_[10:-10, 10:-10]
    result = warp(0.3 + 0.01 * columns - 0.02 * rows, flow, method=method)
    truth = 0.3 + 0.01 * (columns + flow[..., 0]) - 0.02 * (rows + flow[..., 1])
    assert np.abs(result - truth)[inner].max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), dx=st.integers(-35, 35), dy=st.integers(-35, 35),
    method=st.sampled_from(METHODS),
)  # fmt: skip
def test_whole_shifts_copy_pixels_and_the_edge_repeats(height, width, dx, dy, method):
    image = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    flow = np.broadcast_to(np.array([dx, dy], np.float32), (height, width, 2))
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    result = warp(image, flow, method=method)
    expected = image[rows][:, columns]
    assert np.array_equal(result, expected) if method == "cmtf" else np.allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_at_the_border_the_edge_goes_on(method):
    image = np.random.default_rng(1).random((24, 31)).astype(np.float32)
    flow = random_flow(image.shape, 8, seed=2)
    # Positions beyond the frame take the value of the nearest place in it ...
    place = np.moveaxis(np.indices(image.shape)[::-1], 0, -1)
    inside = (np.clip(place + flow, 0, np.array([30, 23])) - place).astype(np.float32)
    if method == "cmtf":
        assert np.abs(warp(image, flow) - warp(image, inside)).max() < 1e-5
        flow = inside
    # ... and a footprint that leaves the frame finds the edge repeated there.
    pad = 20
    wide = np.pad(image, pad, mode="edge")
    wide_flow = np.pad(flow, ((pad, pad), (pad, pad), (0, 0)))
    expected = warp(wide, wide_flow, method=method)[pad:-pad, pad:-pad]
    tolerance = 1e-5 if method != "lanczos" else 1e-4
    assert np.abs(warp(image, flow, method=method) - expected).max() < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_valid_area_is_where_nothing_beyond_the_frame_counts(method):
    shape, pad = (40, 50), 16
    rng = np.random.default_rng(3)
    flow = random_flow(shape, 9, seed=4)
    wide_flow = np.pad(flow, ((pad, pad), (pad, pad), (0, 0)))
    worlds = []
    image = rng.random(shape).astype(np.float32)
    for _ in range(2):
        wide = (5 + rng.random((shape[0] + 2 * pad, shape[1] + 2 * pad))).astype(np.float32)
        wide[pad:-pad, pad:-pad] = image
        worlds.append(warp(wide, wide_flow, method=method)[pad:-pad, pad:-pad])
    same = np.abs(worlds[0] - worlds[1]) < 1e-6
    valid = valid_area(flow, method=method)
    assert valid.shape == shape
    assert valid.dtype == bool
    assert same[valid].all()
    assert 0.2 < valid.mean() < 0.9
    # Lanczos quantises positions, so that some land on whole pixels, which need no neighbours.
    assert same[~valid].mean() < (0.06 if method == "lanczos" else 0.01)


def test_valid_area_of_no_flow():
    valid = valid_area(np.zeros((30, 40, 2), np.float32))
    assert valid[5:-5, 5:-5].all()
    assert valid.sum() == 20 * 30
    assert valid_area(np.zeros((30, 40, 2), np.float32), method="linear").all()


def test_planes_are_independent_and_inputs_stay():
    image = np.random.default_rng(5).random((25, 33, 4))
    flow = random_flow((25, 33), 2, seed=6)
    image.setflags(write=False)
    flow.setflags(write=False)
    result = warp(image, flow)
    assert result.dtype == np.float32
    assert result.shape == image.shape
    for channel in range(4):
        assert np.array_equal(result[..., channel], warp(image[..., channel], flow))
    assert np.array_equal(warp(image[:, ::-1], flow), warp(image[:, ::-1].copy(), flow))


@pytest.mark.parametrize("method", METHODS)
def test_wrong_flows(method):
    image = np.zeros((20, 30, 3), np.float32)
    for shape in ((30, 20, 2), (20, 30), (20, 30, 3)):
        with pytest.raises(ValueError, match="needs a flow"):
            warp(image, np.zeros(shape, np.float32), method=method)
    for value in (np.nan, np.inf):
        flow = np.zeros((20, 30, 2), np.float32)
        flow[3, 4, 1] = value
        with pytest.raises(ValueError, match="NaN"):
            warp(image, flow, method=method)
