"""What differs between the two frames of an aligned pair has moved: no history of the scene is needed.

The difference is measured in standard deviations of its noise, which the pair itself tells. Moving shadows
differ too, but are no blurred object: where both frames are the background, only darker, nothing is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from relo.masks.config import PairConfig
from relo.srgb import srgb_decode, srgb_encode

_BINS = 16
# Of the usual noise; what exceeds it in one range of brightness is a large moving thing of that brightness.
_MOST_NOISE = 2.0
# With it a smoothed difference of less than 3 levels of 255 never counts: rounding and compression are no movement.
_LEAST_NOISE = 2.25
# What moved is somewhere so many times as different as the threshold, on so many pixels; blocks of a compressed
# video are not.
_STRONG, _STRONG_PIXELS = 3.0, 12
_GAIN_BLOCK = 16
# Of the noise, between shadow and darkened background.
_SHADOW_RESIDUAL = 2.0
# Smoothing of the two sums whose ratio is the light left in a shadow [px].
_SHADOW_SIGMA = 1.5
# Windows of fewer places, of 4 x 4 px, hold specks that the clean-up removes.
_SMALLEST_WINDOW = 12
_LINEAR = srgb_decode(np.arange(256) / 255).astype(np.float32)
_FINE = 4096
_ENCODED = (255 * srgb_encode(np.arange(_FINE + 1) / _FINE)).astype(np.float32)


class Difference(NamedTuple):
    """How much two frames differ.

    Attributes
    ----------
    strength : (H, W) float32 array
        Root mean square over the channels of the smoothed difference, in standard deviations of its noise.
    deviation : (256,) float32 array
        What a difference is divided by at each brightness, so that its smoothed noise is 1 [8-bit units].
    """

    strength: np.ndarray
    deviation: np.ndarray


def noise_curve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Standard deviation of a channel's noise in one frame at each grey level, from two frames of one scene.

    Medians of the absolute differences in 16 ranges of brightness, so up to half of a range may have moved.

    Parameters
    ----------
    first, second : (H, W, 3) uint8 arrays

    Returns
    -------
    (256,) float32 array
        [8-bit units]
    """
    a, b = (np.ascontiguousarray(frame[::2, ::2]) for frame in (first, second))
    brightness = _grey(cv2.addWeighted(a, 0.5, b, 0.5, 0)).astype(np.int32) // (256 // _BINS)
    difference = cv2.absdiff(a, b)
    places = brightness[..., None] * 256 + difference
    counts = np.bincount(places.ravel(), minlength=_BINS * 256).reshape(_BINS, 256)
    totals = counts.sum(axis=1)
    used = np.flatnonzero(totals >= 100)
    if not len(used):
        used = np.array([int(totals.argmax())])
    medians = np.array([_median_of_counts(counts[index]) for index in used])
    sigma = 1.4826 * medians / np.sqrt(2)
    usual = float(np.median(np.repeat(sigma, np.maximum(totals[used] * 100 // totals[used].sum(), 1))))
    sigma = np.clip(sigma, _LEAST_NOISE, max(_MOST_NOISE * usual, _LEAST_NOISE))
    centres = (used + 0.5) * (256 / _BINS)
    return np.interp(np.arange(256), centres, sigma).astype(np.float32)


def _median_of_counts(counts: np.ndarray) -> float:
    """Median of whole numbers >= 0, each taken as spread evenly over its unit; 0 covers half a unit."""
    cumulative = np.cumsum(counts)
    half = cumulative[-1] / 2
    index = int(np.searchsorted(cumulative, half))
    before = cumulative[index - 1] if index else 0
    share = (half - before) / max(counts[index], 1)
    return 0.5 * share if index == 0 else index - 0.5 + share


def matched(target: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """`target` with each channel's brightness brought to that of `sharp` by the median ratio of block means."""
    rows, columns = target.shape[0] // _GAIN_BLOCK, target.shape[1] // _GAIN_BLOCK
    if rows * columns < 16:
        return target
    size = columns, rows
    means = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32) for frame in (target, sharp)]
    usable = (means[0] > 8) & (means[1] > 8) & (means[0] < 247) & (means[1] < 247)
    gains = [
        float(np.median(means[1][..., c][usable[..., c]] / means[0][..., c][usable[..., c]]))
        if usable[..., c].sum() >= 16
        else 1.0
        for c in range(3)
    ]
    table = np.rint(np.clip(np.outer(np.arange(256), gains), 0, 255)).astype(np.uint8)
    return np.asarray(cv2.LUT(target, table[None]))


def difference(target: np.ndarray, sharp: np.ndarray, config: PairConfig) -> Difference:
    """Compare the frames of a pair.

    Parameters
    ----------
    target, sharp : (H, W, 3) uint8 arrays
        Aligned and equally bright.
    config : PairConfig
    """
    curve = noise_curve(target, sharp)
    deviation = curve * np.float32(np.sqrt(2))
    z = _normalised(cv2.subtract(target, sharp, dtype=cv2.CV_32F), sharp, deviation, config)
    # Noise of neighbouring pixels is alike after demosaicing: how much smoothing leaves, the frame itself tells.
    # Of white noise this would be:
    white = 1 / (2 * np.sqrt(np.pi) * max(config.smoothing_px, 0.3))
    scale = [max(1.4826 * float(np.median(np.abs(z[::3, ::3, c]))), white) for c in range(3)]
    z *= np.array([1 / s for s in scale], np.float32)
    return Difference(_root_mean_square(z), deviation * np.float32(np.mean(scale)))


def _normalised(
    difference: np.ndarray, edges_of: np.ndarray, deviation: np.ndarray, config: PairConfig
) -> np.ndarray:
    """Divide a difference by its noise, and by what a misalignment makes of edges; smooth it."""
    grey = _grey(edges_of)
    variance = np.asarray(cv2.LUT(grey, np.square(deviation)))
    if config.misalignment_px:
        for dx, dy in ((1, 0), (0, 1)):
            slope = cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=config.misalignment_px / 8)
            variance += np.square(slope)
    inverse = 1 / np.sqrt(variance)
    z = cv2.multiply(difference, cv2.merge([inverse, inverse, inverse]))
    return np.asarray(cv2.GaussianBlur(z, (0, 0), config.smoothing_px)) if config.smoothing_px else z


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _root_mean_square(z: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(cv2.transform(np.square(z), np.full((1, 3), 1 / 3, np.float32))))


def background_median(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Median over frames, pixel by pixel; of an even number the upper of the two in the middle.

    A sorting network on whole frames: ten times as fast as `numpy.median` for a few.

    Parameters
    ----------
    frames : sequence of (H, W, 3) uint8 arrays
    """
    ranks = list(frames)
    for turn in range(len(ranks)):
        for index in range(turn % 2, len(ranks) - 1, 2):
            low, high = ranks[index], ranks[index + 1]
            ranks[index], ranks[index + 1] = np.minimum(low, high), np.maximum(low, high)
    return ranks[len(ranks) // 2]


def pair_foreground(
    target: np.ndarray, sharp: np.ndarray, background: np.ndarray | None, config: PairConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What moved in a pair, and which pixels are shadow.

    Parameters
    ----------
    target, sharp : (H, W, 3) uint8 arrays
        Blurred and sharp frame, aligned.
    background : (H, W, 3) uint8 array, optional
        The scene without moving things, for the shadow test.
    config : PairConfig

    Returns
    -------
    moved : (H, W) bool array
        Shadows left out; not cleaned up.
    shadow : (H, W) bool array
        Known only near what differs.
    """
    target = matched(target, sharp)
    found = difference(target, sharp, config)
    moved = _with_strong_parts(found.strength, config.threshold)
    shadow = np.zeros(moved.shape, bool)
    if background is None or not config.detect_shadows:
        return moved, shadow
    background = matched(background, sharp)
    # Only in windows around what differs: a tenth of most frames. Every fourth pixel of the spread mask finds them.
    spread = cv2.dilate(moved.astype(np.uint8), np.ones((9, 9), np.uint8))[::4, ::4]
    count, _, boxes, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(spread), connectivity=8)
    for x, y, width, height, area in boxes[1:count] * 4:
        if area < 4 * _SMALLEST_WINDOW:
            continue
        box = np.s_[max(y - 8, 0) : y + height + 8, max(x - 8, 0) : x + width + 8]
        darker = [_darkened(frame[box], background[box], found.deviation, config) for frame in (target, sharp)]
        shadow[box] |= darker[0] & darker[1]
    return moved & ~shadow, shadow


def _with_strong_parts(strength: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W) bool: what exceeds the threshold, in groups that exceed it far enough somewhere."""
    moved = strength > threshold
    near = cv2.dilate(moved.astype(np.uint8), np.ones((5, 5), np.uint8))
    count, groups = cv2.connectedComponents(near, connectivity=8)
    strong = np.bincount(groups[strength > _STRONG * threshold], minlength=count)
    return np.asarray(moved & (strong >= _STRONG_PIXELS)[groups])


def _darkened(image: np.ndarray, background: np.ndarray, deviation: np.ndarray, config: PairConfig) -> np.ndarray:
    """Where an image is the background times one factor for all channels, in linear light."""
    light, behind = _LINEAR[image], _LINEAR[background]
    one = np.ones((1, 3), np.float32)
    products, squares = (
        cv2.GaussianBlur(cv2.transform(np.ascontiguousarray(a * behind), one), (0, 0), _SHADOW_SIGMA)
        for a in (light, behind)
    )
    left = products / np.maximum(squares, 1e-6)
    predicted = _ENCODED[(np.clip(left[..., None] * behind, 0, 1) * _FINE).astype(np.int32)]
    z = _normalised(image - predicted, background, deviation, config)
    return np.asarray((left > config.darkest_shadow) & (left < 1.05) & (_root_mean_square(z) < _SHADOW_RESIDUAL))
