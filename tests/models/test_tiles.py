"""Tiles: where they start, weights that sum to 1, what is put together from them, errors."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.models.tiles import restore_in_tiles, tile_starts, tile_weights

SIDES = st.tuples(st.integers(1, 90), st.integers(1, 40)).flatmap(
    lambda sides: st.tuples(*map(st.just, sides), st.integers(0, sides[1] - 1))
)  # length, tile and overlap


def summed(length, starts, weights):
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + len(weight)] += weight
    return total


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (720, [0, 336]),
        (1280, [0, 352, 704, 896]),
        (384, [0]),
        (200, [0]),
        (385, [0, 1]),
        (736, [0, 352]),
        (2152, [0, 352, 704, 1056, 1408, 1760, 1768]),
    ],
)
def test_tiles_start_where_the_published_ones_do(length, starts):
    assert tile_starts(length, 384) == starts


@pytest.mark.parametrize("length", [720, 1280])
def test_where_two_tiles_meet_the_weights_are_the_published_ramps(length):
    starts = tile_starts(length, 384)
    expected = torch.ones(len(starts), 384, dtype=torch.float64)
    for index in range(1, len(starts)):
        shared = starts[index - 1] + 384 - starts[index]
        expected[index, :shared] = torch.linspace(0, 1, shared)
        expected[index - 1, -shared:] = torch.linspace(1, 0, shared)
    torch.testing.assert_close(tile_weights(starts, 384), expected, rtol=0, atol=1e-7)


def test_where_three_tiles_meet_the_published_ramps_are_divided_by_their_sum():
    """A side of ReLoBlur: the third of its last tiles starts 24 px before the first of them ends."""
    starts = tile_starts(2152, 384)
    weights = tile_weights(starts, 384)
    pixel = 1780
    rise, late = (pixel - 1760) / 31, (pixel - 1768) / 375
    ramps = torch.tensor([1 - rise, rise * (1 - late), late], dtype=torch.float64)
    assert ramps.sum() > 1.01
    found = torch.stack([weights[tile, pixel - starts[tile]] for tile in (4, 5, 6)])
    torch.testing.assert_close(found, ramps / ramps.sum(), rtol=1e-12, atol=0)


@given(SIDES)
def test_tiles_cover_a_side_and_their_weights_sum_to_one(sides):
    length, tile, overlap = sides
    starts, side = tile_starts(length, tile, overlap), min(length, tile)
    weights = tile_weights(starts, side)
    assert (starts[0], starts[-1] + side) == (0, length)
    steps = [after - before for before, after in pairwise(starts)]
    assert all(step == tile - overlap for step in steps[:-1])
    assert all(0 < step <= tile - overlap for step in steps)
    assert weights.shape == (len(starts), side)
    assert weights.min() >= 0
    torch.testing.assert_close(summed(length, starts, weights), torch.ones(length, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(SIDES, st.integers(1, 50))
def test_a_residual_that_tiles_agree_on_comes_back(sides, width):
    height, tile, overlap = sides
    image = torch.rand(2, 4, height, width)
    shapes = []

    def restore(part):
        shapes.append(part.shape)
        return 3 * part[:, :3] - 1

    residual = restore_in_tiles(restore, image, tile, overlap)
    torch.testing.assert_close(residual, 3 * image[:, :3] - 1)
    assert set(shapes) == {(2, 4, min(tile, height), min(tile, width))}


def test_one_tile_gives_the_plain_result():
    image = torch.rand(1, 3, 20, 31)
    assert torch.equal(restore_in_tiles(torch.cos, image, 31, 8), torch.cos(image))


def test_no_pixel_shows_where_tiles_differ_at_once():
    """Tiles that are off by up to 1 from each other: over 32 px neighbouring pixels differ by 1/31 at most."""
    offsets = iter(torch.tensor([0.0, 1.0, 0.5, 0.0]))
    residual = restore_in_tiles(lambda part: next(offsets).expand_as(part), torch.zeros(1, 3, 64, 224), 80)
    assert residual.diff(dim=-1).abs().max() < 1 / 31 + 1e-6


def test_gradients_and_dtypes_pass():
    image = torch.rand(1, 3, 40, 50, dtype=torch.bfloat16)
    assert restore_in_tiles(torch.exp, image, 32, 8).dtype == torch.bfloat16
    image = torch.rand(1, 3, 40, 50, requires_grad=True)
    restore_in_tiles(lambda part: 2 * part, image, 32, 8).sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 2))


@pytest.mark.parametrize("overlap", [-1, 32, 40])
def test_an_overlap_that_leaves_no_step_is_refused(overlap):
    with pytest.raises(ValueError, match=rf"\[0, 32\).*got {overlap}"):
        tile_starts(100, 32, overlap)
