"""Geometry of camera B: where it sees what camera S sees, and resampling a picture accordingly.

Convention: displacement (dx, dy) [px] maps a pixel of S to the point of B that shows the same thing,
B(x + flow(x)) = S(x). B's frames are rendered by the inverse map, found numerically.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from relo.capture.simulator.config import SimulationConfig, Stream, generator

_SPLINE_ORDER = 5
# A quintic spline's footprint, and the reach of its prefilter to 1e-6.
SPLINE_PAD = 18


@dataclass(frozen=True)
class Ellipse:
    """A soft foreground region that camera B sees shifted.

    Attributes
    ----------
    centre, radii : 2 floats
        (x, y) [px].
    softness : float
        Width of the rim in units of the radii.
    shift : 2 floats
        (dx, dy) [px].
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    softness: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Alignment:
    """Geometry of camera B relative to S; the formulas are in `displacement`.

    Attributes
    ----------
    shape : 2 ints
        (H, W) [px].
    rotation : float
        [rad], from +x towards +y.
    scale : float
    perspective : 2 floats
        Coefficients of u and v in the homography's denominator.
    k1 : float
        Radial distortion, for radii in half frame widths.
    shift : 2 floats
        (dx, dy) [px].
    foreground : Ellipse, optional
    """

    shape: tuple[int, int]
    rotation: float = 0.0
    scale: float = 1.0
    perspective: tuple[float, float] = (0.0, 0.0)
    k1: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    foreground: Ellipse | None = None

    def bumped(self, dx: float, dy: float) -> Alignment:
        """Return this geometry after a knock of (dx, dy) [px]."""
        return replace(self, shift=(self.shift[0] + dx, self.shift[1] + dy))


def draw_alignment(config: SimulationConfig, scene: int) -> Alignment:
    """Draw the geometry of `scene`: one rig for the session, which settles a little from scene to scene."""
    rng = generator(config.seed, Stream.ALIGNMENT)
    drift = generator(config.seed, Stream.SCENE_ALIGNMENT, scene)
    k = config.misalignment
    sign = rng.choice([-1.0, 1.0], 2)
    rotation = math.radians(0.1) * sign[0] * rng.uniform(0.7, 1.3) * k
    scale = 1 + 0.001 * rng.uniform(0.6, 1.4) * k
    perspective = 2e-4 * rng.uniform(-1, 1, 2) * k
    k1 = 1.2e-3 * rng.uniform(0.8, 1.2) * k
    shift = (rng.uniform(-2.2, 2.2, 2) + drift.uniform(-0.3, 0.3, 2)) * k
    foreground = _draw_ellipse(config, drift) if config.parallax_px else None
    return Alignment(
        config.shape,
        float(rotation + math.radians(0.01) * drift.uniform(-1, 1) * k),
        float(scale),
        (float(perspective[0]), float(perspective[1])),
        float(k1),
        (float(shift[0]), float(shift[1])),
        foreground,
    )


def _draw_ellipse(config: SimulationConfig, rng: np.random.Generator) -> Ellipse:
    height, width = config.shape
    centre = rng.uniform(0.35, 0.65, 2) * (width, height)
    radii = rng.uniform(0.2, 0.3, 2) * (width, height)
    angle = rng.uniform(0, 2 * math.pi)
    # The two arms of a coaxial rig are displaced along one direction, the same for everything at one depth.
    shift = config.parallax_px * math.cos(angle), config.parallax_px * math.sin(angle)
    # Soft enough that the flow changes by at most 0.15 px per pixel: it must not fold in small frames.
    softness = max(0.25, config.parallax_px / (0.3 * float(radii.min())))
    return Ellipse((float(centre[0]), float(centre[1])), (float(radii[0]), float(radii[1])), softness, shift)


def displacement(alignment: Alignment, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the flow from S to B at points (x, y) [px] of S.

    X, Y are measured from the frame's centre and u, v are X, Y in half widths. Then
    B = scale * rotation * (X, Y) (1 + k1 (u^2 + v^2)) / (1 + p_u u + p_v v) + shift + foreground shift.

    Returns
    -------
    dx, dy : float64 arrays [px]
    """
    height, width = alignment.shape
    X, Y = x - (width - 1) / 2, y - (height - 1) / 2
    u, v = X / (width / 2), Y / (width / 2)
    factor = alignment.scale * (1 + alignment.k1 * (u**2 + v**2))
    factor = factor / (1 + alignment.perspective[0] * u + alignment.perspective[1] * v)
    c, s = math.cos(alignment.rotation), math.sin(alignment.rotation)
    dx = factor * (c * X - s * Y) - X + alignment.shift[0]
    dy = factor * (s * X + c * Y) - Y + alignment.shift[1]
    if alignment.foreground is not None:
        part = alignment.foreground
        distance = np.hypot((x - part.centre[0]) / part.radii[0], (y - part.centre[1]) / part.radii[1])
        weight = 0.5 - 0.5 * np.tanh((distance - 1) / part.softness)
        dx = dx + part.shift[0] * weight
        dy = dy + part.shift[1] * weight
    return dx, dy


def flow_field(alignment: Alignment) -> np.ndarray:
    """(H, W, 2) float32: (dx, dy) [px] at every pixel of S; `warp(B, flow)` shows what S shows."""
    y, x = np.indices(alignment.shape, np.float64)
    return np.stack(displacement(alignment, x, y), axis=-1).astype(np.float32)


def invert(alignment: Alignment, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the points of S that camera B shows at (x, y) [px], to 1e-7 px.

    The flow changes by a few per mille per pixel: the fixed-point iteration p = q - flow(p) converges fast.
    """
    sx, sy = np.array(x, np.float64), np.array(y, np.float64)
    for _ in range(60):
        dx, dy = displacement(alignment, sx, sy)
        step = max(float(np.abs(x - dx - sx).max()), float(np.abs(y - dy - sy).max()))
        sx, sy = x - dx, y - dy
        if step < 1e-7:
            break
    return sx, sy


def largest_displacement(alignment: Alignment) -> float:
    """Upper bound of |dx| and |dy| near the frame [px]."""
    height, width = alignment.shape
    x, y = np.meshgrid(np.linspace(-0.1, 1.1, 33) * width, np.linspace(-0.1, 1.1, 33) * height)
    dx, dy = displacement(alignment, x, y)
    return float(max(np.abs(dx).max(), np.abs(dy).max())) + 0.5


def resample(canvas: np.ndarray, origin: tuple[float, float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample `canvas` at points given in frame coordinates, by a quintic spline.

    Parameters
    ----------
    canvas : (H, W, 3) float32 array
    origin : 2 floats
        Frame coordinates (x, y) of the canvas's first pixel.
    x, y : (h, w) float64 arrays
        Where to sample [px].

    Returns
    -------
    (h, w, 3) float32 array
    """
    from scipy import ndimage

    points = np.stack([y - origin[1], x - origin[0]])
    result = np.empty((*x.shape, canvas.shape[2]), np.float32)
    for channel in range(canvas.shape[2]):
        # float64 coefficients: in float32 the prefilter alone costs a few digits.
        spline = ndimage.spline_filter(canvas[..., channel], _SPLINE_ORDER, output=np.float64, mode="mirror")
        ndimage.map_coordinates(
            spline, points, output=result[..., channel], order=_SPLINE_ORDER, mode="mirror", prefilter=False
        )
    return result


def view_from_b(canvas: np.ndarray, margin: int, alignment: Alignment) -> np.ndarray:
    """(H, W, 3) float32: camera B's view of a `canvas` drawn in S geometry with `margin` pixels around it."""
    y, x = np.indices(alignment.shape, np.float64)
    sx, sy = invert(alignment, x, y)
    return resample(canvas, (-margin, -margin), sx, sy)


def add_change(view: np.ndarray, change: np.ndarray, origin: tuple[int, int], alignment: Alignment) -> None:
    """Add to B's `view` what a `change` in S geometry makes of it; in place.

    Resampling is linear: a frame is the view of the still scene plus that of the change, which is small.

    Parameters
    ----------
    view : (H, W, 3) float32 array
    change : (h, w, 3) float32 array
        Difference to the still scene; zero outside.
    origin : 2 ints
        Frame coordinates (x, y) of its first pixel.
    """
    height, width = alignment.shape
    reach = math.ceil(largest_displacement(alignment)) + 4
    x0, y0 = max(0, origin[0] - reach), max(0, origin[1] - reach)
    x1 = min(width, origin[0] + change.shape[1] + reach)
    y1 = min(height, origin[1] + change.shape[0] + reach)
    if x0 >= x1 or y0 >= y1:
        return
    pad = SPLINE_PAD + 2 * reach
    padded = np.pad(change, ((pad, pad), (pad, pad), (0, 0)))
    y, x = np.meshgrid(np.arange(y0, y1, dtype=np.float64), np.arange(x0, x1, dtype=np.float64), indexing="ij")
    sx, sy = invert(alignment, x, y)
    view[y0:y1, x0:x1] += resample(padded, (origin[0] - pad, origin[1] - pad), sx, sy)
