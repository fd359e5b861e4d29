"""Regions: all that is blurred counts fully, in windows with context, and no two windows should be one."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from relo.training.inference.regions import CONTEXT, FEATHER, blend_weights, plan_regions
from relo.training.inference.tiling import ALIGNMENT


@st.composite
def masks(draw):
    """A few rectangles, thin or compact, anywhere in an image of any size."""
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 900))
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : y + draw(st.integers(1, 150)), x : x + draw(st.integers(1, 150))] = True
    return mask


def pixels(region):
    return (region.rows.stop - region.rows.start) * (region.columns.stop - region.columns.start)


def disc(mask, y, x, radius):
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def window_of(counts):
    """Window that these pixels need, by the definition; rows, then columns."""
    sides = []
    for axis, size in enumerate(counts.shape):
        used = np.flatnonzero(counts.any(axis=1 - axis))
        start, stop = used[0] - CONTEXT, used[-1] + 1 + CONTEXT
        start = max(max(k for k in range(-128, size, ALIGNMENT) if k <= start), 0)
        stop = min(next(k for k in range(0, size + 3 * ALIGNMENT, ALIGNMENT) if k >= stop), size)
        sides.append((start, stop))
    return sides


@given(masks())
def test_weights_fall_with_the_distance_from_blur(mask):
    weight = blend_weights(mask)
    assert weight.dtype == np.float32
    assert np.all(weight[mask] == 1)
    if not mask.any():
        assert not weight.any()
        return
    distance = ndimage.distance_transform_edt(~mask)
    assert np.allclose(weight, np.clip(1 - distance / FEATHER, 0, 1), atol=1e-4)
    assert np.all(weight[distance >= FEATHER] == 0)


@given(masks())
def test_regions_hold_everything_once_with_context(mask):
    weight = blend_weights(mask)
    regions = plan_regions(weight)
    total, times = np.zeros_like(weight), np.zeros(mask.shape, int)
    for rows, columns, part in regions:
        assert part.shape == weight[rows, columns].shape
        total[rows, columns] += part
        times[rows, columns] += part > 0
        for span, size in ((rows, mask.shape[0]), (columns, mask.shape[1])):
            assert 0 <= span.start < span.stop <= size
            assert span.start % ALIGNMENT == 0
            assert span.stop % ALIGNMENT == 0 or span.stop == size
        needed = np.zeros(mask.shape, bool)
        needed[rows, columns] = part > 0
        for span, (start, stop) in zip((rows, columns), window_of(needed), strict=True):
            assert span.start <= start and stop <= span.stop
    assert np.array_equal(total, weight)
    assert times.max(initial=0) <= 1
    assert sum(map(pixels, regions)) <= mask.size


@given(masks())
def test_what_hangs_together_is_in_one_region(mask):
    weight = blend_weights(mask)
    objects, count = ndimage.label(weight > 0, np.ones((3, 3)))
    homes = [set() for _ in range(count + 1)]
    for number, (rows, columns, part) in enumerate(plan_regions(weight)):
        for label in np.unique(objects[rows, columns][part > 0]):
            homes[label].add(number)
    assert all(len(home) == 1 for home in homes[1:])


@given(masks())
def test_no_two_regions_would_be_smaller_as_one(mask):
    regions = plan_regions(blend_weights(mask))
    for one, other in combinations(regions, 2):
        counts = np.zeros(mask.shape, bool)
        for rows, columns, part in (one, other):
            counts[rows, columns] |= part > 0
        (top, bottom), (left, right) = window_of(counts)
        assert (bottom - top) * (right - left) > pixels(one) + pixels(other)


def test_distant_objects_are_apart_and_close_ones_together():
    mask = np.zeros((600, 1200), bool)
    mask[280:300, 280:300] = mask[280:300, 984:1004] = True
    assert [pixels(region) for region in plan_regions(blend_weights(mask))] == [256 * 256, 256 * 256]
    mask[310:330, 300:320] = True
    assert len(plan_regions(blend_weights(mask))) == 2


def test_an_object_within_a_ring_shares_its_region():
    mask = np.zeros((1000, 1000), bool)
    disc(mask, 500, 500, 400)
    inner = np.zeros_like(mask)
    disc(inner, 500, 500, 370)
    mask &= ~inner
    disc(mask, 500, 500, 20)
    (region,) = plan_regions(blend_weights(mask))
    assert (region.rows, region.columns) == (slice(0, 1000), slice(0, 1000))


@pytest.mark.parametrize("count", [1, 2])
def test_compact_blur_of_5_percent_costs_less_than_30_percent(count):
    height, width = 1436, 2152
    radius = (0.05 * height * width / count / np.pi) ** 0.5
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(12):
        mask = np.zeros((height, width), bool)
        for part in range(count):
            left = width // count * part
            y = rng.uniform(radius, height - radius)
            disc(mask, y, rng.uniform(left + radius, left + width / count - radius), radius)
        assert mask.mean() == pytest.approx(0.05, rel=0.01)
        shares.append(sum(map(pixels, plan_regions(blend_weights(mask)))) / mask.size)
    assert max(shares) < 0.25


def test_scattered_blur_is_the_whole_image():
    mask = np.random.default_rng(0).random((1436, 2152)) < 1e-4
    (region,) = plan_regions(blend_weights(mask))
    assert pixels(region) == mask.size
    assert np.array_equal(region.weight, blend_weights(mask))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_many_small_objects_never_cost_more_than_the_image(seed):
    mask = np.random.default_rng(seed).random((900, 1300)) < 2e-5
    assert sum(map(pixels, plan_regions(blend_weights(mask)))) <= mask.size


def test_without_blur_there_is_nothing_to_do():
    assert plan_regions(blend_weights(np.zeros((50, 60), bool))) == ()
