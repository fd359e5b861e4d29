"""The flow between the cameras, on pictures whose truth is analytic."""

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


def test_dense(picture):
    truth = rig_flow() + bump()
    model = fit_flow(*pair(picture, truth), FlowConfig(method="dense"))
    assert model.method == "dense"
    assert error(model.dense(), truth) < 0.06


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
