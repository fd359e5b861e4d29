"""Textured shapes with soft edges and soft shadows: what moves, and what stands about in a scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from relo.capture.simulator import textures

# Texels of a sprite per pixel of the frame: after the optical blur, bilinear sampling is then good enough.
SUPERSAMPLING = 2
_SHAPES = ("blob", "blob", "disc", "box", "horse")


@dataclass(frozen=True, eq=False)
class Sprite:
    """One object, in its own frame.

    Attributes
    ----------
    rgba : (n, n, 4) float32 array
        Premultiplied linear radiance and coverage, `SUPERSAMPLING` texels per pixel, centred.
    shadow : (m, m) float32 array
        Share of the light the object's shadow takes away, one texel per 2 pixels, centred.
    offset : 2 floats
        Where the shadow lies from the object, (dx, dy) [px]; it does not turn with the object.
    hull, shadow_hull : (k, 2) float64 arrays
        Convex hull (x, y) of what is drawn, from the centre [px]; `offset` is not in it.
    """

    rgba: np.ndarray
    shadow: np.ndarray
    offset: tuple[float, float]
    hull: np.ndarray
    shadow_hull: np.ndarray

    @property
    def radius(self) -> float:
        """Distance of the outermost point from the centre [px]."""
        return float(np.hypot(self.hull[:, 0], self.hull[:, 1]).max())

    def box(self, x: float, y: float, angle: float) -> tuple[int, int, int, int]:
        """Pixels x0, y0, x1, y1 (x1, y1 outside) that the object at (x, y) and its shadow touch."""
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s], [-s, c]])
        points = np.concatenate([self.hull @ turn, self.shadow_hull @ turn + np.array(self.offset)]) + np.array(
            [x, y]
        )
        low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 2
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def draw_sprite(rng: np.random.Generator, area_px: float, cap: float, *, lights: bool = False) -> Sprite:
    """Draw an object of about `area_px` [px^2] with radiance below `cap`; `lights` adds bright spots."""
    outline = _outline(rng, area_px)
    size = outline.shape[0]
    colour = _surface(rng, outline)
    target = rng.uniform(0.10, 0.38)
    colour *= target / max(1e-3, float(colour[outline > 0].mean()))
    textures.soft_cap(colour, cap)
    # The shadow is drawn before the lights: they shine, they do not cast.
    shadow, offset = _shadow(rng, outline, math.sqrt(area_px))
    if lights:
        _add_lights(rng, colour, outline)
    rgba = np.empty((size, size, 4), np.float32)
    rgba[..., :3] = colour * outline[..., None]
    rgba[..., 3] = outline
    rgba = textures.optical_blur(rgba, SUPERSAMPLING * textures.PSF_SIGMA)
    return Sprite(rgba, shadow, offset, _hull(rgba[..., 3]) / SUPERSAMPLING, _hull(shadow) * 2.0)


def _hull(image: np.ndarray) -> np.ndarray:
    """(k, 2) float64: convex hull (x, y) of the texels that are not 0, from the centre [texels]."""
    import cv2

    touched = cv2.dilate((image != 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    hull = cv2.convexHull(cv2.findNonZero(touched)).reshape(-1, 2).astype(np.float64)
    return hull - (image.shape[0] - 1) / 2


def _outline(rng: np.random.Generator, area_px: float) -> np.ndarray:
    """(n, n) float32 of 0 and 1: a shape of the wanted area, centred, with room for its soft edge."""
    import cv2

    shape = _SHAPES[rng.integers(len(_SHAPES))]
    unit = SUPERSAMPLING * math.sqrt(area_px / math.pi)
    if shape == "horse":
        mask = _horse(area_px, flip=bool(rng.integers(2)))
    else:
        angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
        if shape == "box":
            # A superellipse: a box with round corners.
            power, aspect = rng.uniform(4, 8), rng.uniform(0.6, 1.6)
            c, s = np.cos(angle) * math.sqrt(aspect), np.sin(angle) / math.sqrt(aspect)
            radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
        else:
            strength = 0.0 if shape == "disc" else 0.16
            radius = np.ones_like(angle)
            for k in range(2, 7):
                radius += strength / (k - 1) * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
            radius = np.maximum(radius, 0.35)
        radius *= unit / math.sqrt(np.mean(radius**2))
        half = math.ceil(radius.max()) + 8 * SUPERSAMPLING
        points = half + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        mask = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
        cv2.fillPoly(mask, [np.round(16 * points).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask.astype(np.float32)


def _horse(area_px: float, *, flip: bool) -> np.ndarray:
    """Outline of the horse in the scikit-image wheel: a shape with thin limbs and holes between them."""
    import cv2
    import skimage.data

    horse = ~skimage.data.horse()
    zoom = SUPERSAMPLING * math.sqrt(area_px / horse.sum())
    height, width = (max(4, round(zoom * n)) for n in horse.shape)
    small = cv2.resize(
        horse[:, :: -1 if flip else 1].astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    side = max(height, width) + 16 * SUPERSAMPLING
    side += 1 - side % 2
    mask = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    mask[top : top + height, left : left + width] = small > 0.5
    return mask


def _surface(rng: np.random.Generator, outline: np.ndarray) -> np.ndarray:
    """(n, n, 3) float32 texture, shaded as if the shape were rounded and lit from above left."""
    import cv2

    size = outline.shape[0]
    kind = rng.integers(3)
    if kind == 0:
        photo = textures.random_photograph(rng)
        side = min(photo.shape[:2])
        crop = int(rng.uniform(0.6, 1.0) * side)
        top, left = rng.integers(photo.shape[0] - crop + 1), rng.integers(photo.shape[1] - crop + 1)
        colour = textures.resized(photo[top : top + crop, left : left + crop], (size, size))
    elif kind == 1:
        colour = textures.dead_leaves(rng, (size, size), max(3.0, size / 60), size / 5, hue=0.5)
    else:
        noise = textures.fractal(rng, (size, size), 1.2, size / 3)
        stripes = np.sin(noise * 1.5 + np.linspace(0, rng.uniform(15, 40), size, dtype=np.float32))
        mix = (0.5 + 0.5 * np.clip(3 * stripes, -1, 1))[..., None]
        one, other = textures.random_colour(rng, 0.5), textures.random_colour(rng, 0.5)
        colour = mix * one + (1 - mix) * (0.25 * other)
    grain = textures.fractal(rng, (size, size), 0.8, 40)
    colour = colour * np.exp(0.12 * grain)[..., None]
    distance = np.asarray(cv2.distanceTransform((outline > 0).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    depth = distance / max(1.0, float(distance.max()))
    bulge = np.sqrt(1 - (1 - depth) ** 2)
    slope = np.linspace(1.15, 0.75, size, dtype=np.float32)
    return (colour * ((0.55 + 0.45 * bulge) * slope[:, None] * slope[None, :])[..., None]).astype(np.float32)


def _shadow(
    rng: np.random.Generator, outline: np.ndarray, size_px: float
) -> tuple[np.ndarray, tuple[float, float]]:
    import cv2

    sigma = max(2.0, rng.uniform(0.03, 0.07) * size_px)  # [px]
    pad = math.ceil(3 * sigma / 2) + 2
    texels = math.ceil(outline.shape[0] / (2 * SUPERSAMPLING))
    small = cv2.resize(outline, (texels, texels), interpolation=cv2.INTER_AREA)
    shadow = textures.optical_blur(np.pad(small, pad), sigma / 2)
    # The Gaussian's tail would only cost time, and its cut edge would show.
    shadow = np.maximum(shadow - np.float32(0.01), 0) * np.float32(rng.uniform(0.5, 0.75))
    offset = (rng.uniform(0.06, 0.14) * size_px, rng.uniform(0.08, 0.18) * size_px)
    return shadow, offset


def _add_lights(rng: np.random.Generator, colour: np.ndarray, outline: np.ndarray) -> None:
    rows, columns = np.nonzero(outline > 0)
    for _ in range(2):
        at = rng.integers(rows.size)
        spot = light_spot(colour.shape[:2], (columns[at], rows[at]), SUPERSAMPLING * rng.uniform(1.2, 2.0))
        colour += spot[..., None] * (np.float32(rng.uniform(8, 30)) * textures.random_colour(rng, 0.1))


def light_spot(shape: tuple[int, int], centre: tuple[float, float], sigma: float) -> np.ndarray:
    """(H, W) float32 Gaussian spot of height 1 around `centre` (x, y)."""
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    column = np.exp(-(((y - centre[1]) / sigma) ** 2) / 2)
    row = np.exp(-(((x - centre[0]) / sigma) ** 2) / 2)
    return (column[:, None] * row[None, :]).astype(np.float32)


def sample_sprite(
    sprite: Sprite, position: tuple[float, float], angle: float, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `sprite` into the pixel box (x0, y0, x1, y1).

    Parameters
    ----------
    position : 2 floats
        Centre (x, y) [px].
    angle : float
        Rotation [rad], from +x towards +y.

    Returns
    -------
    layer : (h, w, 4) float32 array
        Radiance, and the share of the light from behind that object and shadow take away:
        picture = picture * (1 - layer[3]) + layer[:3].
    cover : (h, w) float32 array
        Coverage by the object itself.
    """
    layer = _affine(sprite.rgba, SUPERSAMPLING, position, angle, box)
    x, y = position
    shadow = _affine(sprite.shadow, 0.5, (x + sprite.offset[0], y + sprite.offset[1]), angle, box)
    cover = layer[..., 3].copy()
    shadow *= 1 - cover
    layer[..., 3] += shadow
    return layer, cover


def lay_over(picture: np.ndarray, layer: np.ndarray) -> None:
    """Put `layer` (h, w, 4) over `picture` (h, w, 3 or 4), in place; a 4th channel adds up as in `layer`."""
    picture *= (1 - layer[..., 3])[..., None]
    picture += layer[..., : picture.shape[2]]


def _affine(
    texture: np.ndarray,
    density: float,
    position: tuple[float, float],
    angle: float,
    box: tuple[int, int, int, int],
) -> np.ndarray:
    import cv2

    x0, y0, x1, y1 = box
    c, s = density * math.cos(angle), density * math.sin(angle)
    dx, dy = x0 - position[0], y0 - position[1]
    centre = (texture.shape[0] - 1) / 2
    matrix = np.array([[c, s, centre + c * dx + s * dy], [-s, c, centre - s * dx + c * dy]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, matrix, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_CONSTANT)
