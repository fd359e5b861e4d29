from __future__ import annotations

import numpy as np
import pytest

from relo.report.contact_sheet import contact_sheet
from relo.shards import open_dataset


def test_shows_blur_sharp_and_mask_side_by_side(make_dataset):
    data = open_dataset(make_dataset([{"pairs": 1, "size": (48, 64)}]))
    sheet = contact_sheet(data)
    assert sheet.dtype == np.uint8
    top, left = 6 + 16, 6
    np.testing.assert_array_equal(sheet[top : top + 48, left : left + 64], data[0].blur)
    np.testing.assert_array_equal(sheet[top : top + 48, left + 66 : left + 130], data[0].sharp)
    np.testing.assert_array_equal(sheet[top : top + 48, left + 132 : left + 196, 0], data[0].mask)


def test_number_of_pairs_is_capped_and_spread(make_dataset):
    data = open_dataset(
        make_dataset([{"pairs": 30, "size": (16, 16)}, {"scene": "b", "pairs": 30, "size": (16, 16)}])
    )
    assert contact_sheet(data, limit=8).shape[0] == 4 * (16 + 16 + 12)


def test_mixed_sizes_and_depths(make_dataset):
    data = open_dataset(make_dataset([{"size": (64, 32), "bits": 16}, {"scene": "Ünïcode 景", "size": (32, 300)}]))
    sheet = contact_sheet(data, width=50)
    assert sheet.shape[2] == 3


def test_nothing_to_draw(make_dataset):
    with pytest.raises(ValueError, match="at least one pair"):
        contact_sheet(open_dataset(make_dataset([])))
