"""The still scene: photographs on a wall, ground, foliage and things that stand about, in linear light."""

from __future__ import annotations

import math

import numpy as np

from relo.capture.simulator import textures
from relo.capture.simulator.config import SimulationConfig
from relo.capture.simulator.sprites import draw_sprite, lay_over, light_spot, sample_sprite

MEAN_RADIANCE = 0.21
BOARD_RADIANCE = 0.7


def draw_scene(
    config: SimulationConfig, rng: np.random.Generator, shape: tuple[int, int], cap: float
) -> np.ndarray:
    """Draw a still scene.

    Parameters
    ----------
    config : SimulationConfig
        Its width sets the size of the structures.
    rng : Generator
    shape : 2 ints
        (H, W) to draw [px]: the frame and a margin.
    cap : float
        Largest radiance, highlights excepted.

    Returns
    -------
    (H, W, 3) float32 array
        Linear sRGB radiance, mean about 0.21, textured down to single pixels everywhere, and band-limited by
        the optical blur.
    """
    unit = max(config.width, 64)
    canvas = _wall(rng, shape, unit)
    for _ in range(int(rng.integers(6, 10))):
        _hang_picture(rng, canvas, unit)
    _grow_foliage(rng, canvas, unit)
    _stand_things(rng, canvas, unit)
    canvas *= _illumination(rng, shape, unit)
    canvas *= np.float32(MEAN_RADIANCE) / canvas.mean()
    textures.soft_cap(canvas, cap)
    canvas *= min(1.1, MEAN_RADIANCE / float(canvas.mean()))
    np.minimum(canvas, np.float32(cap), out=canvas)
    if config.highlights:
        _hang_lights(rng, canvas, config.scale)
    return textures.optical_blur(canvas)


def whiteboard(scene: np.ndarray, config: SimulationConfig, margin: int, cap: float) -> np.ndarray:
    """Copy of `scene` with a neutral board of radiance 0.7 (or just below `cap`) over most of the frame."""
    height, width = config.shape
    inset_y, inset_x = margin + height // 16, margin + width // 16
    board = np.zeros(scene.shape[:2], np.float32)
    board[inset_y:-inset_y, inset_x:-inset_x] = 1
    board = textures.optical_blur(board)[..., None]
    return scene * (1 - board) + np.float32(min(BOARD_RADIANCE, 0.95 * cap)) * board


def _wall(rng: np.random.Generator, shape: tuple[int, int], unit: int) -> np.ndarray:
    """Wall above, ground below, each a photographed surface with its own colour and stains."""
    height, width = shape
    horizon = int(height * rng.uniform(0.62, 0.8))
    canvas = np.empty((height, width, 3), np.float32)
    surfaces = list(rng.permutation(["brick", "gravel", "grass"]))
    wall, ground = ("brick", "gravel") if rng.random() < 0.5 else surfaces[:2]
    for name, rows in ((wall, slice(0, horizon)), (ground, slice(horizon, height))):
        side = max(48, round(unit * rng.uniform(0.22, 0.4)))
        tile = textures.tiled(
            textures.resized(textures.photograph(name), (side, side)), (rows.stop - rows.start, width)
        )
        canvas[rows] = tile * (textures.random_colour(rng, 0.12) * np.float32(rng.uniform(0.7, 1.5)))
    stains = textures.fractal(rng, shape, 1.3, unit / 4)
    return canvas * np.exp(0.3 * stains)[..., None]


def _hang_picture(rng: np.random.Generator, canvas: np.ndarray, unit: int) -> None:
    """Place a photograph as a slightly tilted plane with a frame and a shadow; in place."""
    import cv2

    photo = textures.random_photograph(rng)
    width = max(24, round(unit * rng.uniform(0.14, 0.34)))
    height = max(16, round(width * photo.shape[0] / photo.shape[1] * rng.uniform(0.8, 1.2)))
    border = max(1, round(0.03 * width))
    picture = np.empty((height + 2 * border, width + 2 * border, 3), np.float32)
    picture[...] = rng.choice([0.03, 0.5]) * textures.random_colour(rng, 0.2)
    picture[border:-border, border:-border] = textures.resized(photo, (height, width))
    picture *= np.float32(np.clip(0.25 / picture.mean(), 0.6, 3.0))
    high, wide = picture.shape[:2]

    centre = rng.uniform(-0.02, 1.02, 2) * (canvas.shape[1], canvas.shape[0] * 0.8)
    angle = rng.normal(0, 0.06)
    corners = (
        (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1 + rng.uniform(-0.06, 0.06, (4, 2)))) / 2 * (wide, high)
    )
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = corners @ turn + centre
    source = np.array([[0, 0], [wide - 1, 0], [wide - 1, high - 1], [0, high - 1]], np.float32)
    soft = max(2.0, 0.03 * wide)
    pad = math.ceil(4 * soft)
    x0, y0 = (int(v) for v in np.floor(corners.min(axis=0)) - pad)
    x1, y1 = (int(v) for v in np.ceil(corners.max(axis=0)) + pad)
    matrix = cv2.getPerspectiveTransform(source, (corners - (x0, y0)).astype(np.float32))
    size = (x1 - x0, y1 - y0)
    drawn = cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(np.ones((high, wide), np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    shadow = np.roll(textures.optical_blur(mask, soft), (round(soft), round(soft)), (0, 1))
    _blend(canvas, (x0, y0), drawn, mask, 1 - 0.5 * shadow)


def _blend(
    canvas: np.ndarray, origin: tuple[int, int], patch: np.ndarray, mask: np.ndarray, dimming: np.ndarray
) -> None:
    """Lay the part of `patch` inside the canvas over it: canvas * dimming * (1 - mask) + patch * mask."""
    x, y = origin
    top, left = max(0, -y), max(0, -x)
    bottom, right = min(mask.shape[0], canvas.shape[0] - y), min(mask.shape[1], canvas.shape[1] - x)
    if top >= bottom or left >= right:
        return
    inside = slice(top, bottom), slice(left, right)
    target = canvas[y + top : y + bottom, x + left : x + right]
    target *= (dimming[inside] * (1 - mask[inside]))[..., None]
    target += patch[inside] * mask[inside][..., None]


def _grow_foliage(rng: np.random.Generator, canvas: np.ndarray, unit: int) -> None:
    """Dead leaves where a fractal field is high, mostly near the ground; in place."""
    shape = canvas.shape[:2]
    leaves = textures.dead_leaves(rng, shape, max(1.8, unit / 500), unit / 22, hue=0.2)
    field = textures.fractal(rng, shape, 1.8, unit / 3)
    field += np.linspace(-1.6, 0.6, shape[0], dtype=np.float32)[:, None]
    mask = np.clip(8 * (field - 0.35), 0, 1)[..., None]
    canvas *= 1 - mask
    canvas += leaves * mask


def _stand_things(rng: np.random.Generator, canvas: np.ndarray, unit: int) -> None:
    """Solid objects with shadows, of the same kind as those that move; in place."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(3, 6))):
        sprite = draw_sprite(rng, max(100.0, (unit * rng.uniform(0.04, 0.1)) ** 2), 0.75)
        centre = rng.uniform(0.05, 0.95) * width, rng.uniform(0.5, 0.95) * height
        angle = float(rng.uniform(-0.5, 0.5))
        x0, y0, x1, y1 = sprite.box(*centre, angle)
        box = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
        layer, _ = sample_sprite(sprite, centre, angle, box)
        lay_over(canvas[box[1] : box[3], box[0] : box[2]], layer)


def _illumination(rng: np.random.Generator, shape: tuple[int, int], unit: int) -> np.ndarray:
    """(H, W, 1) float32: light falling off across the scene, and the fine grain of every real surface."""
    height, width = shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.25, 0.25, 2)
    grain = textures.fractal(rng, shape, 0.9, max(16, unit / 60))
    level = np.float32(slope_x) * x[None, :] + np.float32(slope_y) * y[:, None]
    return np.exp(level + 0.13 * grain)[..., None]


def _hang_lights(rng: np.random.Generator, canvas: np.ndarray, scale: float) -> None:
    """Small lamps, 5 to 30 times as bright as white; in place."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(6, 13))):
        centre = rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height
        sigma = max(1.2, rng.uniform(1.5, 4.0) * scale)
        colour = np.float32(rng.uniform(5, 30)) * textures.random_colour(rng, 0.1)
        # Only a window: a lamp is a few pixels wide.
        reach = math.ceil(5 * sigma)
        x, y = int(centre[0]), int(centre[1])
        window = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
        target = canvas[window]
        spot = light_spot(target.shape[:2], (centre[0] - window[1].start, centre[1] - window[0].start), sigma)
        target += spot[..., None] * colour
