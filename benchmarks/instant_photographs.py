"""The instant path on photographs with an object that moves: what it gains, and what displacement costs.

    python benchmarks/instant_photographs.py

Photographs of scikit-image are made half as large, so that a displacement by half a pixel is one by a whole pixel
before; an ellipse with another part of the picture moves by 10 px over each. PSNR_w [dB] with the true mask and 8
bits: of the blurred photograph, what the instant path gains, and the largest loss by a short exposure that is
displaced by whole and by half pixels, for several exposure ratios and noises ("physical" of `relo short`). What
leaves the frame at one side comes in at the other.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from instant import Pair, expose, psnr_w
from skimage import data

from relo.srgb import srgb_decode, srgb_encode
from relo.training.instant.restore import restore_from_short

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
EXPOSURES = ((1 / 2, 2e-4), (1 / 8, 1e-3), (1 / 16, 4e-3), (1 / 16, 1.2e-2))
WHOLE = ((1, 0), (2, 2), (-3, 2), (0, 4), (4, 4))  # (x, y) [px]
HALF = ((0.5, 0.5), (1.5, 2.5), (2.5, -1.5))
LENGTH = 21  # of the motion [px before halving]


def photographed(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear light with and without motion, (2H, 2W, 3) float32, and where something moves, (2H, 2W) bool."""
    image = getattr(data, name)()[..., :3]
    height, width = (side // 2 * 2 for side in image.shape[:2])
    still = srgb_decode(image[:height, :width].astype(np.float32) / 255)
    other = np.roll(still, (height // 3, width // 2), (0, 1))
    y, x = np.mgrid[:height, :width]
    total, touched = np.zeros_like(still), np.zeros((height, width), bool)
    for step in range(-(LENGTH // 2), LENGTH // 2 + 1):
        inside = ((x - 0.45 * width - step) / (0.17 * width)) ** 2 + ((y - 0.5 * height) / (0.2 * height)) ** 2 < 1
        frame = np.where(inside[..., None], np.roll(other, step, 1), still)
        total += frame
        touched |= inside
        if step == 0:
            moment = frame
    return total / LENGTH, moment, touched


def halved(light: np.ndarray) -> np.ndarray:
    """8-bit photograph of half the size."""
    small = cv2.resize(light, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.rint(255 * np.clip(srgb_encode(small), 0, 1)).astype(np.uint8)


def score(pair: Pair, moment: np.ndarray, shift: tuple[float, float], ratio: float, shot: float) -> float:
    """PSNR_w with a short exposure of `moment`, (2H, 2W, 3), that is displaced by (x, y) px of `pair`."""
    moved = np.roll(moment, (round(2 * shift[1]), round(2 * shift[0])), (0, 1))
    short = expose(halved(moved), ratio, shot, 0)
    return psnr_w(restore_from_short(pair.blur, short, pair.mask.astype(np.uint8)).image, pair)


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{'':10}{'ratio':>6}{'shot':>9}{'input':>8}{'gain':>8}{'whole px':>10}{'half px':>10}")
    for name in NAMES:
        light, moment, touched = photographed(name)
        mask = touched.reshape(touched.shape[0] // 2, 2, -1, 2).any((1, 3))
        pair = Pair(halved(light), halved(moment), mask)
        before = psnr_w(pair.blur, pair)
        for ratio, shot in EXPOSURES:
            plain = score(pair, moment, (0, 0), ratio, shot)
            losses = [
                plain - min(score(pair, moment, shift, ratio, shot) for shift in shifts) for shifts in (WHOLE, HALF)
            ]
            line = f"{before:8.2f}{plain - before:+8.2f}{losses[0]:10.2f}{losses[1]:10.2f}"
            print(f"{name:10}{'1/' + str(round(1 / ratio)):>6}{shot:9.0e}{line}", flush=True)


if __name__ == "__main__":
    main()
