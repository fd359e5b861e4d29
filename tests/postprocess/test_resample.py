"""The constant-MTF interpolators: their taps, their frequency response, and `warp` as a whole."""

import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data

from relo.postprocess.resample import MATCHED_TAPS, PHASES, TAPS, taps_table, valid_area, warp

CMTF = ("cmtf", "cmtf-matched")
METHODS = (*CMTF, "cubic", "lanczos", "linear")
TABLES = {"cmtf": taps_table(), "cmtf-matched": taps_table(MATCHED_TAPS, pass_band=0.36, matched=True)}
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


def between(table: np.ndarray, phase: float) -> np.ndarray:
    """Taps at any phase, interpolated linearly as `warp` does."""
    row = min(int(phase * PHASES), PHASES - 1)
    rest = phase * PHASES - row
    return (1 - rest) * table[row] + rest * table[row + 1]


def cmtf(phase: float) -> np.ndarray:
    return between(TABLES["cmtf"], phase)


def matched(phase: float) -> np.ndarray:
    return between(TABLES["cmtf-matched"], phase)


def shift_error(kernel) -> float:
    """Largest phase delay relative to the wanted shift [px]."""
    frequency = np.linspace(0.005, 0.35, 200)
    delays = [np.angle(response(kernel(d), d)) / (2 * np.pi * frequency) for d in np.arange(33) / 32]
    return float(np.abs(delays).max())


def test_taps_of_the_fact_sheet():
    assert cmtf(0.5) == pytest.approx(np.array(HALF + HALF[::-1]), abs=1e-6)
    assert cmtf(0.25) == pytest.approx(np.array(QUARTER), abs=1e-6)


@pytest.mark.parametrize("method", CMTF)
def test_moments_are_exact(method):
    table = TABLES[method]
    taps = {"cmtf": TAPS, "cmtf-matched": MATCHED_TAPS}[method]
    assert table.shape == (PHASES + 1, taps)
    offsets = np.arange(taps) - (taps // 2 - 1)
    # thirds of steps: also between the phases of the table, where it is interpolated
    for phase in np.arange(3 * PHASES + 1) / (3 * PHASES):
        kernel = between(table, phase)
        assert abs(kernel.sum() - 1) < 1e-12
        assert abs(kernel @ offsets - phase) < 1e-12


def test_phases_0_and_1_are_the_identity_but_for_matched():
    unit = np.zeros(TAPS)
    unit[TAPS // 2 - 1] = 1
    assert np.array_equal(TABLES["cmtf"][0], unit)
    assert np.array_equal(TABLES["cmtf"][-1], np.roll(unit, 1))
    low_pass = TABLES["cmtf-matched"][0]
    assert low_pass[MATCHED_TAPS // 2 - 1] == pytest.approx(0.86, abs=0.01)
    # A whole shift is the same low-pass from either side, or the image would jump where the flow passes it.
    assert np.roll(low_pass, 1) == pytest.approx(TABLES["cmtf-matched"][-1], abs=2e-5)


@pytest.mark.parametrize("method", CMTF)
def test_the_table_is_symmetric(method):
    assert TABLES[method] == pytest.approx(TABLES[method][::-1, ::-1], abs=1e-12)


@pytest.mark.parametrize("method", CMTF)
def test_the_taps_are_optimal(method):
    """No other taps with the same moments come closer to the target in the weighted mean square."""
    frequency = np.linspace(0, 0.5, 4001)
    if method == "cmtf":
        weight, target = np.where(frequency <= 0.4, 1.0, 1e-3), np.ones_like(frequency)
    else:
        fall = np.clip((frequency - 0.36) / 0.14, 0, 1)
        weight, target = np.where(fall > 0, 0.03, 1.0), np.cos(np.pi / 2 * fall) ** 2
    table = TABLES[method]
    taps = table.shape[1]
    offsets = np.arange(taps) - (taps // 2 - 1)
    rng = np.random.default_rng(0)
    for phase in (0.25, 0.5, 0.875):
        shift = np.exp(2j * np.pi * frequency[:, None] * (offsets - phase))

        def cost(kernel, shift=shift):
            return float((weight * np.abs(shift @ kernel - target) ** 2).mean())

        best = between(table, phase)
        for _ in range(20):
            change = rng.normal(0, 1e-2, taps)
            basis = np.stack([np.ones(taps), offsets])
            change -= basis.T @ np.linalg.solve(basis @ basis.T, basis @ change)
            assert cost(best + change) > cost(best)


@pytest.mark.parametrize("kernel, spread, delay", [(cmtf, 0.0076, 0.0013), (matched, 0.0037, 0.0006)])
def test_mtf_is_constant_and_the_shift_true(kernel, spread, delay):
    assert mtf_spread(kernel) <= 0.01
    assert mtf_spread(kernel) <= mtf_spread(keys) / 20
    assert mtf_spread(kernel) <= mtf_spread(lanczos4) / 3
    assert shift_error(kernel) <= 0.002
    # Sheet section 7, which gives two digits.
    assert mtf_spread(kernel) == pytest.approx(spread, abs=1e-4)
    assert shift_error(kernel) == pytest.approx(delay, abs=1e-4)


def test_noise_gain():
    gain = (TABLES["cmtf"] ** 2).sum(axis=1)
    assert gain.min() == pytest.approx(0.888, abs=2e-3)
    assert gain.max() == pytest.approx(1.0, abs=2e-3)
    gain = (TABLES["cmtf-matched"] ** 2).sum(axis=1)
    assert gain.max() / gain.min() <= 1.01
    assert gain.mean() == pytest.approx(0.82, abs=0.01)


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
    # "cmtf-matched" low-passes each way, and still costs less.
    low_passed = error(warp(warp(image, flow, method="cmtf-matched"), -flow, method="cmtf-matched"))
    assert ours < low_passed < error(cubic)


def random_flow(shape: tuple[int, int], amount: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-amount, amount, (*shape, 2)).astype(np.float32)


def brute_force(image: np.ndarray, flow: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One sample after the other in float64: position kept in the frame, edge repeated."""
    height, width = image.shape[:2]
    offsets = np.arange(table.shape[1]) - (table.shape[1] // 2 - 1)
    result = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            px = np.clip(x + np.float64(flow[y, x, 0]), 0, width - 1)
            py = np.clip(y + np.float64(flow[y, x, 1]), 0, height - 1)
            columns = np.clip(int(px) + offsets, 0, width - 1)
            rows = np.clip(int(py) + offsets, 0, height - 1)
            part = image[np.ix_(rows, columns)].astype(np.float64)
            result[y, x] = np.einsum("r,k,rk...->...", between(table, py % 1), between(table, px % 1), part)
    return result


@pytest.mark.parametrize("method", CMTF)
@pytest.mark.parametrize(
    "shape, amount",
    [((23, 31), 3), ((17, 40, 1), 60), ((21, 25, 2), 5), ((27, 35, 3), 2), ((9, 41, 3), 1e4), ((19, 22, 4), 4),
     ((20, 21, 5), 30), ((1, 1), 5), ((1, 1, 3), 5), ((2, 50, 3), 1), ((50, 1), 1)],
)  # fmt: skip
def test_equals_a_brute_force_gather(method, shape, amount):
    image = np.random.default_rng(7).random(shape, dtype=np.float32)
    flow = random_flow(shape[:2], amount, seed=8)
    # float32 sums of 256 products: a few units of 6e-8
    assert np.abs(warp(image, flow, method=method) - brute_force(image, flow, TABLES[method])).max() < 2e-6


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


@pytest.mark.parametrize("method", [*CMTF, "linear"])
def test_constants_and_ramps_are_exact(method):
    shape = (40, 60)
    rows, columns = np.indices(shape)
    flow = random_flow(shape, 3)
    inner = np.s_[10:-10, 10:-10]
    result = warp(0.3 + 0.01 * columns - 0.02 * rows, flow, method=method)
    truth = 0.3 + 0.01 * (columns + flow[..., 0]) - 0.02 * (rows + flow[..., 1])
    assert np.abs(result - truth)[inner].max() < 1e-5
    constant = np.full((*shape, 3), 0.7, np.float32)
    assert np.abs(warp(constant, flow, method=method) - constant).max() < 1e-6


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
    whole = warp(image, np.zeros_like(flow), method=method)
    if method != "cmtf-matched":
        assert np.array_equal(whole, image)
    expected = whole[rows][:, columns]
    # Only the identity of "cmtf" is exact: sums of several taps may be added in another order from row to row.
    assert np.array_equal(result, expected) if method == "cmtf" else np.allclose(result, expected, atol=1e-6)


def test_matched_is_a_low_pass_where_nothing_moves():
    image = np.random.default_rng(0).random((60, 70)).astype(np.float32)
    expected = image.astype(np.float64)
    for axis in (0, 1):
        # correlate1d centres 16 taps on the ninth, `warp` on the eighth
        expected = ndimage.correlate1d(expected, TABLES["cmtf-matched"][0], axis, mode="nearest", origin=-1)
    result = warp(image, np.zeros((60, 70, 2), np.float32), method="cmtf-matched")
    assert np.abs(result - expected).max() < 2e-6
    assert np.abs(result - image).max() > 0.05


def test_matched_noise_is_stationary():
    """A slow zoom beats "cmtf" noise into bands, in which the position passes from whole to half pixels."""
    noise = np.random.default_rng(0).normal(size=(800, 400)).astype(np.float32)
    flow = np.zeros((800, 400, 2), np.float32)
    flow[...] = np.linspace(0, 1, 400, dtype=np.float32)[:, None]
    spread = {}
    for method in CMTF:
        power = (warp(noise, flow, method=method) ** 2).reshape(800, 20, 20).mean(axis=(0, 2))[1:-1]
        spread[method] = power.max() / power.min()
    # 16000 samples an estimate: 1.1 % deviation each
    assert spread["cmtf-matched"] < 1.1
    assert spread["cmtf"] > 1.2


@pytest.mark.parametrize("method", METHODS)
def test_at_the_border_the_edge_goes_on(method):
    image = np.random.default_rng(1).random((24, 31)).astype(np.float32)
    flow = random_flow(image.shape, 8, seed=2)
    # Positions beyond the frame take the value of the nearest place in it ...
    place = np.moveaxis(np.indices(image.shape)[::-1], 0, -1)
    inside = (np.clip(place + flow, 0, np.array([30, 23])) - place).astype(np.float32)
    if method in CMTF:
        assert np.abs(warp(image, flow, method=method) - warp(image, inside, method=method)).max() < 1e-5
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
    assert valid_area(np.zeros((30, 40, 2), np.float32), method="cmtf-matched").sum() == 16 * 26
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
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(method, channels):
    image = np.random.default_rng(5).random((25, 33, channels)).astype(np.float32)
    flow = random_flow((25, 33), 2, seed=6)
    for clamp in (False, True):
        result = warp(image, flow, method=method, clamp=clamp)
        assert result.shape == image.shape
        for channel in range(channels):
            alone = warp(image[..., channel], flow, method=method, clamp=clamp)
            assert np.abs(result[..., channel] - alone).max() < 2e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_other_types_become_float32(dtype):
    image = (np.random.default_rng(5).random((25, 33, 3)) * 200).astype(dtype)
    flow = random_flow((25, 33), 2, seed=6)
    result = warp(image, flow.astype(np.float64))
    assert result.dtype == np.float32
    assert np.array_equal(result, warp(image.astype(np.float32), flow))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3), (4, 5, 0), (1, 1), (1, 1, 3), (1, 7), (3, 2, 4)])
def test_empty_and_tiny_images(method, shape):
    image = np.full(shape, 0.25, np.float32)
    flow = random_flow(shape[:2], 3)
    for clamp in (False, True):
        result = warp(image, flow, method=method, clamp=clamp)
        assert result.shape == shape
        assert np.abs(result - 0.25).max(initial=0) < 1e-6
    assert valid_area(flow, method=method).shape == shape[:2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("amount", [1e3, 1e12, 3e38])
def test_a_flow_beyond_the_frame_takes_the_corner(method, amount):
    image = np.random.default_rng(5).random((20, 30, 3)).astype(np.float32)
    corners = {sign: np.full((20, 30, 2), sign * amount, np.float32) for sign in (-1, 1)}
    whole = warp(image, np.zeros((20, 30, 2), np.float32), method=method)
    for sign, corner in ((-1, whole[0, 0]), (1, whole[-1, -1])):
        assert np.abs(warp(image, corners[sign], method=method) - corner).max() < 1e-6
        assert not valid_area(corners[sign], method=method).any()


@pytest.mark.parametrize("method", ["cubic", "lanczos", "linear"])
def test_opencv_takes_no_long_sides(method):
    for shape in ((1, 32767), (32767, 1)):
        with pytest.raises(ValueError, match="32766"):
            warp(np.zeros(shape, np.float32), np.zeros((*shape, 2), np.float32), method=method)
    image = np.random.default_rng(5).random((1, 32766)).astype(np.float32)
    assert np.array_equal(warp(image, np.zeros((*image.shape, 2), np.float32), method=method), image)


@pytest.mark.parametrize("method", CMTF)
def test_cmtf_is_as_exact_at_the_far_end_of_a_long_side(method):
    image = np.tile(np.random.default_rng(5).random(100), 700).astype(np.float32)[None]
    for shape in ((1, 70000), (70000, 1)):
        flow = np.full((*shape, 2), 0.3, np.float32)
        periods = warp(image.reshape(shape), flow, method=method).reshape(700, 100)[1:-1]
        # float32 positions would be off by 4e-3 px out there
        assert np.ptp(periods, axis=0).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(25, 33, 3), (30, 21), (1, 1), (3, 2, 2)])
def test_clamped_results_stay_in_the_range_of_the_pixels_around(method, shape):
    # Two values only, so that many results overshoot.
    image = np.random.default_rng(9).integers(0, 2, shape).astype(np.float32)
    flow = random_flow(shape[:2], 4, seed=10)
    plain, clamped = warp(image, flow, method=method), warp(image, flow, method=method, clamp=True)
    low, high = np.empty(shape), np.empty(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            ix = int(np.clip(x + np.float64(flow[y, x, 0]), 0, shape[1] - 1))
            iy = int(np.clip(y + np.float64(flow[y, x, 1]), 0, shape[0] - 1))
            around = image[max(iy - 1, 0) : iy + 3, max(ix - 1, 0) : ix + 3]
            low[y, x], high[y, x] = around.min(axis=(0, 1)), around.max(axis=(0, 1))
    assert np.array_equal(clamped, np.clip(plain, low, high))
    if method != "linear" and min(shape[:2]) > 10:
        assert (plain != clamped).mean() > 0.05


@pytest.mark.parametrize("method", CMTF)
def test_clamping_takes_the_ringing_from_a_step_edge(method):
    edge = np.zeros((30, 60), np.float32)
    edge[:, 30:] = 1
    flow = np.zeros((30, 60, 2), np.float32)
    flow[..., 0] = 0.5
    plain, clamped = warp(edge, flow, method=method), warp(edge, flow, method=method, clamp=True)
    assert plain.max() > 1.1
    assert clamped.max() == 1
    assert clamped.min() == 0
    assert np.all(np.diff(clamped, axis=1) >= 0)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", CMTF)
def test_threads_do_not_change_a_bit(method, channels):
    image = np.random.default_rng(11).random((67, 90, channels)).astype(np.float32)
    flow = random_flow((67, 90), 3, seed=12)
    threads = numba.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            numba.set_num_threads(count)
            results.append(warp(image, flow, method=method, clamp=True))
    finally:
        numba.set_num_threads(threads)
    assert np.array_equal(*results)


@pytest.mark.parametrize("clamp", [False, True])
def test_the_result_is_all_that_is_allocated(clamp):
    image = np.random.default_rng(11).random((300, 400, 3)).astype(np.float32)
    flow = random_flow((300, 400), 3, seed=12)
    warp(image, flow, clamp=clamp)  # compile
    tracemalloc.start()
    try:
        warp(image, flow, clamp=clamp)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * image.nbytes
        tracemalloc.reset_peak()
        valid_area(flow)
        # two masks of a byte a pixel, and numpy's buffers
        assert tracemalloc.get_traced_memory()[1] < 4 * flow[..., 0].size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS)
def test_wrong_flows(method):
    image = np.zeros((20, 30, 3), np.float32)
    for shape in ((30, 20, 2), (20, 30), (20, 30, 3)):
        with pytest.raises(ValueError, match="needs a flow"):
            warp(image, np.zeros(shape, np.float32), method=method)
    for shape in ((20,), (20, 30, 3, 1)):
        with pytest.raises(ValueError, match="must be"):
            warp(np.zeros(shape), np.zeros((*shape[:2], 2), np.float32), method=method)
    for value in (np.nan, np.inf, -np.inf):
        flow = np.zeros((20, 30, 2), np.float32)
        flow[3, 4, 1] = value
        with pytest.raises(ValueError, match="NaN"):
            warp(image, flow, method=method)
