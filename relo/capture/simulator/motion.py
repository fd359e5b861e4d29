"""Moving objects: paths, and where they go in a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from relo.capture.simulator.config import SimulationConfig
from relo.capture.simulator.sprites import Sprite, draw_sprite

# Share of the frame to cover, in multiples of its mean. The published dataset's mean is 11.75 %. What comes out is
# a tenth more than asked for: shapes that are not round leave wider trails.
_SHARE_RANGE = (0.35, 1.65)
_SHARP_LIMIT_PX = 6.0  # published limit of the movement during t_short, at the reference width
_SMALLEST_BLUR_PX = 3.0  # in small frames the scaled extents would be no blur at all


@dataclass(frozen=True)
class Motion:
    """Path of an object's centre over one long exposure; s = t / t_long runs from 0 to 1.

    Convention: frame coordinates, x right, y down [px]; angles [rad] from +x towards +y.

    Attributes
    ----------
    start : 2 floats
        Centre at s = 0 [px].
    direction : float
        Direction of travel [rad].
    length : float
        Distance travelled along `direction` in the long exposure [px].
    acceleration : float
        Share q of the way that grows with s^2: the speed at s is (1 - q) + 2 q s times the mean speed.
    curvature : float
        Sideways deviation at s = 1, as a share of `length`.
    angle, spin : float
        Orientation at s = 0, and turn during the long exposure [rad].
    """

    start: tuple[float, float]
    direction: float
    length: float
    acceleration: float
    curvature: float
    angle: float
    spin: float

    def position(self, s: float | np.ndarray) -> np.ndarray:
        """Centre at `s`; (..., 2) float64 [px]."""
        s = np.asarray(s, np.float64)
        along = self.length * ((1 - self.acceleration) * s + self.acceleration * s**2)
        across = self.length * self.curvature * s**2
        c, d = math.cos(self.direction), math.sin(self.direction)
        return np.stack([self.start[0] + c * along - d * across, self.start[1] + d * along + c * across], axis=-1)

    def orientation(self, s: float) -> float:
        """Angle at `s` [rad]."""
        return self.angle + self.spin * s

    def path_length(self, start: float, end: float) -> float:
        """Way of the centre from `start` to `end` [px]."""
        steps = np.diff(self.position(np.linspace(start, end, 65)), axis=0)
        return float(np.hypot(steps[:, 0], steps[:, 1]).sum())


@dataclass(frozen=True)
class MovingObject:
    """A sprite on a path."""

    sprite: Sprite
    motion: Motion

    def steps(self, start: float, end: float, step_px: float) -> int:
        """Count the equal time steps from `start` to `end` in which no point moves further than `step_px`."""
        times = np.linspace(start, end, 65)
        way = np.diff(self.motion.position(times), axis=0)
        fastest = float(np.hypot(way[:, 0], way[:, 1]).max()) * 64
        fastest += abs(self.motion.spin) * (end - start) * self.sprite.radius
        return max(2, math.ceil(fastest / step_px))


def blur_range_px(config: SimulationConfig) -> tuple[float, float]:
    """Shortest and longest path during t_long in this frame size [px].

    Convention: both are cut where an object would move more than 6 px (at width 2152) during t_short.
    """
    limit = max(_SHARP_LIMIT_PX * config.scale, 0.5) / config.tau
    low, high = (
        min(max(value * config.scale, _SMALLEST_BLUR_PX), limit)
        for value in (config.blur_px_min, config.blur_px_max)
    )
    return low, high


def draw_objects(
    config: SimulationConfig, rng: np.random.Generator, cap: float, area_rng: np.random.Generator
) -> list[MovingObject]:
    """Draw the objects of one pair.

    Parameters
    ----------
    rng : Generator
        Of this pair.
    cap : float
        Largest radiance.
    area_rng : Generator
        Of this scene: tells where the area is that all pairs share (`same_area`).

    Returns
    -------
    list of MovingObject, back to front
    """
    height, width = config.shape
    count = int(rng.integers(1, config.objects + 1))
    share = config.covered * rng.uniform(*_SHARE_RANGE)
    parts = rng.dirichlet(np.full(count, 6.0)) * share
    meeting_point = area_rng.uniform(0.4, 0.6, 2) * (width, height)
    placed: list[tuple[np.ndarray, float]] = []
    result = []
    for part in parts:
        length = rng.uniform(*blur_range_px(config))
        area = _object_area(float(part) * height * width, length, min(height, width))
        sprite = draw_sprite(rng, area, cap, lights=config.highlights)
        motion = _draw_motion(rng, length, sprite.radius, config)
        # The middle of the way is placed, not its start, or fast objects would gather at one side.
        offset = motion.position(0.5)
        reach = 0.9 * sprite.radius + length / 2
        best = _place(rng, config, reach, placed, meeting_point)
        placed.append((best, reach))
        start = best - offset
        result.append(MovingObject(sprite, Motion((float(start[0]), float(start[1])), *_path_of(motion))))
    return result


def _path_of(motion: Motion) -> tuple[float, float, float, float, float, float]:
    return motion.direction, motion.length, motion.acceleration, motion.curvature, motion.angle, motion.spin


def _object_area(covered: float, length: float, side: int) -> float:
    """Area of an object whose trail covers `covered` [px^2]: covered = A + 2 length sqrt(A / pi)."""
    half = length / math.sqrt(math.pi)
    root = -half + math.sqrt(half**2 + covered)
    # Neither a speck nor wider than half of a long narrow frame.
    return float(np.clip(root**2, 80.0, math.pi * (0.27 * side) ** 2))


def _draw_motion(rng: np.random.Generator, length: float, radius: float, config: SimulationConfig) -> Motion:
    direction = _direction(rng, config.steepest_deg)
    # Speeds at the ends differ by up to a factor of 2. Drawn in any case: all else stays as it is.
    change = 0.0 if config.steady else 1.0
    acceleration = change * rng.uniform(-0.33, 0.33)
    curvature = change * rng.uniform(-0.2, 0.2)
    spin = change * rng.uniform(-0.35, 0.35) * length / radius
    return Motion((0.0, 0.0), direction, length, acceleration, curvature, rng.uniform(-0.4, 0.4), spin)


def _direction(rng: np.random.Generator, steepest_deg: float) -> float:
    """Direction of travel [rad], any with a slope of at most `steepest_deg` against the horizontal."""
    turn = rng.uniform(0, 2 * math.pi)
    slope = math.asin(math.sin(turn)) * steepest_deg / 90
    return slope if math.cos(turn) >= 0 else math.pi - slope


def _place(
    rng: np.random.Generator,
    config: SimulationConfig,
    reach: float,
    placed: list[tuple[np.ndarray, float]],
    meeting_point: np.ndarray,
) -> np.ndarray:
    """Choose where the middle of a way lies; clear of the objects already placed where there is room."""
    size = np.array([config.width, config.height], np.float64)
    if config.same_area:
        return meeting_point + rng.uniform(-0.05, 0.05, 2) * size
    if config.cross_border:
        along = rng.uniform(0.15, 0.85, 2) * size
        side = int(rng.integers(4))
        along[side % 2] = 0.0 if side < 2 else size[side % 2] - 1
        return along
    low = np.minimum(reach, (size - 1) / 2)
    best, clearance = size / 2, -math.inf
    for _ in range(30):
        centre = rng.uniform(low, size - 1 - low)
        gap = min((float(np.hypot(*(centre - other))) - reach - r for other, r in placed), default=math.inf)
        if gap > clearance:
            best, clearance = centre, gap
        if gap > 0:
            break
    return best
