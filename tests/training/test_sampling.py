"""Blur-aware cropping, mirroring and the valid part of a frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.training.sampling import Box, blur_aware_corner, interior, mirror, published_corner, turn, valid_box


def picker(mask, area):
    """Picks from a whole mask, row by row."""

    def pick(share):
        found = np.flatnonzero(mask[area.y : area.y + area.height, area.x : area.x + area.width])
        if not found.size:
            return None
        y, x = divmod(int(found[int(share * found.size)]), area.width)
        return area.y + y, area.x + x

    return pick


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_patches_lie_inside_and_hold_a_blurred_pixel_if_asked(data):
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    area = Box(data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5)), height, width)
    size = data.draw(st.integers(1, min(height, width)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = (rng.random((area.y + height + 3, area.x + width + 3)) < 0.02).astype(np.uint8) * 255

    y, x = blur_aware_corner(area, size, rng, picker(mask, area), 1.0)
    assert area.y <= y <= area.y + height - size
    assert area.x <= x <= area.x + width - size
    if mask[area.y : area.y + height, area.x : area.x + width].any():
        assert mask[y : y + size, x : x + size].any()


def test_half_of_the_patches_are_centred_on_a_blurred_pixel():
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 300), np.uint8)
    mask[100, 150] = 255
    area = Box(0, 0, 200, 300)
    corners = [blur_aware_corner(area, 32, rng, picker(mask, area), 0.5) for _ in range(2000)]
    centred = sum(corner == (84, 134) for corner in corners)
    assert abs(centred - 1000) < 4 * np.sqrt(500)  # four standard deviations of the binomial
    others = np.array([corner for corner in corners if corner != (84, 134)])
    # Uniform over every corner, the last ones included.
    assert others.min(0).tolist() == pytest.approx([0, 0], abs=3)
    assert others.max(0).tolist() == pytest.approx([168, 268], abs=3)
    assert others.mean(0).tolist() == pytest.approx([84, 134], abs=10)


def test_the_last_corner_is_drawn():
    rng = np.random.default_rng(0)
    corners = {blur_aware_corner(Box(0, 0, 9, 9), 8, rng, lambda share: None, 0.0) for _ in range(100)}
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_every_blurred_pixel_is_as_likely():
    rng = np.random.default_rng(1)
    mask = np.zeros((64, 64), np.uint8)
    mask[[20, 30, 40], [20, 30, 40]] = 255
    area = Box(0, 0, 64, 64)
    corners = [blur_aware_corner(area, 8, rng, picker(mask, area), 1.0) for _ in range(900)]
    counts = [corners.count((c - 4, c - 4)) for c in (20, 30, 40)]
    assert sum(counts) == 900
    assert min(counts) > 240


def test_without_blur_or_wish_the_mask_does_not_matter():
    area = Box(0, 0, 20, 20)

    def refuse(share):
        raise AssertionError("the mask was read")

    first = blur_aware_corner(area, 8, np.random.default_rng(3), refuse, 0.0)
    second = blur_aware_corner(area, 8, np.random.default_rng(3), lambda share: None, 1.0)
    assert first == second


def test_a_patch_larger_than_the_area_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        blur_aware_corner(Box(0, 0, 8, 30), 9, np.random.default_rng(0), lambda share: None)


def published(mask, area, size, rng, probability):
    inside = mask[area.y : area.y + area.height, area.x : area.x + area.width]
    centres = interior(area, size)
    return published_corner(area, size, rng, lambda: float(inside.mean()), picker(mask, centres), probability)


def published_chances(mask, size, probability):
    """Chance of each corner, read off the description of the public code; `mask` is the whole frame."""
    height, width = mask.shape
    chances = np.zeros((height, width))
    uniform = np.zeros((height, width))
    for y in range(0, height - 1 - size + 1):
        for x in range(0, width - 1 - size + 1):
            uniform[y, x] = 1 / ((height - size) * (width - size))
    centres = [
        (cy, cx)
        for cy in range(size // 2, height - size // 2)
        for cx in range(size // 2, width - size // 2)
        if mask[cy, cx] != 0
    ]
    if mask.mean() > 0.05 and centres:
        for cy, cx in centres:
            chances[cy - size // 2, cx - size // 2] += probability / len(centres)
        return chances + (1 - probability) * uniform
    return uniform


def masks_of_all_kinds():
    empty = np.zeros((9, 11), np.uint8)
    border, some = empty.copy(), empty.copy()
    border[:, :2] = border[-2:] = 255
    some[4:6, 3:9] = some[0, 0] = 255
    last = empty.copy()
    last[6, 8] = 255  # the last pixel of the interior for patches of 4
    faint, clear = np.zeros((80, 70), np.uint8), np.zeros((80, 60), np.uint8)
    faint[40, 40] = clear[40, 40] = 255  # means of 0.046 and 0.053
    full = np.full((9, 11), 255, np.uint8)
    return {
        "empty": empty,
        "border": border,
        "some": some,
        "last": last,
        "faint": faint,
        "clear": clear,
        "full": full,
    }


@pytest.mark.parametrize("kind", masks_of_all_kinds())
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_the_published_form_has_the_chances_of_the_public_code(kind, probability):
    mask, size, draws = masks_of_all_kinds()[kind], 4, 4000
    chances = published_chances(mask, size, probability)
    assert chances.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    counts = np.zeros(mask.shape)
    for _ in range(draws):
        counts[published(mask, Box(0, 0, *mask.shape), size, rng, probability)] += 1
    assert not counts[chances == 0].any(), "corners that the public code never gives"
    deviation = np.sqrt(draws * chances * (1 - chances))
    # Thousands of corners are compared: five standard deviations, and a few counts where hardly any are expected.
    assert (np.abs(counts - draws * chances) <= 5 * deviation + 4).all()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_published_patches_lie_inside_whatever_the_size(data):
    area = Box(
        *(data.draw(st.integers(0, 5)) for _ in range(2)), *(data.draw(st.integers(1, 30)) for _ in range(2))
    )
    size = data.draw(st.integers(1, min(area.height, area.width)))
    seed = data.draw(st.integers(0, 2**32))
    mask = (np.random.default_rng(seed).random((40, 40)) < data.draw(st.sampled_from([0, 0.02, 1]))).astype(
        np.uint8
    )
    y, x = published(mask * 255, area, size, np.random.default_rng(seed), 1.0)
    assert area.y <= y <= area.y + area.height - size
    assert area.x <= x <= area.x + area.width - size


def test_both_forms_draw_as_many_numbers_whatever_the_mask():
    area, following = Box(0, 0, 20, 30), set()
    for mask in (np.zeros((20, 30), np.uint8), np.full((20, 30), 255, np.uint8)):
        for form in (published, lambda m, a, s, r, p: blur_aware_corner(a, s, r, picker(m, a), p)):
            for probability in (0.0, 1.0):
                rng = np.random.default_rng(5)
                form(mask, area, 8, rng, probability)
                following.add(rng.random())
    assert len(following) == 1


def test_a_patch_larger_than_the_area_is_refused_in_the_published_form():
    with pytest.raises(ValueError, match="does not fit"):
        published_corner(Box(0, 0, 8, 30), 9, np.random.default_rng(0), lambda: 0.0, lambda share: None)


@pytest.mark.parametrize(("hflip", "vflip"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_mirroring_is_the_same_for_all(hflip, vflip):
    image, mask = np.arange(24).reshape(2, 4, 3), np.arange(8).reshape(2, 4)
    flipped = mirror([image, mask], np.random.default_rng(0), hflip, vflip)
    expected = [image, mask]
    if hflip:
        expected = [x[:, ::-1] for x in expected]
    if vflip:
        expected = [x[::-1] for x in expected]
    assert all(np.array_equal(a, b) for a, b in zip(flipped, expected, strict=True))


def test_turning_is_the_same_for_all_and_as_often_as_asked():
    image, mask = np.arange(27).reshape(3, 3, 3), np.arange(9).reshape(3, 3)
    rng, turned = np.random.default_rng(0), 0
    for _ in range(400):
        found = turn([image, mask], rng, 0.25)
        by = int(found[1][0, 0] != 0)
        turned += by
        for before, after in zip((image, mask), found, strict=True):
            for y in range(3):
                for x in range(3):
                    # Counter-clockwise: the right column becomes the top row.
                    assert np.array_equal(after[y, x], before[x, 2 - y] if by else before[y, x])
    assert abs(turned - 100) < 4 * np.sqrt(75)  # four standard deviations of the binomial


def brute_force_area(good):
    best = 0
    for y0 in range(good.shape[0]):
        for y1 in range(y0 + 1, good.shape[0] + 1):
            run = 0
            for free in good[y0:y1].all(0):
                run = run + 1 if free else 0
                best = max(best, run * (y1 - y0))
    return best


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9), share=st.floats(0, 0.5))
def test_the_valid_box_is_the_largest_rectangle(seed, height, width, share):
    valid = np.where(np.random.default_rng(seed).random((height, width)) < share, 0, 255).astype(np.uint8)
    box = valid_box(valid)
    assert box.height * box.width == brute_force_area(valid > 0)
    assert (valid[box.y : box.y + box.height, box.x : box.x + box.width] > 0).all()


def test_the_valid_box_of_a_large_frame_keeps_every_valid_border_row():
    valid = np.zeros((1436, 2152), np.uint8)
    valid[7:1430, 13:2141] = 255
    assert valid_box(valid) == Box(7, 13, 1423, 2128)
    assert valid_box(np.full((1436, 2152), 255, np.uint8)) == Box(0, 0, 1436, 2152)
    assert valid_box(np.zeros((600, 600), np.uint8)) == Box(0, 0, 0, 0)
