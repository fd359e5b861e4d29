"""Windows: they cover the image, keep the phase of the strides, and their weights sum to 1."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relo.errors import ConfigError
from relo.training.inference.tiling import ALIGNMENT, SMALLEST, aligned_tile, windows


@st.composite
def layouts(draw):
    tile = ALIGNMENT * draw(st.integers(2, 6))
    return draw(st.integers(1, 700)), draw(st.integers(1, 300)), tile, draw(st.integers(0, tile // 2))


@given(layouts())
def test_weights_sum_to_one_everywhere(layout):
    height, width, tile, overlap = layout
    total = torch.zeros(height, width)
    for rows, columns, weight in windows(height, width, tile, overlap):
        assert weight.shape == total[rows, columns].shape
        assert weight.min() >= 0
        assert weight.max() <= 1
        total[rows, columns] += weight
    assert torch.allclose(total, torch.ones(height, width), atol=2e-6, rtol=0)


@given(layouts())
def test_windows_keep_phase_size_and_overlap(layout):
    height, width, tile, overlap = layout
    laid = [(rows, columns) for rows, columns, _ in windows(height, width, tile, overlap)]
    for size, spans in ((height, {r.start: r.stop for r, _ in laid}), (width, {c.start: c.stop for _, c in laid})):
        ordered = sorted(spans.items())
        assert ordered[0][0] == 0
        assert ordered[-1][1] == size
        assert all(start % ALIGNMENT == 0 and 0 < stop - start <= tile for start, stop in ordered)
        for (_, stop), (start, after) in pairwise(ordered):
            assert stop - start >= overlap
            assert after > stop, "a window that adds nothing"
    assert len(laid) == len({r.start for r, _ in laid}) * len({c.start for _, c in laid})


def test_what_lies_near_a_cut_counts_nothing():
    first, second = (weight[0] for _, _, weight in windows(1, 500, 384, 192))
    assert torch.all(first[-72:] == 0)
    assert torch.all(second[:72] == 0)
    assert torch.all(first[:-120] == 1)
    assert torch.all(second[120:] == 1)
    assert 0 < second[75] < second[100] < 1


@pytest.mark.parametrize(("tile", "side"), [(1, 128), (128, 128), (191, 128), (192, 192), (500, 448)])
def test_other_tile_sizes_are_rounded_down(tile, side):
    assert aligned_tile(tile, 0) == side


@pytest.mark.parametrize("tile", [0, -128])
def test_tiles_have_a_size(tile):
    with pytest.raises(ConfigError, match="must be positive"):
        aligned_tile(tile, 0)


@pytest.mark.parametrize("overlap", [-1, 65])
def test_other_overlaps_are_refused(overlap):
    with pytest.raises(ConfigError, match="between 0 and half"):
        aligned_tile(SMALLEST, overlap)
