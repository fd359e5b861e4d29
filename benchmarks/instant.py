"""Deblurring with a short exposure at once: how many dB it gains, what a displaced short exposure costs, and time.

    python benchmarks/instant.py [--seeds 101 102 103] [--shards DIR] [--pairs 4] [--no-time]

PSNR_w [dB] of simulated pairs, with the true masks and simulated short exposures of several exposure ratios and
noises ("physical" of `relo short`): of the photograph as it is, of the paper's filter with the short exposure
brought to the photograph's mean in the mask, of the guided filter fitted on smoothed images, of OpenCV's non-local
means of the matched short exposure, and of the instant path with the short exposure displaced by 0, 1, 2 and 4 px.
"worst" is the pair that gained least at 0 px. A dataset of `relo process` can be given with --shards; its masks are
then taken for true. Times are of one call on 12 MP (3000x4000), one thread, files not included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import numpy as np
import torch
from scipy.ndimage import fourier_shift

from relo.capture.simulator import SimulationConfig, simulate_session
from relo.models.exprdiff import blur_aware_guided_filter
from relo.postprocess.short import short_exposure
from relo.shards import ProcessConfig, open_dataset, process_session
from relo.training.instant.config import InstantConfig
from relo.training.instant.matching import match_gain
from relo.training.instant.restore import restore_from_short
from relo.training.metrics import weighted_psnr

SHIFTS = (0, 1, 2, 4)
DIRECTION = 0.7  # of the displacement [rad]: of fractions of a pixel in x and in y
# Exposure ratio, and variance of the noise per unit of light: phones reach from 1e-4 to 1.2e-2.
EXPOSURES = [(ratio, shot) for ratio in (1 / 2, 1 / 4, 1 / 8, 1 / 16) for shot in (2e-4, 1e-3, 4e-3, 1.2e-2)]


class Pair(NamedTuple):
    """(H, W, 3) uint8 photographs and the (H, W) bool mask."""

    blur: np.ndarray
    sharp: np.ndarray
    mask: np.ndarray


def simulated(seed: int, pairs: int) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        session, shards = Path(folder) / "session", Path(folder) / "shards"
        simulate_session(session, SimulationConfig(width=538, height=359, scenes=1, pairs=pairs, seed=seed))
        process_session(session, shards, config=ProcessConfig(short={"enabled": False}))
        with h5py.File(session / "truth.h5") as truth:
            group = truth["scenes/scene_00/pairs"]
            for sample in open_dataset(shards):
                mask = (group[sample.id]["mask"][()] > 0) & (sample.valid > 0)
                yield Pair(sample.blur, sample.sharp, mask)


def displaced(image: np.ndarray, shift: float) -> np.ndarray:
    """Move an image in its spectrum: interpolation would take detail away, which a camera's hand shake does not."""
    if not shift:
        return image
    margin = 16
    padded = np.pad(image.astype(np.float32), ((margin, margin), (margin, margin), (0, 0)), "reflect")
    by = (shift * np.sin(DIRECTION), shift * np.cos(DIRECTION))
    moved = np.stack([np.fft.ifft2(fourier_shift(np.fft.fft2(padded[..., c]), by)).real for c in range(3)], axis=-1)
    return np.rint(np.clip(moved[margin:-margin, margin:-margin], 0, 255)).astype(np.uint8)


def expose(sharp: np.ndarray, ratio: float, shot: float, seed: int) -> np.ndarray:
    read = float(np.sqrt(shot**2.18 * np.exp(1.2)))
    return short_exposure(sharp, np.random.default_rng(seed), model="physical", ratio=ratio, shot=shot, read=read)


def papers_filter(blur: np.ndarray, short: np.ndarray, mask: np.ndarray) -> np.ndarray:
    b, r = (image.astype(np.float32) / 255 for image in (blur, short))
    r *= b[mask].mean(axis=0) / np.maximum(r[mask].mean(axis=0), 1e-3)
    return np.clip(blur_aware_guided_filter(b, r, mask), 0, 1)


def non_local_means(blur: np.ndarray, short: np.ndarray, mask: np.ndarray) -> np.ndarray:
    b, r = (image.astype(np.float32) / 255 for image in (blur, short))
    matched = np.clip(match_gain(b, r, ~mask)[0], 0, 1)
    strength = float(np.clip(180 * np.median(np.abs(matched - b)[~mask]) / 0.6745, 1, 60))
    found = cv2.fastNlMeansDenoisingColored(
        np.rint(255 * matched).astype(np.uint8), None, strength, strength, 5, 15
    )
    return np.where(mask[..., None], np.asarray(found, np.float32) / 255, b)


def psnr_w(image: np.ndarray, pair: Pair) -> float:
    scale = 255 if image.dtype == np.uint8 else 1
    found, sharp = (
        torch.from_numpy(np.moveaxis(values.astype(np.float32), -1, 0))[None]
        for values in (image / scale, pair.sharp / 255)
    )
    return float(weighted_psnr(found, sharp, torch.from_numpy(pair.mask)[None, None].float()))


def scores(pair: Pair, ratio: float, shot: float, seed: int) -> list[float]:
    short = expose(pair.sharp, ratio, shot, seed)
    mask = pair.mask.astype(np.uint8)
    prefiltered = restore_from_short(pair.blur, short, mask, InstantConfig(method="prefiltered")).image
    row = [
        psnr_w(image, pair)
        for image in (
            pair.blur,
            papers_filter(pair.blur, short, pair.mask),
            prefiltered,
            non_local_means(pair.blur, short, pair.mask),
        )
    ]
    for shift in SHIFTS:
        restored = restore_from_short(
            pair.blur, expose(displaced(pair.sharp, shift), ratio, shot, seed), mask
        ).image
        assert np.array_equal(restored[~pair.mask], pair.blur[~pair.mask]), "the background is touched"
        row.append(psnr_w(restored, pair))
    return row


def time_of_12_megapixels() -> None:
    rng = np.random.default_rng(0)
    size = (3000, 4000)
    coarse = cv2.resize(rng.random((300, 400, 3)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    sharp = np.clip(0.15 + 0.6 * coarse + 0.05 * rng.standard_normal((*size, 3), np.float32), 0, 1)
    sharp = np.rint(255 * sharp).astype(np.uint8)
    short = expose(displaced(sharp, 2), 1 / 8, 1e-3, 0)
    y, x = np.mgrid[: size[0], : size[1]]
    for share in (0.12, 1.0):
        mask = np.hypot(y - 1400, x - 2300) < np.sqrt(share * 12e6 / np.pi) if share < 1 else np.ones(size, bool)
        blur = np.where(mask[..., None], cv2.blur(sharp, (41, 1)), sharp)
        begun = time.perf_counter()
        restore_from_short(blur, short, mask)
        instant = time.perf_counter() - begun
        b, r = (image.astype(np.float32) / 255 for image in (blur, short))
        begun = time.perf_counter()
        blur_aware_guided_filter(b, r, mask)
        print(
            f"12 MP, {share:.0%} blurred: instant path {instant:.1f} s, the paper's filter alone "
            f"{time.perf_counter() - begun:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[101, 102, 103])
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--pairs", type=int, default=4, help="of each seed, or of the dataset")
    parser.add_argument("--no-time", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if options.shards:
        dataset = open_dataset(options.shards)
        chosen = [dataset[index] for index in np.linspace(0, len(dataset) - 1, options.pairs).astype(int)]
        pairs = [Pair(sample.blur, sample.sharp, sample.mask > 0) for sample in chosen]
    else:
        pairs = [pair for seed in options.seeds for pair in simulated(seed, options.pairs)]
    pairs = [pair for pair in pairs if pair.mask.any()]
    names = ["input", "paper", "prefilt.", "NLM", *(f"{shift} px" for shift in SHIFTS), "gain", "worst"]
    print(f"PSNR_w [dB], means of {len(pairs)} pairs\n{'ratio':>6}{'shot':>9}" + "".join(f"{n:>9}" for n in names))
    gains = []
    for ratio, shot in EXPOSURES:
        rows = np.array([scores(pair, ratio, shot, number) for number, pair in enumerate(pairs)])
        gain = rows[:, 4] - rows[:, 0]
        gains.append(gain.mean())
        figures = [*rows.mean(axis=0), gain.mean(), gain.min()]
        line = "".join(f"{value:9.2f}" for value in figures)
        print(f"{'1/' + str(round(1 / ratio)):>6}{shot:9.0e}{line}", flush=True)
    print(f"mean gain {np.mean(gains):.2f} dB")
    if not options.no_time:
        time_of_12_megapixels()


if __name__ == "__main__":
    main()
