"""Blur masks by background subtraction: the model as OpenCV defines it, the clean-up by hand-made masks."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from relo.masks import blur_mask
from relo.masks.config import MaskConfig
from relo.masks.lbfmg import PLAIN_MOG2, LbfmgConfig, clean_up, foreground

SHAPE = (90, 120)
# No morphology: each step of the clean-up is tested alone.
BARE = {"opening_px": 1, "closing_fraction": 0.0, "smallest_fraction": 0.0, "fill_holes": False}


def still(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.random((*SHAPE, 3)), (3, 3, 0))
    return 60 + 130 * (texture - texture.min()) / np.ptp(texture)


def frames(count: int, noise: float = 1.5, seed: int = 1) -> list[np.ndarray]:
    """Photographs of the still scene, uint8."""
    rng = np.random.default_rng(seed)
    return [np.clip(np.rint(still() + rng.normal(0, noise, (*SHAPE, 3))), 0, 255).astype(np.uint8)
            for _ in range(count)]  # fmt: skip


def disc(centre: tuple[int, int], radius: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def with_disc(frame: np.ndarray, centre: tuple[int, int], radius: float = 14) -> np.ndarray:
    result = frame.copy()
    result[disc(centre, radius)] = (250, 20, 30)
    return result


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return np.logical_and(mask > 0, truth).sum() / np.logical_or(mask > 0, truth).sum()


def test_equals_mog2_fed_alike():
    background, target = frames(7), with_disc(frames(1, seed=5)[0], (40, 50))
    model = cv2.createBackgroundSubtractorMOG2(history=1000, varThreshold=16, detectShadows=False)
    for number, frame in enumerate(background):
        model.apply(frame, learningRate=1 / (number + 1))
    assert np.array_equal(foreground(target, background), model.apply(target, learningRate=0) == 255)


def test_plain_mog2_is_opencvs_own_result():
    background, target = frames(12, noise=4), with_disc(frames(1, noise=4, seed=5)[0], (40, 50))
    model = cv2.createBackgroundSubtractorMOG2()
    for frame in background:
        model.apply(frame)
    expected = np.where(model.apply(target, learningRate=0) == 255, 255, 0)
    mask = blur_mask(target, background, method="lbfmg", config=MaskConfig(**PLAIN_MOG2))
    assert 0.02 < (mask > 0).mean() < 0.5
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("first", [0, 1, 6, 13])
def test_every_frame_weighs_the_same(first):
    """An object seen once in 14 frames is outside the 90 % that are background, whichever frame it is in."""
    place = disc((40, 50), 10)
    clean = frames(15)
    background = [with_disc(frame, (40, 50)) if i == first else frame for i, frame in enumerate(clean[:14])]
    assert foreground(with_disc(clean[14], (40, 50)), background)[place].mean() > 0.95
    # nor does it stay as a ghost where the target shows the scene
    assert foreground(clean[14], background).mean() < 0.01


def test_what_most_frames_show_is_background():
    place = disc((40, 50), 10)
    clean = frames(9)
    background = [with_disc(frame, (40, 50)) if i % 2 else frame for i, frame in enumerate(clean[:8])]
    assert foreground(with_disc(clean[8], (40, 50)), background)[place].mean() < 0.05


def test_a_still_scene_has_an_empty_mask():
    shot = frames(9)
    assert not blur_mask(shot[8], shot[:8]).any()


@pytest.mark.parametrize("count", [2, 6, 12])
def test_a_moving_disc_is_found(count):
    shot = frames(count + 1)
    rng = np.random.default_rng(3)
    places = [
        (int(y), int(x)) for y, x in zip(rng.integers(15, 75, count), rng.integers(80, 105, count), strict=True)
    ]
    background = [with_disc(frame, place, 8) for frame, place in zip(shot, places, strict=False)]
    mask = blur_mask(with_disc(shot[-1], (45, 35)), background, config=MaskConfig(smallest_fraction=0.02))
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert iou(mask[:, :65], disc((45, 35), 14)[:, :65]) > 0.9


def test_the_depth_does_not_matter():
    shot = frames(7, noise=8)  # so much that many pixels lie at the threshold
    target = with_disc(shot[6], (45, 35))
    eight = foreground(target, shot[:6])
    sixteen = foreground(target.astype(np.uint16) * 257, [frame.astype(np.uint16) * 257 for frame in shot[:6]])
    floats = foreground(target / np.float32(255), [frame / np.float32(255) for frame in shot[:6]])
    doubles = foreground(target / 255, [frame / 255 for frame in shot[:6]])
    assert 0.06 < eight.mean() < 0.5
    assert np.array_equal(eight, sixteen)
    for other in (floats, doubles):
        assert (other != eight).mean() < 1e-3  # rounding decides at the threshold


def test_sharp_frame_and_several_passes_show_the_same_frames_again():
    shot = frames(6)
    target, own = with_disc(shot[5], (45, 35)), with_disc(shot[4], (30, 90))
    with_own = blur_mask(target, iter(shot[:4]), sharp=own, method="lbfmg")
    assert np.array_equal(with_own, blur_mask(target, [*shot[:4], own]))
    twice = foreground(target, iter(shot[:4]), LbfmgConfig(passes=2))
    assert np.array_equal(twice, foreground(target, [*shot[:4], *shot[:4]]))


def test_shadows():
    shot = frames(7, noise=0.5)
    target = shot[6].copy()
    shadow = disc((40, 50), 14)
    target[shadow] = np.rint(target[shadow] * 0.75)
    assert foreground(target, shot[:6])[shadow].mean() > 0.95
    assert foreground(target, shot[:6], LbfmgConfig(detect_shadows=True))[shadow].mean() < 0.05


def test_inputs_are_not_modified():
    shot = frames(5)
    valid = np.full(SHAPE, 255, np.uint8)
    for array in (*shot, valid):
        array.setflags(write=False)
    blur_mask(shot[4], shot[:4], sharp=shot[0], valid=valid)
    raw = disc((40, 50), 14)
    raw.setflags(write=False)
    clean_up(raw, valid=valid)


def test_wrong_input():
    shot = frames(3)
    with pytest.raises(ValueError, match="at least one frame"):
        blur_mask(shot[0], [])
    with pytest.raises(ValueError, match="a frame of"):
        blur_mask(shot[0], [shot[1], shot[2][:-1]])
    # MOG2 would start afresh at another depth and call everything foreground.
    with pytest.raises(ValueError, match=r"uint8 .*uint16"):
        blur_mask(shot[0].astype(np.uint16) * 257, shot[1:])
    for method in ("pair", "fused"):
        with pytest.raises(ValueError, match="needs the sharp frame"):
            blur_mask(shot[0], shot[1:], method=method)
    with pytest.raises(ValueError, match="one of fused, lbfmg, pair, got 'mog'"):
        blur_mask(shot[0], shot[1:], method="mog")


def bare(**changes) -> LbfmgConfig:
    return LbfmgConfig(**(BARE | changes))


def test_no_step_changes_nothing():
    raw = np.random.default_rng(0).random(SHAPE) > 0.6
    assert np.array_equal(clean_up(raw, bare()), raw.astype(np.uint8) * 255)


@settings(max_examples=40, deadline=None)
@given(diameter=st.integers(1, 12), seed=st.integers(0, 99), height=st.integers(5, 40), width=st.integers(5, 40))
def test_opening_only_removes_and_does_not_move(diameter, seed, height, width):
    raw = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 1.5) > 0.5
    opened = clean_up(raw, bare(opening_px=diameter)) > 0
    assert not (opened & ~raw).any()
    mirrored = clean_up(raw[::-1, ::-1].copy(), bare(opening_px=diameter)) > 0
    assert np.array_equal(mirrored[::-1, ::-1], opened)


@settings(max_examples=40, deadline=None)
@given(diameter=st.integers(1, 12), seed=st.integers(0, 99), height=st.integers(15, 40), width=st.integers(60, 80))
def test_closing_only_adds_and_does_not_move(diameter, seed, height, width):
    raw = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 1.5) > 0.55
    config = bare(closing_fraction=diameter / width)
    closed = clean_up(raw, config) > 0
    assert not (raw & ~closed).any()
    mirrored = clean_up(raw[::-1, ::-1].copy(), config) > 0
    assert np.array_equal(mirrored[::-1, ::-1], closed)


def test_closing_bridges_narrow_gaps_only():
    raw = np.zeros(SHAPE, bool)
    raw[20:60, 20:40] = raw[20:60, 44:60] = raw[20:60, 80:100] = True  # gaps of 4 and 20 px
    closed = clean_up(raw, bare(closing_fraction=7 / SHAPE[1])) > 0
    assert closed[40, 40:44].all()
    assert not closed[40, 62:78].any()


def test_closing_neither_erodes_nor_extends_at_the_border():
    raw = np.zeros(SHAPE, bool)
    raw[30:60, 100:] = True  # leaves the frame
    raw[30:60, 3:20] = True  # ends 3 px before it
    assert np.array_equal(clean_up(raw, bare(closing_fraction=0.1)) > 0, raw)


def test_opening_removes_specks():
    raw = disc((45, 60), 15)
    specks = raw.copy()
    specks[5, 5] = specks[80, 10:12] = True
    assert np.array_equal(clean_up(specks, bare(opening_px=3)), clean_up(raw, bare(opening_px=3)))


def test_small_components():
    raw = np.zeros(SHAPE, bool)
    raw[10:20, 10:20] = True  # 100 px
    raw[50:55, 50:59] = True  # 45 px
    raw[55, 59] = True  # touches it by a corner: one component of 46
    area = SHAPE[0] * SHAPE[1]
    assert clean_up(raw, bare(smallest_fraction=46 / area))[52, 52] == 255
    result = clean_up(raw, bare(smallest_fraction=47 / area)) > 0
    assert result[10:20, 10:20].all()
    assert result.sum() == 100


def test_holes_are_filled_and_bays_are_not():
    ring = disc((45, 60), 20) & ~disc((45, 60), 12)
    assert np.array_equal(clean_up(ring, bare(fill_holes=True)) > 0, disc((45, 60), 20))
    open_ring = ring.copy()
    open_ring[44:47, 60:] = False
    assert np.array_equal(clean_up(open_ring, bare(fill_holes=True)) > 0, open_ring)
    raw = np.random.default_rng(1).random(SHAPE) > 0.5
    assert np.array_equal(clean_up(raw, bare(fill_holes=True)) > 0, ndimage.binary_fill_holes(raw))


def test_a_bay_at_the_border_is_no_hole():
    half_ring = disc((0, 60), 20) & ~disc((0, 60), 12)
    assert np.array_equal(clean_up(half_ring, bare(fill_holes=True)) > 0, half_ring)
    # nor is the rest of the frame beside an object that covers a corner
    corner = disc((0, 0), 30)
    assert np.array_equal(clean_up(corner, bare(fill_holes=True)) > 0, corner)


def test_full_and_empty():
    for raw in (np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        assert np.array_equal(clean_up(raw) > 0, raw)


def test_nothing_outside_the_valid_area():
    valid = np.zeros(SHAPE, np.uint8)
    valid[10:80, 10:110] = 255
    raw = np.zeros(SHAPE, bool)
    raw[:10] = True  # the border that only one camera sees
    raw[30:50, 90:] = True
    mask = clean_up(raw, valid=valid) > 0
    assert not mask[valid == 0].any()
    assert mask[30:50, 90:110].mean() > 0.95
    assert mask.sum() <= 20 * 20
