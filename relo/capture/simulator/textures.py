"""Radiance to build scenes from: photographs, fractal noise and dead leaves, all in linear light."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

# All of these lie in the scikit-image wheel itself; the other names of skimage.data are downloads.
_COLOUR = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry")
_GREY = ("brick", "grass", "gravel", "camera", "coins", "moon")

# Standard deviation of the optical blur [px]. Every radiance passes through it, so that the images are
# band-limited enough to be resampled by a spline.
PSF_SIGMA = 0.8


def srgb_to_linear(encoded: np.ndarray) -> np.ndarray:
    """Invert the sRGB curve (IEC 61966-2-1); float32 in [0, 1]."""
    encoded = np.asarray(encoded, np.float32)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def photograph(name: str) -> np.ndarray:
    """Load a photograph of the scikit-image wheel: (H, W, 3) float32 linear radiance in [0, 1], read-only."""
    import skimage.data

    image = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
    linear = srgb_to_linear(image / np.float32(255))
    if linear.ndim == 2:
        linear = np.repeat(linear[..., None], 3, axis=2)
    linear.setflags(write=False)
    return linear


def random_photograph(rng: np.random.Generator) -> np.ndarray:
    """Pick a colour photograph, or a grey one and give it a tint."""
    names = (*_COLOUR, "motorcycle", *_GREY)
    name = names[rng.integers(len(names))]
    tint = random_colour(rng, 0.12)
    return photograph(name) * tint if name in _GREY else photograph(name)


def random_colour(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """(3,) float32 colour with mean 1; `saturation` is about the spread of its channels."""
    colour = np.exp(saturation * rng.standard_normal(3))
    return (colour / colour.mean()).astype(np.float32)


def fractal(rng: np.random.Generator, shape: tuple[int, int], exponent: float, largest_px: float) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency ** exponent, up to structures of `largest_px`.

    Returns
    -------
    (H, W) float32 array, mean 0, standard deviation 1.
    """
    from scipy import fft

    size = [fft.next_fast_len(n, real=True) for n in shape]
    spectrum = fft.rfft2(rng.standard_normal(size, dtype=np.float32))
    frequency = np.hypot(fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None, :])
    spectrum *= (np.maximum(frequency, 1.0 / largest_px) ** -exponent).astype(np.float32)
    noise = fft.irfft2(spectrum, s=size)[: shape[0], : shape[1]]
    noise -= noise.mean()
    return (noise / noise.std()).astype(np.float32)


def dead_leaves(
    rng: np.random.Generator, shape: tuple[int, int], smallest_px: float, largest_px: float, hue: float = 0.35
) -> np.ndarray:
    """Overlapping ellipses with radii distributed as r ** -3: edges at every scale, as in photographs.

    Returns
    -------
    (H, W, 3) float32 array, mean about 0.25.
    """
    import cv2

    height, width = shape
    image = np.empty((height, width, 3), np.float32)
    image[...] = 0.25 * random_colour(rng, hue)
    a, b = smallest_px**-2, max(largest_px, 1.5 * smallest_px) ** -2
    # Twice the frame's area in leaves hides nearly all of the first colour.
    mean_area = math.pi * math.log(a / b) / (a - b)
    count = int(np.clip(2.5 * height * width / mean_area, 50, 100000))
    # The largest first, or they would bury the small ones.
    radii = np.sort((a - rng.random(count) * (a - b)) ** -0.5)[::-1]
    palette = np.stack([random_colour(rng, hue) for _ in range(12)])
    colours = palette[rng.integers(12, size=count)] * np.exp(rng.normal(-1.6, 0.6, (count, 1)))
    centres = rng.random((count, 2)) * (width, height)
    aspects, angles = rng.uniform(0.35, 1.0, count), rng.uniform(0, 180, count)
    for centre, radius, aspect, angle, colour in zip(centres, radii, aspects, angles, colours, strict=True):
        # OpenCV's fixed-point coordinates: 4 fractional bits.
        x, y = (round(16 * float(value)) for value in centre)
        axes = (max(8, int(16 * radius)), max(8, int(16 * radius * aspect)))
        cv2.ellipse(image, (x, y), axes, float(angle), 0, 360, colour.tolist(), -1, cv2.LINE_8, 4)
    return image


def resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample to `shape` (H, W): area means when it shrinks, bicubic when it grows; never below 0."""
    import cv2

    height, width = shape
    shrinks = height * width < image.shape[0] * image.shape[1]
    result = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.maximum(result, 0, out=result)


def tiled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fill `shape` (H, W) with mirrored copies of `image`, so that no seam shows."""
    rows, columns = (_mirror_index(size, wanted) for size, wanted in zip(image.shape, shape, strict=False))
    return image[rows][:, columns]


def _mirror_index(size: int, wanted: int) -> np.ndarray:
    index = np.arange(wanted) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def soft_cap(radiance: np.ndarray, cap: float) -> np.ndarray:
    """Compress `radiance` smoothly below `cap`; values far below it hardly change. In place, float32."""
    np.maximum(radiance, 0, out=radiance)
    radiance /= (1 + (radiance / np.float32(cap)) ** 4) ** np.float32(0.25)
    return radiance


def optical_blur(image: np.ndarray, sigma: float = PSF_SIGMA) -> np.ndarray:
    """Gaussian point spread function [px], mirrored at the border."""
    import cv2

    radius = max(2, math.ceil(4 * sigma))
    size = (2 * radius + 1, 2 * radius + 1)
    return cv2.GaussianBlur(image, size, sigma, borderType=cv2.BORDER_REFLECT_101)
