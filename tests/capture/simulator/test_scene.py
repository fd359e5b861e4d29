"""The still scene: exposure, texture everywhere, any size."""

import numpy as np
import pytest

from relo.capture.simulator.config import SimulationConfig
from relo.capture.simulator.rig import draw_cameras
from relo.capture.simulator.scene import draw_scene, whiteboard
from relo.capture.simulator.textures import dead_leaves, fractal, photograph, soft_cap, srgb_to_linear, tiled


@pytest.mark.parametrize("size", [(64, 64), (65, 201), (161, 123), (538, 359)])
@pytest.mark.parametrize("seed", [0, 1])
def test_scene_is_normally_exposed_and_textured(size, seed):
    config = SimulationConfig(width=size[0], height=size[1])
    shape = size[1] + 40, size[0] + 40
    scene = draw_scene(config, np.random.default_rng(seed), shape, 0.75)
    assert scene.shape == (*shape, 3) and scene.dtype == np.float32
    assert 0.16 < scene.mean() < 0.26
    assert scene.min() >= 0 and scene.max() <= 0.75 + 1e-5
    grey = scene.mean(axis=2)
    gy, gx = np.gradient(grey)
    block, flat = 32, []
    for top in range(0, shape[0] - block, block):
        for left in range(0, shape[1] - block, block):
            x, y = (g[top : top + block, left : left + block].ravel() for g in (gx, gy))
            tensor = np.array([[x @ x, x @ y], [x @ y, y @ y]]) / x.size
            level = grey[top : top + block, left : left + block].mean()
            flat.append(np.sqrt(np.linalg.eigvalsh(tensor)[0]) / level)
    # Relative gradient along the weaker direction: well above the noise of a photograph.
    assert min(flat) > 0.01 and np.median(flat) > 0.05


def test_scenes_differ_and_repeat():
    config = SimulationConfig(width=161, height=123)
    one, again, other = (draw_scene(config, np.random.default_rng(k), (163, 201), 0.75) for k in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.abs(one - other).mean() > 0.05


def test_highlights_are_brighter_than_white():
    config = SimulationConfig(width=161, height=123, highlights=True)
    scene = draw_scene(config, np.random.default_rng(1), (163, 201), 0.75)
    assert scene.max() > 3 and (scene.max(axis=2) > 0.8).mean() < 0.05


def test_whiteboard_is_neutral_and_fills_most_of_the_frame():
    config = SimulationConfig(width=161, height=123)
    scene = draw_scene(config, np.random.default_rng(1), (163, 201), 0.75)
    board = whiteboard(scene, config, 20, 0.75)[20:-20, 20:-20]
    flat = np.abs(board - 0.7).max(axis=2) < 1e-4
    assert flat.mean() > 0.7
    assert np.array_equal(board[0], scene[20, 20:-20])


def test_photographs_are_linear_and_cached():
    image = photograph("coffee")
    assert image is photograph("coffee") and not image.flags.writeable
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    assert srgb_to_linear(np.float32(0.5)) == pytest.approx(0.21404, abs=1e-4)


def test_textures():
    rng = np.random.default_rng(0)
    noise = fractal(rng, (97, 130), 1.0, 40)
    assert noise.shape == (97, 130) and noise.std() == pytest.approx(1, abs=1e-3)
    leaves = dead_leaves(rng, (97, 130), 2, 20)
    assert leaves.shape == (97, 130, 3) and 0.05 < leaves.mean() < 0.6 and leaves.std() > 0.05
    tile = tiled(np.arange(4)[:, None] * np.ones((1, 3)), (11, 8))
    assert tile.shape == (11, 8) and tile[:, 0].tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2]
    assert soft_cap(np.array([0.1, 5.0], np.float32), 0.75) == pytest.approx([0.1, 0.75], abs=0.01)


def test_content_stays_below_saturation_in_a_session():
    from relo.capture.simulator.session import SceneRenderer

    config = SimulationConfig(width=161, height=123, flicker=0.5)
    scene = SceneRenderer(config, draw_cameras(config), 0)
    assert scene.canvas.max() <= scene.cap + 1e-4 < 0.7
