"""Integrate moving objects over an exposure, in linear light.

The scene behind them stands still, so an exposure is one layer over it (light, and light taken away) in the
few boxes where something moved: the mean of sub-frames that are at most `STEP_PX` apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from relo.capture.simulator.motion import MovingObject
from relo.capture.simulator.sprites import lay_over, sample_sprite

STEP_PX = 0.7
Box = tuple[int, int, int, int]
Span = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Patch:
    """What moving objects do to one box of the picture during an exposure.

    Attributes
    ----------
    box : 4 ints
        x0, y0, x1, y1 in canvas pixels; x1 and y1 are outside.
    layer : (h, w, 4) float32 array
        Light of the objects, and the share of the still scene's light that they and their shadows take away;
        means over the exposure.
    cover : (h, w) float32 array
        Largest coverage by an object at any time of the exposure; shadows do not count.
    """

    box: Box
    layer: np.ndarray
    cover: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices (rows, columns) of the box."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    def over(self, canvas: np.ndarray) -> np.ndarray:
        """(h, w, 3) float32: the exposure inside the box, with `canvas` (H, W, 3) behind the objects."""
        result = canvas[self.window].copy()
        lay_over(result, self.layer)
        return result


def expose(
    objects: Sequence[MovingObject],
    end: float,
    shape: tuple[int, int],
    margin: int,
    brightness: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    start: float = 0.0,
) -> list[Patch]:
    """Integrate from `start` to `end`.

    Parameters
    ----------
    objects : sequence of MovingObject
        Back to front.
    start, end : float
        When the shutter opens and closes, in units of camera B's exposure: 0 and 1 for camera B.
    shape : 2 ints
        (H, W) of the canvas [px].
    margin : int
        Pixel (margin, margin) of the canvas is the frame's (0, 0).
    brightness : callable, optional
        Light level at times s, for flickering light; only its course matters, its mean is divided out.

    Returns
    -------
    list of Patch
        Disjoint boxes. Objects whose boxes overlap are integrated together, so their overlap is exact.
    """
    span = start, end
    groups = _grouped([(_trail_box(item, span, shape, margin), [k]) for k, item in enumerate(objects)])
    patches = []
    for box, members in groups:
        if box[0] < box[2] and box[1] < box[3]:
            patches.append(_integrate([objects[k] for k in sorted(members)], span, box, margin, brightness))
    return patches


def apply(canvas: np.ndarray, patches: Sequence[Patch]) -> np.ndarray:
    """Copy of `canvas` (H, W, 3) with the exposure in it."""
    result = canvas.copy()
    for patch in patches:
        result[patch.window] = patch.over(canvas)
    return result


def coverage(patches: Sequence[Patch], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32: largest coverage at any time, over the canvas."""
    result = np.zeros(shape, np.float32)
    for patch in patches:
        result[patch.window] = patch.cover
    return result


def _clip(box: Box, bounds: Box) -> Box:
    left, top, right, bottom = bounds
    x0, x1 = (min(max(x, left), right) for x in (box[0], box[2]))
    y0, y1 = (min(max(y, top), bottom) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _joined(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _window(box: Box, within: Box) -> tuple[slice, slice]:
    x, y = within[:2]
    return slice(box[1] - y, box[3] - y), slice(box[0] - x, box[2] - x)


def _box_at(item: MovingObject, s: float, margin: int) -> Box:
    x, y = item.motion.position(s) + margin
    return item.sprite.box(float(x), float(y), item.motion.orientation(s))


def _trail_box(item: MovingObject, span: Span, shape: tuple[int, int], margin: int) -> Box:
    times = np.linspace(*span, item.steps(*span, STEP_PX) + 1)
    trail = functools.reduce(_joined, (_box_at(item, float(s), margin) for s in times))
    # One step more: beside other objects this one may be drawn at other moments.
    grown = trail[0] - 1, trail[1] - 1, trail[2] + 1, trail[3] + 1
    return _clip(grown, (0, 0, shape[1], shape[0]))


def _grouped(groups: list[tuple[Box, list[int]]]) -> list[tuple[Box, list[int]]]:
    """Join overlapping boxes until all are disjoint."""
    for i, (a, members) in enumerate(groups):
        for j in range(i):
            b, others = groups[j]
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
                joined = _joined(a, b)
                rest = [group for k, group in enumerate(groups) if k not in (i, j)]
                return _grouped([*rest, (joined, others + members)])
    return groups


def _integrate(
    objects: list[MovingObject],
    span: Span,
    box: Box,
    margin: int,
    brightness: Callable[[np.ndarray], np.ndarray] | None,
) -> Patch:
    height, width = box[3] - box[1], box[2] - box[0]
    total, cover = np.zeros((height, width, 4), np.float32), np.zeros((height, width), np.float32)
    times, weights = _trapezoid(max(item.steps(*span, STEP_PX) for item in objects), span, brightness)
    for s, weight in zip(times, weights, strict=True):
        boxes = [(_clip(_box_at(item, float(s), margin), box), [k]) for k, item in enumerate(objects)]
        # Objects that are apart at this moment need no common frame, which saves most of the time.
        for now, members in _grouped(boxes):
            if now[0] >= now[2] or now[1] >= now[3]:
                continue
            members.sort()
            own = [boxes[k][0] for k in members]
            layer, covered = _frame([objects[k] for k in members], own, float(s), now, margin)
            window = _window(now, box)
            layer *= np.float32(weight)
            total[window] += layer
            np.maximum(cover[window], covered, out=cover[window])
    return Patch(box, total, cover)


def _frame(
    objects: list[MovingObject], boxes: list[Box], s: float, now: Box, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Layer and coverage inside `now`, the union of `boxes`, at the moment `s`; objects back to front."""
    shape = now[3] - now[1], now[2] - now[0]
    layer, cover = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32)
    for item, box in zip(objects, boxes, strict=True):
        if box[0] >= box[2] or box[1] >= box[3]:
            continue  # outside the canvas
        x, y = item.motion.position(s) + margin
        above, covered = sample_sprite(item.sprite, (float(x), float(y)), item.motion.orientation(s), box)
        if len(objects) == 1:
            return above, covered
        window = _window(box, now)
        lay_over(layer[window], above)
        np.maximum(cover[window], covered, out=cover[window])
    return layer, cover


def _trapezoid(
    steps: int, span: Span, brightness: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Give times over `span`, both ends included: else the footprint would lack half a step."""
    times = np.linspace(*span, steps + 1)
    weights = np.ones(steps + 1)
    weights[[0, -1]] = 0.5
    if brightness is not None:
        weights *= brightness(times)
    return times, weights / weights.sum()


def flicker_level(depth: float, phase: float, start_s: float, end_s: float, frequency_hz: float = 100.0) -> float:
    """Mean of 1 + depth cos(2 pi f t + phase) over an exposure: its brightness under flickering light."""
    omega = 2 * math.pi * frequency_hz
    swing = math.sin(omega * end_s + phase) - math.sin(omega * start_s + phase)
    return 1 + depth * swing / (omega * (end_s - start_s))
