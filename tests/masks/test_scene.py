"""Masks of a scene: all methods on photographs with a moving object, and their edge cases."""

import cv2
import numpy as np
import pytest
from skimage import data

from relo.masks import blur_mask
from relo.masks.config import MaskConfig
from relo.masks.quality import MaskQuality, mask_flags, mask_quality, overlap
from relo.masks.scene import scene_masks

SHAPE = (240, 360)


def moving_object(
    count: int, *, same_place: bool, noise: float = 3.0, colour: bool = False, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(blurred, sharp, truth) of a photograph's ellipse that moves 18 px over another photograph."""
    rng = np.random.default_rng(seed)
    scene = cv2.resize(data.coffee(), SHAPE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    height, width, path = 60, 44, 18
    patch = cv2.resize(data.chelsea(), (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    if colour:
        patch[:] = (30, 90, 160)
    y, x = np.mgrid[:height, :width]
    alpha = ((((y - 29.5) / 30) ** 2 + ((x - 21.5) / 22) ** 2) < 1).astype(np.float32)
    pairs = []
    for _ in range(count):
        middle = np.array([SHAPE[1] / 2 - 22, SHAPE[0] / 2 - 30])
        spread = 15 if same_place else 90
        start = middle + rng.uniform(-spread, spread, 2) * (1, 0.6)
        angle = rng.uniform(0, 2 * np.pi)
        frames, covered = [], np.zeros(SHAPE)
        for part in np.linspace(0, 1, 12):
            shift = np.float32(
                np.column_stack([np.eye(2), start + part * path * np.array([np.cos(angle), np.sin(angle)])])
            )
            mask, drawn = (cv2.warpAffine(image, shift, SHAPE[::-1]) for image in (alpha, patch))
            covered = np.maximum(covered, mask)
            frames.append(scene * (1 - mask[..., None]) + drawn * mask[..., None])
        blur, sharp = (
            np.clip(np.rint(image + rng.normal(0, noise, image.shape)), 0, 255).astype(np.uint8)
            for image in (np.mean(frames, axis=0), frames[0])
        )
        pairs.append((blur, sharp, covered > 0.05))
    return pairs


def masks_of(pairs, **settings) -> list[np.ndarray]:
    config = MaskConfig(**settings)
    found = dict(scene_masks(range(len(pairs)), lambda index: pairs[index][:2], config))
    assert sorted(found) == list(range(len(pairs)))
    return [found[index].mask for index in range(len(pairs))]


def mean_iou(pairs, **settings) -> float:
    masks = masks_of(pairs, **settings)
    return float(np.mean([overlap(mask, pair[2]) for mask, pair in zip(masks, pairs, strict=True)]))


@pytest.mark.parametrize("same_place", [False, True])
@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("colour", [False, True])
def test_the_default_finds_the_object_wherever_it_is(count, same_place, colour):
    pairs = moving_object(count, same_place=same_place, colour=colour, seed=count)
    fused = mean_iou(pairs)
    assert fused > 0.88
    assert fused > mean_iou(pairs, method="lbfmg") - 0.02


def test_the_background_fills_what_the_pair_misses():
    """The inside of a uniform object looks the same in both frames."""
    pairs = moving_object(8, same_place=False, colour=True, noise=2)
    settings = {"fill_holes": False, "pair": {"closing_fraction": 0.0, "detect_shadows": False}}
    assert mean_iou(pairs, **settings) > mean_iou(pairs, method="pair", **settings) + 0.1


def test_a_still_scene_has_empty_masks():
    rng = np.random.default_rng(0)
    scene = cv2.resize(data.coffee(), SHAPE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    shot = [np.clip(np.rint(scene + rng.normal(0, 4, scene.shape)), 0, 255).astype(np.uint8) for _ in range(8)]
    pairs = [(shot[2 * index], shot[2 * index + 1], None) for index in range(4)]
    assert max((mask > 0).mean() for mask in masks_of(pairs)) < 0.002


@pytest.mark.parametrize("method", ["fused", "lbfmg", "pair"])
def test_a_scene_of_one_pair(method):
    pairs = moving_object(1, same_place=True)
    (mask,) = masks_of(pairs, method=method)
    assert set(np.unique(mask)) <= {0, 255}
    if method != "lbfmg":
        assert overlap(mask, pairs[0][2]) > 0.85


def test_sixteen_bits_give_the_same_mask():
    pairs = moving_object(3, same_place=False)
    wide = [tuple(frame.astype(np.uint16) * 257 for frame in pair[:2]) for pair in pairs]
    for narrow_mask, wide_mask in zip(masks_of(pairs), masks_of(wide), strict=True):
        assert np.array_equal(narrow_mask, wide_mask)


def test_frames_are_reduced_and_the_mask_enlarged():
    pairs = moving_object(4, same_place=False)
    large = [
        (*(cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in pair[:2]), None)
        for pair in pairs
    ]
    for mask, pair in zip(masks_of(large, width=360), pairs, strict=True):
        assert mask.shape == (2 * SHAPE[0], 2 * SHAPE[1])
        truth = cv2.resize(pair[2].astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        assert overlap(mask, truth) > 0.85


def test_nothing_is_masked_outside_the_valid_area():
    pairs = moving_object(3, same_place=True)
    valid = np.full(SHAPE, 255, np.uint8)
    valid[:, : SHAPE[1] // 2] = 0
    found = scene_masks(range(3), lambda index: pairs[index][:2], MaskConfig(), valid=valid)
    for _, (mask, quality) in found:
        assert not mask[valid == 0].any()
        assert mask.any()
        assert quality.covered == pytest.approx((mask > 0).sum() / (valid > 0).sum())
        assert quality.border > 0.9


def test_frames_of_different_size_are_an_error():
    pairs = moving_object(2, same_place=True)
    pairs[1] = (pairs[1][0][:-2], pairs[1][1][:-2], None)
    with pytest.raises(ValueError, match="differ in size"):
        masks_of(pairs)


def test_blur_mask_is_that_of_the_scene():
    pairs = moving_object(4, same_place=False)
    background = [frame for pair in pairs[1:] for frame in (pair[1], pair[0])]
    mask = blur_mask(pairs[0][0], background, sharp=pairs[0][1])
    assert overlap(mask, masks_of(pairs)[0]) > 0.97
    alone = blur_mask(pairs[0][0], [], sharp=pairs[0][1])
    assert overlap(alone, pairs[0][2]) > 0.85


def test_numbers_of_a_mask():
    mask = np.zeros((100, 200), np.uint8)
    mask[0:20, 10:30] = mask[50:60, 50:90] = 255
    quality = mask_quality(mask)
    assert quality.covered == pytest.approx(800 / 20000)
    assert quality.fragments == 2
    assert quality.border == pytest.approx(0.5)
    assert np.isnan(quality.agreement)
    empty = mask_quality(np.zeros((10, 10), np.uint8))
    assert empty[:1] + empty[2:] == (0.0, 0, 0.0)
    assert np.isnan(overlap(mask * 0, mask * 0))
    assert overlap(mask, mask) == 1


@pytest.mark.parametrize(
    ("quality", "flags"),
    [
        (MaskQuality(0.1, 0.8, 2, 0.0), ()),
        (MaskQuality(0.1, float("nan"), 2, 0.0), ()),
        (MaskQuality(0.0, float("nan"), 0, 0.0), ("mask-empty",)),
        (MaskQuality(0.6, 0.1, 20, 1.0), ("mask-large", "mask-doubtful", "mask-fragments")),
    ],
)
def test_flags(quality, flags):
    assert mask_flags(quality) == flags
