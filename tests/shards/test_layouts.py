"""The ReLoBlur layout: pairs by name, whatever folder is given, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from relo.errors import ShardError
from relo.images import ImageError, write_image
from relo.shards.layouts.reloblur import (
    LayoutPair,
    base_folder,
    find_pairs,
    is_layout,
    mask_path,
    read_image,
    read_pair,
    short_path,
)


def frame(value: int = 0, dtype=np.uint8, size=(6, 8)) -> np.ndarray:
    return np.random.default_rng(value).integers(0, np.iinfo(dtype).max, (*size, 3)).astype(dtype)


def write_pair(data: Path, split: str = "train", scene: str = "s01/00", name: str = "00", **keywords) -> None:
    for number, role in enumerate(("blur", "sharp")):
        write_image(data / split / scene / f"{name}_{role}.png", frame(number, **keywords))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    write_pair(base / "dataset", name="01")
    write_pair(base / "dataset")
    write_pair(base / "dataset", scene="s02/01")
    write_pair(base / "dataset", "test", "s03/00")
    return base


ALL = [("train", "s01/00", "00"), ("train", "s01/00", "01"), ("train", "s02/01", "00"), ("test", "s03/00", "00")]


def keys(pairs: list[LayoutPair]) -> list[tuple[str, str, str]]:
    return [(pair.split, pair.scene, pair.id) for pair in pairs]


@pytest.mark.parametrize("given", ["", "dataset", "dataset/train", "dataset/test"])
def test_any_folder_of_the_tree_will_do(base, given, monkeypatch):
    root = base / given
    expected = [key for key in ALL if Path(given).name in ("", "dataset", key[0])]
    pairs, problems = find_pairs(root)
    assert (keys(pairs), problems) == (expected, [])
    assert all(pair.blur.is_file() and pair.sharp.is_file() for pair in pairs)
    assert is_layout(root)
    assert base_folder(root).resolve() == base.resolve()
    monkeypatch.chdir(root)
    assert keys(find_pairs(".")[0]) == expected
    assert base_folder(Path()).resolve() == base.resolve()


def test_without_a_folder_dataset_the_base_is_what_holds_the_splits(base, tmp_path):
    data = (base / "dataset").rename(tmp_path / "ReLoBlur")
    assert keys(find_pairs(data)[0]) == ALL
    assert base_folder(data) == data
    assert base_folder(data / "train").resolve() == data.resolve()


def test_what_is_made_goes_beside_the_frames(base):
    pair = find_pairs(base)[0][1]
    assert mask_path(pair, base) == base / "masks" / "train" / "s01" / "00" / "01.png"
    assert short_path(pair, base) == base / "short" / "train" / "s01" / "00" / "01.png"
    write_image(mask_path(pair, base), frame())
    assert keys(find_pairs(base)[0]) == ALL


def test_frames_without_partner(base):
    scene = base / "dataset" / "train" / "s02" / "01"
    write_image(scene / "07_blur.png", frame())
    write_image(scene / "08_sharp.png", frame())
    write_image(scene / "00_blur.tif", frame())
    for name in ("notes.txt", "._00_blur.png", "09_mask.png", "_blur.png"):
        (scene / name).touch()
    pairs, problems = find_pairs(base)
    assert keys(pairs) == [key for key in ALL if key[1] != "s02/01"]
    assert [(problem.scene, problem.pair, problem.file.name) for problem in problems] == [
        ("s02/01", "00", "00_blur.tif"),
        ("s02/01", "07", "07_blur.png"),
        ("s02/01", "08", "08_sharp.png"),
    ]
    assert "second file" in problems[0].reason
    assert "07_sharp.png" in problems[1].reason and "08_blur.png" in problems[2].reason
    assert all(problem.advice for problem in problems)


def test_other_folders_are_refused(tmp_path):
    for folder, words in ((tmp_path, "not laid out"), (tmp_path / "none", "is no folder")):
        assert not is_layout(folder)
        with pytest.raises(ShardError, match=words):
            find_pairs(folder)
    (tmp_path / "train").mkdir()
    with pytest.raises(ShardError, match="holds no frame"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pairs_are_read_as_they_are(tmp_path, dtype):
    write_pair(tmp_path, dtype=dtype)
    blur, sharp = read_pair(find_pairs(tmp_path)[0][0])
    assert blur.dtype == sharp.dtype == dtype
    assert np.array_equal(blur, frame(0, dtype)) and np.array_equal(sharp, frame(1, dtype))


def test_alpha_is_dropped_and_grey_and_palette_are_expanded(tmp_path):
    image = frame()
    for dtype in (np.uint8, np.uint16):
        deep = frame(0, dtype)
        with_alpha = np.dstack([deep[..., ::-1], np.full(deep.shape[:2], 9, dtype)])
        cv2.imwrite(str(tmp_path / "alpha.png"), with_alpha)
        assert np.array_equal(read_image(tmp_path / "alpha.png"), deep)
        cv2.imwrite(str(tmp_path / "grey.png"), deep[..., 0])
        assert np.array_equal(read_image(tmp_path / "grey.png"), np.dstack([deep[..., 0]] * 3))
    palette = Image.fromarray(image // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "no readable"),
        (lambda path: path.write_bytes(b"no image"), "no readable"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "damaged or truncated"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: write_image(path, frame(size=(6, 9))), "is 9x6 of 8 bits, its partner 00_blur.png is 8x6"),
        (lambda path: write_image(path, frame(dtype=np.uint16)), "is 8x6 of 16 bits"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, damage, words):
    write_pair(tmp_path)
    pair = find_pairs(tmp_path)[0][0]
    damage(pair.sharp)
    with pytest.raises(ImageError, match=words) as caught:
        read_pair(pair)
    assert caught.value.file == pair.sharp
