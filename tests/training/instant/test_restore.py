"""Deblurring with a short exposure at once, on a simulated pair with its true mask."""

import numpy as np
import pytest

from relo.errors import ProcessError
from relo.training.instant.config import InstantConfig
from relo.training.instant.restore import restore_from_short


@pytest.mark.parametrize(
    ("ratio", "shot", "gain"), [(1 / 2, 1e-3, 9), (1 / 8, 2e-4, 9), (1 / 8, 1e-3, 6), (1 / 16, 2e-3, 3)]
)
def test_gains_decibels_and_leaves_the_background(scene, ratio, shot, gain):
    found = restore_from_short(scene.blur, scene.short(ratio, shot), scene.mask)
    assert scene.psnr_w(found.image) > scene.psnr_w(scene.blur) + gain
    assert np.array_equal(found.image[scene.mask == 0], scene.blur[scene.mask == 0])
    assert found.gains[1] == pytest.approx(1 / ratio, rel=0.1)
    assert found.alignment.displacement < 0.3 and found.notes == ()


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 1), (3, -3), (30, 20)])
def test_a_displaced_short_exposure_costs_little(scene, dx, dy):
    plain = scene.psnr_w(restore_from_short(scene.blur, scene.short(), scene.mask).image)
    moved = np.roll(scene.short(), (dy, dx), (0, 1))
    found = restore_from_short(scene.blur, moved, scene.mask)
    assert found.alignment.matrix[:, 2] == pytest.approx([dx, dy], abs=0.2)
    assert scene.psnr_w(found.image) > plain - 0.5
    without = restore_from_short(scene.blur, moved, scene.mask, InstantConfig(search_range=0))
    assert scene.psnr_w(without.image) < plain - 1.5


def test_colours_and_brightness_do_not_matter(scene):
    plain = scene.psnr_w(restore_from_short(scene.blur, scene.short(), scene.mask).image)
    short = scene.short(colour=(1.3, 1.0, 0.8), brighten=4)
    assert scene.psnr_w(restore_from_short(scene.blur, short, scene.mask).image) > plain - 0.5
    curve = np.rint(255 * (np.arange(256) / 255) ** 1.3).astype(np.uint8)  # another tone curve
    assert scene.psnr_w(restore_from_short(scene.blur, curve[short], scene.mask).image) > plain - 1.5


def test_the_prefiltered_filter_gains_less_and_more_than_the_papers(scene):
    from relo.models.exprdiff import blur_aware_guided_filter

    short = scene.short()
    blur, guide = (image.astype(np.float32) / 255 for image in (scene.blur, short))
    inside = scene.mask > 0
    guide *= blur[inside].mean(axis=0) / guide[inside].mean(axis=0)
    paper = scene.psnr_w(255 * blur_aware_guided_filter(blur, guide, inside))
    found = restore_from_short(scene.blur, short, scene.mask, InstantConfig(method="prefiltered"))
    best = scene.psnr_w(restore_from_short(scene.blur, short, scene.mask).image)
    assert paper + 1 < scene.psnr_w(found.image) < best
    assert np.array_equal(found.image[~inside], scene.blur[~inside])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_keeps_dtype_and_depth(scene, dtype):
    scale = dtype(257) if dtype == np.uint16 else dtype(1 / 255)
    blur = (scene.blur * scale).astype(dtype)
    before = blur.copy()
    found = restore_from_short(blur, scene.short(), scene.mask > 0).image  # of 8 bits
    assert found.dtype == dtype
    assert np.array_equal(found[scene.mask == 0], blur[scene.mask == 0]) and np.array_equal(blur, before)
    eight = restore_from_short(scene.blur, scene.short(), scene.mask).image
    assert np.abs(found / scale - eight.astype(float)).max() < 1.1
    if dtype == np.uint16:
        assert (found[scene.mask > 0] % 257 != 0).mean() > 0.9, "nothing was rounded to 8 bits"


def test_without_blur_nothing_is_done(scene):
    found = restore_from_short(scene.blur, scene.short(), np.zeros_like(scene.mask))
    assert np.array_equal(found.image, scene.blur) and found.image is not scene.blur
    assert found.alignment is None and found.gains is None


def test_all_blurred_still_works(scene):
    found = restore_from_short(scene.blur, scene.short(1 / 2, 2e-4), np.ones_like(scene.mask))
    assert scene.psnr_w(found.image) > scene.psnr_w(scene.blur) + 5


def test_beyond_the_short_exposure_the_photograph_stays(scene):
    mask = scene.mask.copy()
    mask[:, :40] = 255
    moved = np.roll(scene.short(), -20, 1)
    found = restore_from_short(scene.blur, moved, mask)
    assert np.array_equal(found.image[:, :18], scene.blur[:, :18])
    assert "lies beyond the short exposure" in found.notes[0]


def test_other_and_displaced_photographs_are_refused(scene):
    with pytest.raises(ProcessError, match="displaced by 90 px, more than the search range of 64 px"):
        restore_from_short(scene.blur, np.roll(scene.short(), 90, 1), scene.mask)
    other = np.random.default_rng(1).integers(0, 256, scene.blur.shape).astype(np.uint8)
    with pytest.raises(ProcessError, match="does not show what the photograph shows"):
        restore_from_short(scene.blur, other, scene.mask)
    with pytest.raises(ProcessError, match=r"is 310x240, the photograph 320x240\. Both must"):
        restore_from_short(scene.blur, scene.short()[:, 10:], scene.mask)
    with pytest.raises(ProcessError, match="is black"):
        restore_from_short(scene.blur, np.zeros_like(scene.blur), scene.mask)


def test_flat_frames_are_taken_as_aligned(scene):
    flat = np.full_like(scene.blur, 120)
    found = restore_from_short(flat, flat // 2, scene.mask)
    assert np.array_equal(found.image, flat)
    assert "too little detail" in found.notes[0]


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16)])
def test_any_size(size):
    rng = np.random.default_rng(2)
    blur = rng.integers(115, 140, (*size, 3)).astype(np.uint8)
    found = restore_from_short(blur, blur // 2, np.ones(size, bool), InstantConfig(search_range=0))
    assert found.image.shape == blur.shape
    assert np.abs(found.image.astype(int) - blur).max() < 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blur": np.zeros((4, 5), np.uint8)}, "the photograph as a non-empty"),
        ({"short": np.zeros((4, 5, 3), np.int32)}, "the short exposure as uint8, uint16 or floating-point"),
        ({"short": np.full((4, 5, 3), np.nan)}, "the short exposure holds NaN"),
        ({"mask": np.zeros((5, 4), bool)}, "expected a bool or uint8 mask"),
        ({"mask": np.zeros((4, 5))}, "expected a bool or uint8 mask"),
    ],
)
def test_bad_arrays(change, message):
    arrays = {"blur": np.zeros((4, 5, 3), np.uint8), "short": np.ones((4, 5, 3)), "mask": np.ones((4, 5), bool)}
    with pytest.raises(ValueError, match=message):
        restore_from_short(**(arrays | change))
