"""Which crops are chosen: the grid, and the share of blurred pixels above which one is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.errors import TrainingError
from relo.shards import open_dataset
from relo.training.crops import blurred_crops, crop_grid, whole_windows
from relo.training.data import WholeImages
from relo.training.protocols import PROTOCOLS, Crops

from .conftest import write_dataset


def test_a_frame_of_reloblur_gives_15_crops():
    boxes = crop_grid(1436, 2152, 512)
    assert len(boxes) == 15
    assert sorted({box.y for box in boxes}) == [0, 462, 924]
    assert sorted({box.x for box in boxes}) == [0, 410, 820, 1230, 1640]
    assert {box[2:] for box in boxes} == {(512, 512)}
    assert boxes == sorted(boxes)  # row by row


@given(st.integers(1, 60), st.integers(1, 60), st.integers(3, 70))
@settings(deadline=None, max_examples=50)
def test_crops_cover_an_image_and_are_as_few_as_can(height, width, side):
    covered = np.zeros((height, width), int)
    boxes = crop_grid(height, width, side)
    for box in boxes:
        assert box[2:] == (min(side, height), min(side, width))
        assert 0 <= box.y <= height - box.height and 0 <= box.x <= width - box.width
        covered[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    assert covered.min() >= 1
    assert len(boxes) == len(set(boxes)) == -(-height // side) * -(-width // side)


def images_with(tmp_path, *masks, valid=None):
    """Images of these masks, with nothing in them."""
    coming = iter(masks)

    def draw(rng, size, dtype, blurred):
        black = np.zeros((*size, 3), dtype)
        return black, black, next(coming)

    size = masks[0].shape
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=len(masks), size=size, valid=valid, draw=draw)
    dataset = open_dataset(src)
    return WholeImages(dataset, len(dataset))


def mask_of(*boxes, size=(30, 50)):
    mask = np.zeros(size, np.uint8)
    for y, x, height, width in boxes:
        mask[y : y + height, x : x + width] = 255
    return mask


def test_crops_are_kept_above_the_share(tmp_path):
    # 2 x 3 crops of 20 px at rows 0, 10 and columns 0, 15, 30: 8 of 400 px are 2 %, 9 are more.
    images = images_with(tmp_path, mask_of((0, 0, 2, 4), (0, 41, 3, 3)), mask_of((12, 17, 3, 3)))
    windows, count = blurred_crops(images, Crops(side=20, blurred_share=0.02))
    assert count == 12
    assert [[window.box for window in windows[0]], [window.box[:2] for window in windows[1]]] == [
        [(0, 30, 20, 20)],
        [(0, 0), (0, 15), (10, 0), (10, 15)],
    ]
    assert windows[0][0].blurred == 9 / 400


def test_masks_are_cropped_like_the_images(tmp_path):
    valid = mask_of((4, 6, 20, 20))
    images = images_with(tmp_path, mask_of((0, 0, 4, 50)), mask_of((4, 6, 1, 1)), valid=valid)
    windows, count = blurred_crops(images, Crops(side=20, blurred_share=0))
    assert (count, windows[0], windows[1]) == (2, [], [((0, 0, 20, 20), 1 / 400)])
    assert [[window.box for window in parts] for parts in whole_windows(images)] == [[(0, 0, 20, 20)]] * 2


def test_nothing_blurred_is_an_error(tmp_path):
    images = images_with(tmp_path, mask_of((0, 0, 2, 4)), mask_of())
    with pytest.raises(
        TrainingError, match=r"no crop of 20 px with more than 2 % blurred pixels \(crops: 12\). Score"
    ):
        blurred_crops(images, Crops(side=20, blurred_share=0.02))


def test_the_rule_of_the_protocol():
    assert PROTOCOLS["exprdiff"].crops == Crops(side=512, blurred_share=0.01)
    assert [name for name, protocol in PROTOCOLS.items() if protocol.crops or protocol.without_reference] == [
        "exprdiff"
    ]
