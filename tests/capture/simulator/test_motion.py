"""Paths of the objects: what the options for predictable motion promise."""

import numpy as np
import pytest

from relo.capture.simulator import SimulationConfig
from relo.capture.simulator.config import Stream, generator
from relo.capture.simulator.motion import blur_range_px, draw_objects


def motions(**options):
    config = SimulationConfig(width=269, height=180, **options)
    drawn = [
        draw_objects(
            config, generator(config.seed, Stream.OBJECTS, 0, pair), 0.75, generator(config.seed, Stream.OBJECTS, 0)
        )
        for pair in range(40)
    ]
    return [item.motion for objects in drawn for item in objects]


@pytest.mark.parametrize("steepest_deg", [0, 10, 60, 90])
def test_no_way_is_steeper_than_asked_for(steepest_deg):
    ways = np.array(
        [(np.cos(motion.direction), np.sin(motion.direction)) for motion in motions(steepest_deg=steepest_deg)]
    )
    slopes = np.degrees(np.arcsin(np.abs(ways[:, 1])))
    assert slopes.max() <= steepest_deg + 1e-9
    if steepest_deg:
        # The slope is uniform up to the steepest, in all four quadrants.
        assert slopes.mean() == pytest.approx(steepest_deg / 2, rel=0.25)
        assert {tuple(signs) for signs in np.sign(ways).tolist()} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}


def test_steady_objects_move_evenly_and_straight():
    restless, steady = motions(), motions(steady=True)
    times = np.linspace(0, 1, 9)
    for motion in steady:
        steps = np.diff(motion.position(times), axis=0)
        assert np.allclose(steps, steps[0], atol=1e-9)
        assert motion.orientation(1.0) == motion.orientation(0.0)
    assert [motion.length for motion in steady] == [motion.length for motion in restless]
    assert any(motion.acceleration and motion.curvature and motion.spin for motion in restless)


def test_lengths_are_those_asked_for():
    config = SimulationConfig(width=269, height=180)
    low, high = blur_range_px(config)
    lengths = [motion.length for motion in motions(steady=True)]
    assert low <= min(lengths) < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < max(lengths) <= high
