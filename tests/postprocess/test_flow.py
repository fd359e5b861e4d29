"""The flow between the cameras, on pictures whose truth is analytic."""

import sys
import types

import numpy as np
import pytest

from relo.errors import ProcessError
from relo.postprocess import polynomial
from relo.postprocess.flow import FlowConfig, FlowModel, estimate_flow, fit_flow

SHAPE = (300, 400)
ROWS, COLUMNS = np.indices(SHAPE, np.float64)
INNER = np.s_[12:-12, 12:-12]


def rig_flow() -> np.ndarray:
    """Shift, 0.1 degree, scale 1.001 and radial distortion: what a coaxial rig has (dx, dy) [px]."""
    x, y = COLUMNS - 199.5, ROWS - 149.5
    radius = (x**2 + y**2) / 200**2
    factor = 0.001 + 1.2e-3 * radius
    angle = np.deg2rad(0.1)
    return np.stack([2.37 + factor * x - angle * y, -1.83 + factor * y + angle * x], axis=-1)


def pair(picture, flow: np.ndarray, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Target (camera S) and moving frame (camera B): moving(x + flow(x)) = target(x)."""
    rng = np.random.default_rng(seed)
    target = picture(COLUMNS + flow[..., 0], ROWS + flow[..., 1])
    moving = picture(COLUMNS, ROWS)
    return tuple((image + rng.normal(0, noise, SHAPE)).astype(np.float32) for image in (target, moving))


def error(flow: np.ndarray, truth: np.ndarray) -> float:
    """Mean end-point error [px]."""
    return float(np.hypot(*np.moveaxis(flow - truth, -1, 0))[INNER].mean())


def test_parametric_is_good_to_a_hundredth_of_a_pixel(picture):
    truth = rig_flow()
    assert np.hypot(truth[..., 0], truth[..., 1]).max() > 3
    assert error(estimate_flow(*pair(picture, truth), method="parametric"), truth) < 0.01
    assert error(estimate_flow(*pair(picture, truth, noise=0.01), method="parametric"), truth) < 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_the_convention_is_moving_at_x_plus_flow(picture, sign):
    truth = np.zeros((*SHAPE, 2))
    truth[..., 0], truth[..., 1] = sign * 5.25, sign * -2.5
    result = estimate_flow(*pair(picture, truth))
    assert result.shape == (*SHAPE, 2)
    assert result.dtype == np.float32
    assert np.abs(result - truth)[INNER].max() < 0.02


def test_auto_stays_parametric_on_a_coaxial_rig(picture):
    truth = rig_flow()
    model = fit_flow(*pair(picture, truth, noise=0.005))
    assert model.method == "parametric"
    assert model.residual is None
    assert model.note == ""
    assert error(model.dense(), truth) < 0.01


def bump() -> np.ndarray:
    """A foreground that lies 0.8 px off, with a soft edge."""
    distance = np.hypot((COLUMNS - 150) / 90, (ROWS - 160) / 80)
    amount = 0.8 / (1 + np.exp((distance - 1) * 12))
    return np.stack([amount, 0.5 * amount], axis=-1)


def test_auto_adds_a_dense_rest_where_the_scene_has_depth(picture):
    truth = rig_flow() + bump()
    frames = pair(picture, truth, noise=0.005)
    model = fit_flow(*frames)
    assert model.method == "hybrid"
    assert "parallax" in model.note
    parametric = estimate_flow(*frames, method="parametric")
    inside = bump()[..., 0] > 0.7
    assert error(parametric, truth) > 0.1
    assert error(model.dense(), truth) < error(parametric, truth) / 2
    assert np.hypot(*np.moveaxis(model.dense() - truth, -1, 0))[inside].mean() < 0.1


def test_coarse2fine_is_a_method(picture):
    truth = rig_flow() + bump()
    target, moving = pair(picture, truth)
    model = fit_flow(target, 0.8 * moving, FlowConfig(method="coarse2fine"))
    assert model.method == "coarse2fine"
    assert error(model.dense(), truth) < 0.06
    assert np.array_equal(model.dense(), estimate_flow(target, 0.8 * moving, method="coarse2fine"))


def test_parallax_at_a_hard_edge(picture):
    """Foreground and background 0.8 px apart with a step between them, in colour and noise."""
    distance = np.hypot((COLUMNS - 200) / 110, (ROWS - 160) / 90)
    truth = rig_flow() + np.where(distance[..., None] < 1, (0.64, -0.48), 0.0)
    rng = np.random.default_rng(2)
    frames = []
    for frame, turned in zip(pair(picture, truth), pair(lambda x, y: picture(y + 40, x + 90), truth), strict=True):
        colours = np.dstack([frame, turned, (frame + turned) / 2])
        frames.append(np.float32(np.rint(255 * (colours + rng.normal(0, 0.01, colours.shape))) / 255))
    model = fit_flow(*frames)
    assert model.method == "hybrid"
    assert error(model.dense(), truth) < 0.035


def test_an_object_that_moved_between_the_static_frames_is_noticed(picture):
    truth = rig_flow()
    target, moving = pair(picture, truth, noise=0.005)
    other = picture(COLUMNS * 0.9 + 60, ROWS * 1.1 - 30)
    target, moving = target.copy(), moving.copy()
    target[60:150, 40:150] = other[60:150, 40:150]
    moving[100:190, 180:290] = other[60:150, 40:150]
    model = fit_flow(target, moving)
    assert model.method == "parametric"
    assert "something moved" in model.note
    away = np.ones(SHAPE, bool)
    away[30:220, 10:320] = False
    away[:12] = away[-12:] = away[:, :12] = away[:, -12:] = False
    assert np.hypot(*np.moveaxis(model.dense() - truth, -1, 0))[away].mean() < 0.02


@pytest.mark.parametrize("shift", [(15.5, 3.0), (-14.5, 12.25)])
@pytest.mark.parametrize("method", ["auto", "parametric"])
def test_large_shifts_within_the_limit(picture, shift, method):
    truth = rig_flow() + shift
    result = estimate_flow(*pair(picture, truth, noise=0.01), method=method)
    assert error(result, truth) < 0.01


def test_noise_is_no_texture():
    rng = np.random.default_rng(0)
    frames = [(0.5 + rng.normal(0, 0.02, SHAPE)).astype(np.float32) for _ in range(2)]
    for method in ("auto", "parametric", "coarse2fine"):
        with pytest.raises(ProcessError, match=r"cannot be aligned|px apart|too little texture"):
            estimate_flow(*frames, method=method)


def test_two_different_scenes(picture):
    target = picture(COLUMNS, ROWS).astype(np.float32)
    other = picture(ROWS * 1.3 + 500, COLUMNS * 0.8 - 300).astype(np.float32)
    with pytest.raises(ProcessError, match=r"different scenes|px apart"):
        estimate_flow(target, other)


def fake_pyflow(**names) -> types.ModuleType:
    module = types.ModuleType("pyflow")
    vars(module).update(names)
    return module


def test_pyflow_is_told_apart_from_its_namesake(picture, monkeypatch):
    target, moving = pair(picture, rig_flow())
    monkeypatch.setitem(sys.modules, "pyflow", None)
    with pytest.raises(ProcessError, match="needs the module pyflow") as missing:
        estimate_flow(target, moving, method="pyflow")
    monkeypatch.setitem(sys.modules, "pyflow", fake_pyflow(main=print))
    with pytest.raises(ProcessError, match="no coarse2fine_flow") as namesake:
        estimate_flow(target, moving, method="pyflow")
    for caught in (missing, namesake):
        assert "github.com/pathak22/pyflow" in caught.value.advice


def test_pyflow_is_called_as_its_demo_does(picture, monkeypatch):
    target, moving = (np.dstack([frame] * 3) for frame in pair(picture, rig_flow()))
    seen = []

    def flow(first, second, *parameters):
        seen.append((first, second, parameters))
        u, v = np.moveaxis(rig_flow(), -1, 0)
        return u, v, second

    monkeypatch.setitem(sys.modules, "pyflow", fake_pyflow(coarse2fine_flow=flow))
    result = estimate_flow(target, 0.5 * moving, method="pyflow")
    assert np.abs(result - rig_flow()).max() < 1e-6
    ((first, second, parameters),) = seen
    assert first.dtype == second.dtype == np.float64
    assert first.flags.c_contiguous and second.flags.c_contiguous
    assert second.mean() == pytest.approx(first.mean(), rel=1e-3)  # brightness is matched before
    assert parameters == (0.012, 0.75, 20, 7, 1, 30, 0)
    estimate_flow(target[..., 0], moving[..., 0], method="pyflow")
    assert seen[1][0].shape == (*SHAPE, 1)
    assert seen[1][2][-1] == 1


def test_excluded_pixels_do_not_count(picture):
    truth = rig_flow()
    target, moving = pair(picture, truth)
    weights = np.ones(SHAPE, np.float32)
    weights[40:200, 30:230] = 0
    moving = moving.copy()
    # a third of the frame shows something else, consistently shifted
    moving[30:210, 20:240] = np.roll(moving, (3, 6), axis=(0, 1))[30:210, 20:240]
    result = estimate_flow(target, moving, method="parametric", weights=weights)
    assert error(result, truth) < 0.02


def test_gain_and_offset_do_not_matter(picture):
    truth = rig_flow()
    target, moving = pair(picture, truth)
    assert error(estimate_flow(target, 0.9 * moving + 0.05, method="parametric"), truth) < 0.01


def test_colour_frames_and_read_only_inputs(picture):
    truth = rig_flow()
    target, moving = (np.dstack([frame, frame, frame]) for frame in pair(picture, truth))
    weights = np.ones(SHAPE, np.float32)
    for array in (target, moving, weights):
        array.setflags(write=False)
    assert error(estimate_flow(target, moving, weights=weights), truth) < 0.01


def test_models_evaluate_their_coefficients():
    rng = np.random.default_rng(0)
    coefficients, residual = rng.normal(size=(2, 10)), rng.normal(size=(*SHAPE, 2)).astype(np.float32)
    model = FlowModel(SHAPE, coefficients, residual, "hybrid")
    u, v = polynomial.axes(SHAPE)
    y, x = 17, 201
    expected = [
        float(polynomial.design_matrix(u[x : x + 1], v[y : y + 1], 3)[0] @ row) + residual[y, x, axis]
        for axis, row in enumerate(coefficients)
    ]
    assert model.dense()[y, x] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(model.residual, residual)
    assert not FlowModel.identity((5, 7)).dense().any()
    assert FlowModel.identity((5, 7)).dense().shape == (5, 7, 2)


@pytest.mark.parametrize("method", ["auto", "parametric"])
def test_too_little_texture(method):
    flat = np.full(SHAPE, 0.5, np.float32)
    stripes = np.broadcast_to(0.5 + 0.3 * np.sin(COLUMNS / 5), SHAPE).astype(np.float32)
    for frame in (flat, stripes):
        with pytest.raises(ProcessError, match="too little texture") as caught:
            estimate_flow(frame, frame.copy(), method=method)
        assert "detail" in caught.value.advice


def test_wrong_frames(picture):
    target, moving = pair(picture, rig_flow())
    with pytest.raises(ProcessError, match=r"63x300.*too small"):
        estimate_flow(target[:, :63], moving[:, :63])
    with pytest.raises(ValueError, match="size"):
        estimate_flow(target, moving[:-1])
    for value in (np.nan, np.inf):
        broken = moving.copy()
        broken[7, 8] = value
        with pytest.raises(ProcessError, match="NaN or infinite"):
            estimate_flow(target, broken)


def test_more_than_believable(picture):
    truth = np.zeros((*SHAPE, 2))
    truth[..., 0] = 9.0
    frames = pair(picture, truth)
    with pytest.raises(ProcessError, match="9 px apart") as caught:
        fit_flow(*frames, FlowConfig(limit=0.02))
    assert "flow.limit" in caught.value.advice
    assert error(fit_flow(*frames, FlowConfig(limit=0.05)).dense(), truth) < 0.01
