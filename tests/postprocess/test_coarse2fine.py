"""Coarse to fine flow: each step against slow sums from the formulas, the whole against numbers of the original."""

import math

import numpy as np
import pytest

from relo.postprocess.flow import coarse2fine
from relo.postprocess.flow.coarse2fine import estimate_coarse2fine

ROWS, COLUMNS = np.indices((96, 145), np.float64)
INNER = np.s_[8:-8, 8:-8]


def truth() -> np.ndarray:
    """A smooth flow of 1 to 4 px (dx, dy)."""
    x, y = COLUMNS - 72, ROWS - 47.5
    return np.stack([2.4 + 0.01 * x - 0.006 * y, -1.7 + 0.006 * x + 0.008 * y + 0.4 * np.sin(x / 25)], axis=-1)


def pair(picture, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(target, moving): grey frames with moving(x + flow(x)) = target(x)."""
    return picture(COLUMNS + flow[..., 0], ROWS + flow[..., 1]), picture(COLUMNS, ROWS)


def error(flow: np.ndarray, expected: np.ndarray) -> float:
    """Mean end-point error [px] without the border."""
    return float(np.hypot(*np.moveaxis(flow - expected, -1, 0))[INNER].mean())


# The whole ----------------------------------------------------------------------------------------------------


def golden_pair() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((64, 96), np.float64)

    def picture(x, y):
        channels = [
            0.5
            + 0.15 * np.sin(0.31 * x + 0.17 * y + c)
            + 0.12 * np.sin(0.37 * y - 0.11 * x + 2 * c)
            + 0.10 * np.sin(0.07 * x + 0.05 * y + 0.5 * c)
            + 0.08 * np.sin(0.83 * x - 0.59 * y + 3 * c)
            for c in range(3)
        ]
        return np.stack(channels, axis=-1)

    dx, dy = 1.6 + 0.8 * np.sin(rows / 20), -0.9 + 0.02 * columns - 0.5 * np.cos(columns / 15)
    return picture(columns + dx, rows + dy), picture(columns, rows)


GOLDEN_ROWS = np.array([0, 5, 17, 31, 32, 40, 58, 63])
GOLDEN_COLUMNS = np.array([0, 81, 20, 48, 47, 95, 9, 70])
# (settings, grey, flow at these points): computed on golden_pair() by the original algorithm, the functions of
# pathak22/pyflow's C++ core that make the flow, transcribed and compiled outside of this repository. The colour
# order, which the original leaves uninitialised on all levels but the finest, was taken as RGB.
ORIGINAL = {
    "defaults": (
        {},
        False,
        [
            (0.654713026, -1.071466971),
            (1.764335193, 0.433655572),
            (2.152212255, -0.632675567),
            (2.393241627, 0.443171403),
            (2.391365496, 0.561016790),
            (2.228962203, 0.306534778),
            (1.816107781, -1.108029522),
            (1.680038492, 0.455384963),
        ],
    ),
    "settings": (
        {"alpha": 0.05, "ratio": 0.6, "min_width": 12, "outer": 3, "inner": 2, "sor": 20},
        False,
        [
            (1.796751746, -1.270089515),
            (1.796417913, 0.440937576),
            (2.201776885, -0.641813857),
            (2.361364013, 0.532535488),
            (2.364059069, 0.532933835),
            (2.229543936, 0.518857858),
            (1.804385016, -1.115457394),
            (1.781002896, 0.527638901),
        ],
    ),
    "grey": (
        {},
        True,
        [
            (1.462222961, -1.367170875),
            (1.812221399, 0.422356564),
            (2.242429242, -0.660360410),
            (2.294046031, 0.455256248),
            (2.408066284, 0.548116070),
            (2.254172583, 0.349007080),
            (1.767432218, -1.091627065),
            (1.651621142, 0.467411576),
        ],
    ),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_flow_is_that_of_the_original(name):
    settings, grey, expected = ORIGINAL[name]
    frames = [frame[..., 1] if grey else frame for frame in golden_pair()]
    flow = estimate_coarse2fine(*frames, **settings)
    assert flow.dtype == np.float32
    # float32 rounds to 2e-7; the rest is room for another libm
    assert flow[GOLDEN_ROWS, GOLDEN_COLUMNS] == pytest.approx(np.array(expected), abs=1e-6)


def test_finds_a_smooth_flow(picture):
    flow = estimate_coarse2fine(*pair(picture, truth()))
    assert flow.shape == (*ROWS.shape, 2)
    assert error(np.zeros_like(flow), truth()) > 2.5
    # the limits here and below are about 1.5 times what is reached
    assert error(flow, truth()) < 0.04


def test_colour_tells_what_grey_hides(picture):
    target, moving = pair(picture, truth())
    # red up, green down: the brightness 0.299 R + 0.587 G + 0.114 B of both frames is constant
    frames = [0.5 + np.dstack([0.587 * (f - 0.5), -0.299 * (f - 0.5), 0 * f]) for f in (target, moving)]
    assert error(estimate_coarse2fine(*frames), truth()) < 0.035


@pytest.mark.parametrize("colour", [False, True])
def test_identical_frames_do_not_move(picture, colour):
    frame = picture(COLUMNS, ROWS)
    frame = np.dstack([frame, frame**2, 1 - frame]) if colour else frame
    assert not estimate_coarse2fine(frame, frame.copy()).any()
    assert not estimate_coarse2fine(np.full_like(frame, 0.4), np.full_like(frame, 0.4)).any()


def test_brightness_must_match(picture):
    target, moving = pair(picture, truth())
    moving = 0.9 * moving
    matched = moving * (target.mean() / moving.mean())
    assert error(estimate_coarse2fine(target, matched), truth()) < 0.06
    assert error(estimate_coarse2fine(target, moving), truth()) > 0.3


@pytest.mark.parametrize("shape", [(33, 50), (61, 47), (96, 21), (7, 90), (1, 30), (1, 1)])
def test_any_size(picture, shape):
    height, width = shape
    rows, columns = np.indices(shape, np.float64)
    flow = estimate_coarse2fine(picture(columns + 0.5, rows), picture(columns, rows))
    assert flow.shape == (height, width, 2)
    assert np.isfinite(flow).all()
    if min(shape) > 20:
        assert np.abs(flow - (0.5, 0.0))[4:-4, 4:-4].mean() < 0.012


def test_inputs_stay_and_may_be_float32_or_read_only(picture):
    frames = [np.asarray(frame, np.float32) for frame in pair(picture, truth())]
    for frame in frames:
        frame.setflags(write=False)
    flow = estimate_coarse2fine(*frames)
    assert np.array_equal(flow, estimate_coarse2fine(*(frame.astype(np.float64)[:] for frame in frames)))
    padded = [np.asfortranarray(np.pad(frame, 3))[3:-3, 3:-3] for frame in frames]
    assert np.array_equal(flow, estimate_coarse2fine(*padded))


def test_errors(picture):
    frame = picture(COLUMNS, ROWS)
    with pytest.raises(ValueError, match="differ in size"):
        estimate_coarse2fine(frame, frame[:-1])
    for wrong in (frame[0], frame[..., None], np.dstack([frame] * 4), frame[:0]):
        with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, 3\)"):
            estimate_coarse2fine(wrong, wrong)
    for value in (np.nan, np.inf):
        broken = frame.copy()
        broken[3, 4] = value
        for frames in ((frame, broken), (broken, frame)):
            with pytest.raises(ValueError, match="NaN or infinite"):
                estimate_coarse2fine(*frames)
    for ratio in (0.39, 0.99, 1.0, math.nan):
        with pytest.raises(ValueError, match="ratio is"):
            estimate_coarse2fine(frame, frame, ratio=ratio)
    for setting in ({"alpha": 0.0}, {"alpha": math.nan}, {"min_width": 0}, {"outer": 0}, {"inner": 0}, {"sor": 0}):
        with pytest.raises(ValueError, match="at least"):
            estimate_coarse2fine(frame, frame, **setting)


# The steps, by loops over pixels --------------------------------------------------------------------------------


def clamp(index: int, size: int) -> int:
    return min(max(index, 0), size - 1)


def slow_correlate(plane: np.ndarray, taps, axis: int) -> np.ndarray:
    radius = len(taps) // 2
    out = np.zeros_like(plane)
    for place in np.ndindex(plane.shape):
        for k, tap in enumerate(taps):
            other = list(place)
            other[axis] = clamp(place[axis] + k - radius, plane.shape[axis])
            out[place] += tap * plane[tuple(other)]
    return out


def slow_bilinear(plane: np.ndarray, x: float, y: float) -> float:
    height, width = plane.shape
    left, upper = int(x), int(y)
    total = 0.0
    for i in (0, 1):
        for j in (0, 1):
            fx, fy = min(max(x - left, 0), 1), min(max(y - upper, 0), 1)
            share = (fx if j else 1 - fx) * (fy if i else 1 - fy)
            total += share * plane[clamp(upper + i, height), clamp(left + j, width)]
    return total


def slow_resize(plane: np.ndarray, size: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    rows, columns = ([(k + 1) / s - 1 for k in range(n)] for n, s in zip(size, scale, strict=True))
    return np.array([[slow_bilinear(plane, x, y) for x in columns] for y in rows])


def slow_blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    radius = math.floor(3 * sigma)
    taps = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    return slow_correlate(slow_correlate(plane, taps, 1), taps, 0)


def test_resize():
    planes = np.random.default_rng(0).random((2, 9, 14))
    for size, scale in (((6, 10), (0.75, 0.75)), ((12, 19), (12 / 9, 19 / 14)), ((9, 14), (1.0, 1.0))):
        result = coarse2fine._resize(planes, size, scale)
        for plane, expected in zip(result, planes, strict=True):
            np.testing.assert_allclose(plane, slow_resize(expected, size, scale), atol=1e-14)


@pytest.mark.parametrize(("ratio", "jump"), [(0.75, 4), (0.6, 2), (0.4, 1)])
def test_pyramid(ratio, jump):
    frame = np.random.default_rng(1).random((1, 50, 77))
    levels = [level[0] for level in coarse2fine._pyramid(frame, ratio, 5)]
    assert len(levels) == math.floor(math.log(5 / 77) / math.log(ratio))
    for k, level in enumerate(levels[1:], 1):
        # a few levels come from the frame itself, the others from the level a quarter of the size above
        steps = min(k, jump)
        source = levels[k - steps]
        scale = ratio**k * 77 / source.shape[1]
        assert level.shape == (math.floor(source.shape[0] * scale), math.floor(77 * ratio**k))
        blurred = slow_blur(source, steps * (1 / ratio - 1))
        np.testing.assert_allclose(level, slow_resize(blurred, level.shape, (scale, scale)), atol=1e-13)


def test_sizes_of_the_levels():
    sizes = [level.shape[1:] for level in coarse2fine._pyramid(np.zeros((1, 480, 640)), 0.75, 20)]
    assert len(sizes) == 12
    assert sizes[:6] == [(480, 640), (360, 480), (270, 360), (202, 270), (151, 202), (113, 151)]
    # 0.8 * 30 is 24, which 0.8 * 81 / 81 * 30 falls short of
    assert int(0.8 * 81 / 81 * 30) == 23
    assert coarse2fine._pyramid(np.zeros((1, 30, 81)), 0.8, 20)[1].shape[1:] == (24, 64)
    # no level without rows
    assert coarse2fine._pyramid(np.zeros((1, 3, 640)), 0.75, 20)[-1].shape[1] == 1
    assert len(coarse2fine._pyramid(np.zeros((1, 40, 15)), 0.75, 20)) == 1


def test_features():
    red, green, blue = rgb = np.random.default_rng(2).random((3, 11, 8))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    slope = np.array([1, -8, 0, 8, -1]) / 12
    expected = [grey, slow_correlate(grey, slope, 1), slow_correlate(grey, slope, 0), green - red, green - blue]
    np.testing.assert_allclose(coarse2fine._features(rgb), expected, atol=1e-14)
    np.testing.assert_allclose(coarse2fine._features(grey[None]), expected[:3], atol=1e-14)
    # the slope of a ramp along x is 1 per px, along y 0
    ramp = coarse2fine._features(np.indices((9, 9), np.float64)[1:])
    np.testing.assert_allclose(ramp[1][2:-2, 2:-2], 1, atol=1e-14)
    np.testing.assert_allclose(ramp[2], 0, atol=1e-14)


def test_data_term():
    rng = np.random.default_rng(3)
    # higher than one strip; some samples lie outside of the frame
    channels, height, width = shape = (2, 45, 9)
    first, second = rng.random((2, *shape))
    flow = rng.normal(0, 1.5, (2, height, width))
    increment = np.zeros((2, height + 2, width + 2))
    increment[:, 1:-1, 1:-1] = du, dv = rng.normal(0, 0.5, (2, height, width))
    system = np.full((6, height + 2, width + 2), 7.0)
    coarse2fine._add_data(first, second, flow, increment, system)

    smooth, slope = (0.02, 0.11, 0.74, 0.11, 0.02), np.array([1, -8, 0, 8, -1]) / 12
    expected = np.zeros((5, height, width))
    outside = 0
    for one, two in zip(first, second, strict=True):
        warped = one.copy()
        for y, x in np.ndindex(height, width):
            px, py = x + flow[0, y, x], y + flow[1, y, x]
            if 0 <= px <= width - 1 and 0 <= py <= height - 1:
                warped[y, x] = slow_bilinear(two, px, py)
            else:
                outside += 1
        one, warped = (slow_correlate(slow_correlate(plane, smooth, 1), smooth, 0) for plane in (one, warped))
        blend = 0.4 * one + 0.6 * warped
        gx, gy, gt = slow_correlate(blend, slope, 1), slow_correlate(blend, slope, 0), warped - one
        weight = 0.5 / np.sqrt((gt + gx * du + gy * dv) ** 2 + 0.001**2)
        expected += np.array([weight * a * b for a, b in ((gx, gx), (gy, gy), (gx, gy), (gx, gt), (gy, gt))])
    assert outside > 20
    np.testing.assert_allclose(system[1:, 1:-1, 1:-1], expected / channels, rtol=1e-12, atol=1e-13)
    # what is beyond the frame must not enter
    assert not system[1:, [0, -1]].any()
    assert not system[1:, :, [0, -1]].any()


def linear_system(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A small problem and its matrix: (system of relo, matrix, right side, du and dv so far, weights)."""
    rng = np.random.default_rng(seed)
    height, width = 5, 7
    alpha, count = 0.02, height * width
    flow = rng.normal(0, 0.02, (2, height, width))
    increment = np.zeros((2, height + 2, width + 2))
    increment[:, 1:-1, 1:-1] = rng.normal(0, 0.02, (2, height, width))
    slopes = rng.normal(0, 1, (2, 3, count))
    xx, yy, xy = (slopes[0] ** 2).mean(0), (slopes[1] ** 2).mean(0), (slopes[0] * slopes[1]).mean(0)
    xt, yt = rng.normal(0, 1, (2, count))
    system = np.zeros((6, height + 2, width + 2))
    system[1:, 1:-1, 1:-1] = np.reshape([xx, yy, xy, xt, yt], (5, height, width))
    coarse2fine._add_smoothness(flow, increment, alpha, system)

    # Edges as a matrix: each row subtracts a pixel from its right or lower neighbour.
    index = np.arange(count).reshape(height, width)
    edges = [(a, b) for a, b in zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True)]
    edges += [(a, b) for a, b in zip(index[:-1].ravel(), index[1:].ravel(), strict=True)]
    difference = np.zeros((len(edges), count))
    for row, (a, b) in enumerate(edges):
        difference[row, [a, b]] = -1, 1
    total = (flow + increment[:, 1:-1, 1:-1]).reshape(2, count)
    squares = np.zeros(count)
    np.add.at(squares, [a for a, _ in edges], ((total @ difference.T) ** 2).sum(0))
    phi = 0.5 / np.sqrt(squares + 0.001**2)
    laplacian = difference.T @ np.diag(phi[[a for a, _ in edges]]) @ difference
    smooth = alpha * laplacian + 0.05 * alpha * np.eye(count)
    matrix = np.block([[np.diag(xx) + smooth, np.diag(xy)], [np.diag(xy), np.diag(yy) + smooth]])
    u, v = flow.reshape(2, count)
    right = np.concatenate([-xt - alpha * laplacian @ u, -yt - alpha * laplacian @ v])
    return system, matrix, right, alpha * phi.reshape(height, width), np.reshape(xy, (height, width))


def test_smoothness_term():
    system, matrix, right, weights, cross = linear_system(4)
    inside = system[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inside[0], weights, rtol=1e-12)
    np.testing.assert_allclose(inside[1:3].ravel(), 1.8 / np.diag(matrix), rtol=1e-12)
    np.testing.assert_array_equal(inside[3], cross)
    np.testing.assert_allclose(inside[4:].ravel(), right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sweeps", [1, 2, 9])
def test_sweeps_are_sor_pixel_by_pixel(sweeps):
    system, matrix, right, weights, _ = linear_system(5)
    height, width = weights.shape
    count = height * width
    expected = np.zeros(2 * count)
    for _ in range(sweeps):
        for pixel in range(count):
            for row in (pixel, pixel + count):
                rest = right[row] - matrix[row] @ expected + matrix[row, row] * expected[row]
                expected[row] = (1 - 1.8) * expected[row] + 1.8 * rest / matrix[row, row]
    increment = np.zeros((2, height + 2, width + 2))
    coarse2fine._relax(system, increment, sweeps)
    np.testing.assert_allclose(increment[:, 1:-1, 1:-1].ravel(), expected, rtol=1e-11, atol=1e-12)
    assert not increment[:, [0, -1]].any()
    assert not increment[:, :, [0, -1]].any()


def test_sweeps_converge_to_the_solution():
    system, matrix, right, weights, _ = linear_system(6)
    increment = np.zeros((2, weights.shape[0] + 2, weights.shape[1] + 2))
    coarse2fine._relax(system, increment, 2000)
    np.testing.assert_allclose(increment[:, 1:-1, 1:-1].ravel(), np.linalg.solve(matrix, right), rtol=1e-9)
