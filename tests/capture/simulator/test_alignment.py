"""Geometry of the simulated camera B: the flow truth is what a resampler needs, in sign and size."""

import numpy as np
import pytest
from scipy import ndimage

from relo.capture.simulator.alignment import (
    Alignment,
    displacement,
    draw_alignment,
    flow_field,
    invert,
    view_from_b,
)
from relo.capture.simulator.config import SimulationConfig
from relo.capture.simulator.rig import draw_cameras
from relo.capture.simulator.session import SceneRenderer

SMALL = SimulationConfig(width=161, height=123, seed=5)


def _warp(moving: np.ndarray, flow: np.ndarray) -> np.ndarray:
    y, x = np.indices(flow.shape[:2])
    points = [y + flow[..., 1], x + flow[..., 0]]
    planes = [ndimage.map_coordinates(moving[..., c].astype(float), points, order=5) for c in range(3)]
    return np.stack(planes, axis=-1)


def _block_shifts(target: np.ndarray, warped: np.ndarray, size: int = 40) -> np.ndarray:
    """Remaining displacement of blocks [px], by least squares on the gradients."""
    error, target = (warped - target)[16:-16, 16:-16], target[16:-16, 16:-16].astype(float)
    gy, gx = np.gradient(target, axis=(0, 1))
    shifts = []
    for top in range(0, error.shape[0] - size + 1, size):
        for left in range(0, error.shape[1] - size + 1, size):
            block = slice(top, top + size), slice(left, left + size)
            matrix = np.stack([gx[block].ravel(), gy[block].ravel()], axis=1)
            shifts.append(np.linalg.lstsq(matrix, error[block].ravel(), rcond=None)[0])
    return np.array(shifts)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 538, "height": 359},
        {"misalignment": 4.0},
        {"parallax_px": 0.8, "width": 269, "height": 180},
        {"seed": 9, "width": 301, "height": 201},
    ],
)
def test_noise_free_b_warped_by_the_truth_is_s(options):
    config = SMALL.model_copy(update=options)
    scene = SceneRenderer(config, draw_cameras(config), 0)
    still = scene.in_frame(scene.canvas)
    view, flow = scene.view_from_b(scene.alignment), flow_field(scene.alignment)
    assert flow.shape == (*config.shape, 2) and flow.dtype == np.float32
    shifts = _block_shifts(still, _warp(view, flow))
    assert np.abs(shifts.mean(axis=0)).max() < 0.001
    assert np.sqrt((shifts**2).mean()) < 0.003
    # The wrong sign, or no flow, is far off.
    assert np.sqrt((_block_shifts(still, view) ** 2).mean()) > 0.1


def test_pure_shift_moves_content_by_the_flow():
    canvas = np.zeros((140, 180, 3), np.float32)
    canvas[60, 80] = 1
    alignment = Alignment((100, 140), shift=(3.0, -2.0))
    view = view_from_b(canvas, 20, alignment)
    # S shows the dot at (60, 40); the flow is (3, -2): B shows it at (63, 38).
    assert np.unravel_index(view[..., 0].argmax(), view.shape[:2]) == (38, 63)
    assert view[38, 63, 0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"parallax_px": 4.0}, {"misalignment": 4.0, "width": 2151, "height": 1435}]
)
def test_inverse_is_exact(options):
    alignment = draw_alignment(SMALL.model_copy(update=options), 0)
    height, width = alignment.shape
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, width, 2000), rng.uniform(0, height, 2000)
    sx, sy = invert(alignment, x, y)
    dx, dy = displacement(alignment, sx, sy)
    assert max(np.abs(sx + dx - x).max(), np.abs(sy + dy - y).max()) < 1e-6


def test_size_of_the_misalignment():
    config = SimulationConfig(seed=3)
    flow = flow_field(draw_alignment(config, 0))
    assert 1.0 < np.abs(flow).max() < 9
    assert np.ptp(flow[..., 0]) > 1 and np.ptp(flow[..., 1]) > 1
    none = flow_field(draw_alignment(config.model_copy(update={"misalignment": 0.0}), 0))
    assert np.abs(none).max() < 1e-9


def test_scenes_share_the_rig_but_not_exactly():
    first, second = (flow_field(draw_alignment(SMALL, scene)) for scene in (0, 1))
    assert 1e-3 < np.abs(first - second).max() < 1.0


def test_parallax_is_a_local_shift_of_the_given_size():
    plain = flow_field(draw_alignment(SimulationConfig(seed=3, width=538, height=359), 0))
    moved = flow_field(draw_alignment(SimulationConfig(seed=3, width=538, height=359, parallax_px=0.8), 0))
    size = np.hypot(*(moved - plain).transpose(2, 0, 1))
    assert size.max() == pytest.approx(0.8, abs=0.01)
    assert size[0, 0] < 0.02 and 0.05 < (size > 0.4).mean() < 0.4


def test_bump_shifts_the_view():
    config = SMALL.model_copy(update={"bump_px": 4.0, "pairs": 3})
    scene = SceneRenderer(config, draw_cameras(config), 0)
    bumped = [scene.is_bumped(pair) for pair in range(4)]
    assert not bumped[0] and bumped[3]
    assert np.hypot(*scene.bump) == pytest.approx(4)
    view = scene.view_from_b(scene.alignment_of(3))
    flow = flow_field(scene.alignment) + np.float32(scene.bump)
    shifts = _block_shifts(scene.in_frame(scene.canvas), _warp(view, flow))
    assert np.sqrt((shifts**2).mean()) < 0.003
    assert not any(SceneRenderer(config, draw_cameras(config), 1).is_bumped(pair) for pair in range(4))
