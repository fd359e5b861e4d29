"""One simulated pair: a still background, an object smeared by its motion, and a short exposure of the moment."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest

from relo.postprocess.short import short_exposure
from relo.srgb import srgb_decode, srgb_encode


class Scene(NamedTuple):
    """(H, W, 3) uint8 photographs and the (H, W) uint8 mask of everything that moved."""

    blur: np.ndarray
    sharp: np.ndarray
    mask: np.ndarray

    def short(self, ratio=1 / 8, shot=1e-3, **options):
        rng = np.random.default_rng(7)
        return short_exposure(self.sharp, rng, model="physical", ratio=ratio, shot=shot, read=shot, **options)

    def psnr_w(self, image):
        error = (image.astype(float) - self.sharp)[self.mask > 0]
        return -10 * np.log10(np.mean(error**2) / 255**2)


def texture(rng, size):
    image = np.zeros((*size, 3), np.float32)
    for sigma, amount in ((1, 0.25), (3, 0.5), (12, 1.0)):
        noise = cv2.GaussianBlur(rng.standard_normal((*size, 3)).astype(np.float32), (0, 0), sigma)
        image += amount * noise / noise.std()
    return np.clip(0.45 + 0.12 * image, 0.02, 0.95)


@pytest.fixture(scope="session")
def scene():
    rng = np.random.default_rng(0)
    height, width, length = 240, 320, 21
    background, thing = (srgb_decode(texture(rng, (height, width))) for _ in range(2))
    y, x = np.mgrid[:height, :width]
    shape = (((y - 120) / 55) ** 2 + ((x - 170) / 65) ** 2 < 1).astype(np.float32)
    light, mask = np.zeros_like(background), np.zeros((height, width), np.float32)
    for shift in range(-(length // 2), length // 2 + 1):
        here = np.roll(shape, shift, 1)[..., None]
        light += here * np.roll(thing, shift, 1) + (1 - here) * background
        mask = np.maximum(mask, here[..., 0])
    frames = light / length, shape[..., None] * thing + (1 - shape[..., None]) * background
    noise = rng.normal(0, 0.004, (2, height, width, 3))
    encoded = [srgb_encode(frame) + grain for frame, grain in zip(frames, noise, strict=True)]
    blur, sharp = (np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8) for frame in encoded)
    return Scene(blur, sharp, (255 * mask).astype(np.uint8))
