"""Moving objects: integration over time, truth masks, where the sharp image stands on the trail."""

import math

import numpy as np
import pytest

from relo.capture.simulator.config import SimulationConfig
from relo.capture.simulator.integrate import apply, coverage, expose, flicker_level
from relo.capture.simulator.motion import Motion, MovingObject, blur_range_px
from relo.capture.simulator.rig import draw_cameras, record
from relo.capture.simulator.session import SceneRenderer
from relo.capture.simulator.sprites import Sprite, draw_sprite, sample_sprite

SMALL = SimulationConfig(width=269, height=181, seed=5, scenes=1)
SHAPE, MARGIN = (150, 200), 20


def _motion(x: float, y: float, length: float, **changes: float) -> Motion:
    values = {"direction": 0.3, "acceleration": 0.2, "curvature": 0.1, "angle": 0.2, "spin": 0.1} | changes
    return Motion((x, y), length=length, **values)


def _object(seed: int, x: float, y: float, length: float = 14, area: float = 900, **changes: float) -> MovingObject:
    return MovingObject(draw_sprite(np.random.default_rng(seed), area, 0.75), _motion(x, y, length, **changes))


def _brute_force(
    objects: list[MovingObject], end: float, canvas: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Composite whole frames one after another and average them."""
    total, cover = np.zeros(canvas.shape, np.float64), np.zeros(canvas.shape[:2])
    for k in range(steps + 1):
        s = end * k / steps
        frame = canvas.astype(np.float64)
        for item in objects:
            x, y = item.motion.position(s) + MARGIN
            box = (0, 0, canvas.shape[1], canvas.shape[0])
            layer, own = sample_sprite(item.sprite, (x, y), item.motion.orientation(s), box)
            frame = frame * (1 - layer[..., 3:]) + layer[..., :3]
            cover = np.maximum(cover, own)
        total += frame * (0.5 if k in (0, steps) else 1)
    return total / steps, cover


@pytest.mark.parametrize(
    "objects",
    [
        [_object(1, 60, 50)],
        [_object(2, 60, 50), _object(3, 75, 60)],  # overlapping all the time
        [_object(4, 40, 40), _object(5, 90, 70, spin=1.0), _object(6, 70, 45, length=30)],
        [_object(7, -15, 55), _object(8, 165, 100)],  # over the border of the canvas
        [_object(9, 60, 50, length=0.0, spin=0.0)],  # at rest
    ],
)
@pytest.mark.parametrize("end", [1.0, 0.05])
def test_agrees_with_whole_frame_compositing(objects, end):
    canvas = np.random.default_rng(0).uniform(0.1, 0.5, (*SHAPE, 3)).astype(np.float32)
    patches = expose(objects, end, SHAPE, MARGIN)
    reference, cover = _brute_force(objects, end, canvas, 160)
    # The trail is finely sampled: other time steps change little.
    assert np.abs(apply(canvas, patches) - reference).max() < 0.02
    mask, expected = coverage(patches, SHAPE) > 0.05, cover > 0.05
    assert np.count_nonzero(mask != expected) <= 0.01 * np.count_nonzero(expected)
    for i, a in enumerate(patches):
        for b in patches[:i]:
            assert a.box[2] <= b.box[0] or b.box[2] <= a.box[0] or a.box[3] <= b.box[1] or b.box[3] <= a.box[1]


def test_nothing_is_drawn_where_nothing_moves():
    assert expose([_object(1, 900, 900)], 1.0, SHAPE, MARGIN) == []
    canvas = np.full((*SHAPE, 3), 0.3, np.float32)
    assert np.array_equal(apply(canvas, []), canvas)


def _dot() -> Sprite:
    """A bright Gaussian spot without a shadow."""
    n = 61
    y, x = np.indices((n, n)) - (n - 1) / 2
    alpha = np.exp(-(x**2 + y**2) / (2 * 8.0**2))
    alpha[alpha < 0.01] = 0
    rgba = np.repeat(alpha[..., None], 4, axis=2).astype(np.float32)
    hull = np.array([[-15.0, -15], [15, -15], [15, 15], [-15, 15]])
    return Sprite(rgba, np.zeros((5, 5), np.float32), (0.0, 0.0), hull, hull)


def test_sharp_stands_at_the_start_of_the_trail():
    item = MovingObject(_dot(), Motion((60.0, 60.0), 0.0, 40.0, 0.0, 0.0, 0.0, 0.0))
    canvas = np.zeros((*SHAPE, 3), np.float32)
    sharp, blur = (apply(canvas, expose([item], end, SHAPE, MARGIN))[..., 0] for end in (0.05, 1.0))
    columns = np.arange(SHAPE[1]) - MARGIN
    centres = [float((image * columns).sum() / image.sum()) for image in (sharp, blur)]
    assert centres[0] == pytest.approx(61, abs=0.05)  # half of the 2 px it moves in 5 % of the time
    assert centres[1] == pytest.approx(80, abs=0.05)
    assert blur.sum() == pytest.approx(sharp.sum(), rel=1e-3)  # equal energy
    profile = blur[MARGIN + 60]
    assert profile[MARGIN + 80] == pytest.approx(profile[MARGIN + 75], rel=0.02)  # even speed
    assert profile[MARGIN + 60] == pytest.approx(profile[MARGIN + 80] / 2, rel=0.05)  # the trail's two ends
    assert profile[MARGIN + 100] == pytest.approx(profile[MARGIN + 80] / 2, rel=0.05)


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_the_short_exposure_may_come_later(delay):
    config = SimulationConfig(t_short_s=0.001, t_long_s=0.02, short_delay=delay)
    start, end = config.short_span
    assert end - start == pytest.approx(0.05)
    item = MovingObject(_dot(), Motion((60.0, 60.0), 0.0, 40.0, 0.3, 0.0, 0.0, 0.0))
    image = apply(np.zeros((*SHAPE, 3), np.float32), expose([item], end, SHAPE, MARGIN, start=start))[..., 0]
    columns = np.arange(SHAPE[1]) - MARGIN
    middle = item.motion.position((start + end) / 2)[0]
    assert float((image * columns).sum() / image.sum()) == pytest.approx(middle, abs=0.05)
    assert {0.0: 0.0, 0.5: 0.475, 1.0: 0.95}[delay] == pytest.approx(start)


def test_saturation_comes_after_integration():
    """A lamp 12 times as bright as white still saturates B on its way; a mean of clipped frames would not."""
    config = SimulationConfig(width=160, height=110, cast_strength=0, non_cubic=0, gain_mismatch=0)
    dot, shape, column = _dot(), SHAPE, 80
    lamp = Sprite(dot.rgba * np.float32([12, 12, 12, 1]), dot.shadow, dot.offset, dot.hull, dot.shadow_hull)
    item = MovingObject(lamp, Motion((40.0, 50.0), 0.0, 80.0, 0.0, 0.0, 0.0, 0.0))
    canvas = np.full((*shape, 3), 0.05, np.float32)
    frame_of = slice(MARGIN, MARGIN + 110), slice(MARGIN, MARGIN + 160)
    blur = apply(canvas, expose([item], 1.0, shape, MARGIN))[frame_of]
    frame = record(config, draw_cameras(config)["B"], blur, None)
    assert frame.normalised()[50, column + 1] == pytest.approx(1, abs=1e-3)
    moments = []
    for k in range(41):
        there = Motion((40.0 + 2 * k, 50.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        moment = apply(canvas, expose([MovingObject(lamp, there)], 1.0, shape, MARGIN))[frame_of]
        moments.append(record(config, draw_cameras(config)["B"], moment, None).normalised()[50, column + 1])
    assert np.mean(moments) < 0.8


def test_flicker_weights_the_trail_and_the_level():
    item = MovingObject(_dot(), Motion((60.0, 60.0), 0.0, 40.0, 0.0, 0.0, 0.0, 0.0))
    canvas = np.zeros((*SHAPE, 3), np.float32)
    patches = expose([item], 1.0, SHAPE, MARGIN, lambda s: 1 + 0.5 * np.cos(np.pi * s))
    blur = apply(canvas, patches)[..., 0]
    assert blur[80, MARGIN + 68] > 1.5 * blur[80, MARGIN + 92]
    assert flicker_level(0.4, 1.0, 0, 0.02) == pytest.approx(1)  # whole periods
    assert flicker_level(0.4, 0.0, 0, 1e-6) == pytest.approx(1.4)
    assert flicker_level(0.4, math.pi, 0, 1e-6) == pytest.approx(0.6)


def test_motion():
    motion = _motion(10, 20, 30, direction=0.0, curvature=0.0)
    assert motion.position(0.0) == pytest.approx([10, 20])
    assert motion.position(1.0) == pytest.approx([40, 20])
    assert motion.path_length(0.0, 1.0) == pytest.approx(30)
    assert motion.path_length(0.0, 0.1) == pytest.approx(30 * (0.8 * 0.1 + 0.2 * 0.01))
    assert _motion(0, 0, 30, curvature=0.2).path_length(0.0, 1.0) > 30


def test_blur_range_scales_with_the_frame():
    assert blur_range_px(SimulationConfig()) == (15, 70)
    low, high = blur_range_px(SimulationConfig(width=538, height=359))
    assert (low, high) == (pytest.approx(3.75), pytest.approx(17.5))
    assert blur_range_px(SimulationConfig(width=64, height=64))[0] == 3
    # With a weak filter the object would move too far during t_short.
    assert blur_range_px(SimulationConfig(t_short_s=0.008))[1] == pytest.approx(15)


def _pairs(config: SimulationConfig, count: int) -> list[tuple[np.ndarray, ...]]:
    scene = SceneRenderer(config, draw_cameras(config), 0)
    return [scene.images(pair, scene.objects(pair), 0.0) for pair in range(count)]


def test_mask_share_is_that_of_the_published_dataset():
    config = SMALL.model_copy(update={"width": 161, "height": 107})
    shares = [np.mean(images[3] > 0) for images in _pairs(config, 30)]
    assert 0.09 < np.mean(shares) < 0.155
    assert min(shares) > 0.01 and max(shares) < 0.35


def test_pair_changes_only_near_the_mask():
    scene = SceneRenderer(SMALL, draw_cameras(SMALL), 0)
    sharp, blur, view, mask = scene.images(0, scene.objects(0), 0.0)
    still = scene.in_frame(scene.canvas)
    inside = mask > 0
    assert np.abs(blur - still)[inside].mean() > 0.05
    assert np.abs(sharp - still)[inside].mean() > 0.05
    # Outside there are only shadows: they darken, and never brighten.
    assert (blur - still)[~inside].max() < 0.05
    assert np.mean(np.abs(blur - still)[~inside] > 1e-6) < 0.5
    assert view.shape == blur.shape and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}


def test_incremental_view_equals_a_full_resampling():
    from relo.capture.simulator.alignment import view_from_b

    config = SMALL.model_copy(update={"cross_border": True})
    scene = SceneRenderer(config, draw_cameras(config), 0)
    objects = scene.objects(0)
    view = scene.images(0, objects, 0.0)[2]
    full = view_from_b(apply(scene.canvas, scene.expose(objects, "B", 0.0)), scene.margin, scene.alignment)
    assert np.abs(view - full).max() < 1e-4


def test_same_area_and_cross_border():
    stay = SMALL.model_copy(update={"same_area": True})
    centres = np.array(
        [
            item.motion.position(0.5)
            for pair in range(4)
            for item in SceneRenderer(stay, draw_cameras(stay), 0).objects(pair)
        ]
    )
    assert np.all(np.ptp(centres, axis=0) < 0.11 * np.array([269, 181]))
    border = SMALL.model_copy(update={"cross_border": True})
    for images in _pairs(border, 3):
        mask = images[3]
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert edge.any()


@pytest.mark.parametrize("seed", range(12))
def test_sprites_are_soft_textured_and_below_the_cap(seed):
    sprite = draw_sprite(np.random.default_rng(seed), 1500, 0.6)
    alpha = sprite.rgba[..., 3]
    assert alpha.sum() / 4 == pytest.approx(1500, rel=0.1)
    assert sprite.rgba[..., :3].max() <= 0.6 + 1e-5 and sprite.rgba.min() >= 0
    assert np.all(alpha[[0, -1]] == 0) and np.all(alpha[:, [0, -1]] == 0)
    # Soft edge: from 5 % to 95 % it takes more than one pixel (two texels).
    assert np.abs(np.diff(alpha, axis=1)).max() < 0.45
    colour = sprite.rgba[..., :3][alpha > 0.999]
    assert colour.std(axis=0).max() > 0.01
    assert 0.1 < sprite.shadow.max() < 0.8
    assert sprite.shadow[0].max() == 0 and sprite.shadow[:, 0].max() == 0
