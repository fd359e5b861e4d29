"""Pictures of a validation: the window with the most blur, and how images are laid out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.training.run.sample_images import densest_window, side_by_side, stacked
from relo.training.sampling import Box


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000), height=st.integers(1, 12), width=st.integers(1, 12), side=st.integers(1, 14),
    share=st.sampled_from([0.0, 0.1, 0.9]),
)  # fmt: skip
def test_no_window_holds_more_blurred_pixels(seed, height, width, side, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    y, x, h, w = densest_window(mask, side)
    assert (h, w) == (min(side, height), min(side, width))
    assert 0 <= y <= height - h and 0 <= x <= width - w
    counts = [mask[b : b + h, a : a + w].sum() for b in range(height - h + 1) for a in range(width - w + 1)]
    assert mask[y : y + h, x : x + w].sum() == max(counts)


def test_a_small_blur_is_centred():
    mask = np.zeros((100, 120), bool)
    mask[40:43, 60:63] = True
    assert densest_window(mask, 21) == Box(31, 51, 21, 21)


def test_without_blur_the_middle_is_shown():
    assert densest_window(np.zeros((100, 121), bool), 20) == Box(40, 50, 20, 20)


def test_images_lie_side_by_side_and_grey_ones_have_three_equal_channels():
    rng = np.random.default_rng(0)
    colour, grey = rng.random((6, 8, 3)), rng.random((6, 8, 1))
    row = side_by_side([colour, grey, np.full((6, 8, 3), 1.5), np.full((6, 8, 3), -1.0)], Box(1, 2, 4, 5))
    assert row.shape == (4, 20, 3) and row.dtype == np.uint8
    np.testing.assert_array_equal(row[:, :5], np.rint(colour[1:5, 2:7] * 255))
    np.testing.assert_array_equal(row[:, 5:10, 2], np.rint(grey[1:5, 2:7, 0] * 255))
    assert (row[:, 10:15] == 255).all() and (row[:, 15:] == 0).all()


def test_rows_of_different_sizes_are_filled_with_black():
    wide, high = np.full((2, 9, 3), 7, np.uint8), np.full((5, 4, 3), 9, np.uint8)
    sheet = stacked([wide, high])
    assert sheet.shape == (7, 9, 3)
    assert (sheet[:2] == 7).all() and (sheet[2:, :4] == 9).all() and (sheet[2:, 4:] == 0).all()
