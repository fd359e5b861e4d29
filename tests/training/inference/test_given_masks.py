"""Masks of photographs: where they are looked for, and what is no mask."""

import numpy as np
import pytest
from PIL import Image

from relo.errors import ConfigError
from relo.masks.external import MaskFileError
from relo.training.inference.given_masks import find_mask, read_given_mask, require_masks

SIZE = (20, 30)


def write(path, values=255, size=SIZE):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full(size, values, np.uint8)).save(path)
    return path


def test_a_folder_holds_masks_by_name(tmp_path):
    photograph, folder = tmp_path / "a.jpg", tmp_path / "masks"
    write(folder / "a.png")
    write(folder / "b_mask.png")
    assert find_mask(folder, photograph) == folder / "a.png"
    write(folder / "a_mask.png", 0)
    assert find_mask(folder, photograph) == folder / "a_mask.png"
    assert not read_given_mask(folder, photograph, SIZE).mask.any()


def test_a_file_is_the_mask_of_all(tmp_path):
    file = write(tmp_path / "any.png")
    for name in ("a.png", "b.dng"):
        assert read_given_mask(file, tmp_path / name, SIZE).mask.all()


def test_a_photograph_is_not_its_own_mask(tmp_path):
    write(tmp_path / "a.png")
    assert find_mask(tmp_path, tmp_path / "a.png") is None
    assert find_mask(tmp_path, tmp_path / "b" / ".." / "a.jpg") == tmp_path / "a.png"


def test_values_are_understood_as_masks_are_everywhere(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[3, 4], values[5, 6], values[7, 8] = 255, 100, 200
    Image.fromarray(values).save(tmp_path / "m.png")
    mask, notes = read_given_mask(tmp_path / "m.png", tmp_path / "a.png", SIZE)
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [(3, 4), (7, 8)]
    assert len(notes) == 1 and "cut at 127.5" in notes[0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, r"masks: holds no mask of a.jpg, neither a_mask.png nor a.png. Give a grey PNG"),
        (lambda path: write(path, size=(20, 31)), r"a_mask.png: is 31x20, the frame is 30x20"),
        (lambda path: write(path, (255, 0, 0), (*SIZE, 3)), r"a_mask.png: is no mask: it has colours. Give a grey"),
        (lambda path: path.write_bytes(b"no picture"), r"a_mask.png: is no readable PNG"),
        (lambda path: path.write_bytes(b""), r"a_mask.png: is empty"),
    ],
)
def test_what_is_no_mask_is_refused(make, told, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    make(folder / "a_mask.png")
    with pytest.raises(MaskFileError, match=told):
        read_given_mask(folder, tmp_path / "a.jpg", SIZE)


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="masks: does not exist"):
        require_masks(tmp_path / "masks")
    require_masks(tmp_path)
