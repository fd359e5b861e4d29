"""`relo short` on datasets, single shards and folders in the ReLoBlur layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.program import relo

from relo.images import read_image, write_image
from relo.postprocess.short import ShortExposureConfig, draw_parameters, pair_generator, short_exposure
from relo.shards import open_dataset
from relo.shards.inspect import verify_shards
from relo.shards.reader import close_files

TWO = [{"scene": "desk"}, {"scene": "door", "bits": 16, "short": True}]


@pytest.fixture(autouse=True)
def closed_files():
    yield
    close_files()


def shorts(path: Path) -> list[np.ndarray]:
    close_files()
    return [sample.short for sample in open_dataset(path)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_dataset_in_place(make_dataset):
    root = make_dataset(TWO)
    answer = relo("short", root, "--model", "physical", "--json")
    assert answer.code == 0, answer.err
    expected = {
        "done": 6,
        "skipped": 0,
        "quarantined": 0,
        "failed": 0,
        "out": str(root),
        "model": "physical",
        "seed": 0,
    }
    assert expected.items() <= answer.json.items()
    assert verify_shards(root) == []
    assert sorted(path.name for path in root.iterdir()) == ["dataset.json", "shard-000.h5", "shard-001.h5"]
    close_files()
    for sample in open_dataset(root):
        row = sample.row
        # the support's rows: 1 ms and 40 ms
        assert row["short_ratio"] == pytest.approx(0.025)
        assert 1e-4 <= row["short_shot"] <= 1.2e-2
        assert np.isnan(row["short_scale"]) and row["short_gain"] == 1
        assert row["psnr"] > 30, "other columns stay"
        assert sample.short.dtype == sample.sharp.dtype
        assert 0 < sample.short.mean() < 0.5 * sample.sharp.mean()
        stored = json.loads(sample.shard.attrs["short_config"])
        assert (stored["model"], stored["seed"], stored["ratio"]) == ("physical", 0, None)


def test_what_was_made_with_the_same_settings_is_kept(make_dataset):
    root = make_dataset(TWO)
    relo("short", root)
    before = {path: path.read_bytes() for path in root.iterdir()}
    again = relo("short", root)
    assert again.code == 0
    assert "nothing to do" in again.out and "done 0, skipped 6" in again.out
    assert {path: path.read_bytes() for path in root.iterdir()} == before
    first = shorts(root)
    assert "done 6, skipped 0" in relo("short", root, "--overwrite").out
    assert same(shorts(root), first)
    assert "done 6, skipped 0" in relo("short", root, "--seed", "1").out
    assert not same(shorts(root), first)
    sizes = sum(path.stat().st_size for path in root.glob("*.h5"))
    assert sizes < 1.2 * sum(len(data) for path, data in before.items() if path.suffix == ".h5")


def test_a_copy_of_a_dataset_and_of_a_shard(make_dataset, tmp_path):
    root = make_dataset(TWO)
    before = {path: path.read_bytes() for path in root.iterdir()}
    for src, out in ((root, tmp_path / "all"), (root / "shard-001.h5", tmp_path / "one")):
        answer = relo("short", src, out, "--set", "scale=[0.4, 0.4]", "--set", "noise=[0, 0]")
        assert answer.code == 0, answer.err
        assert f"output: {out}" in answer.out and "next:   relo " in answer.out
    assert {path: path.read_bytes() for path in root.iterdir()} == before
    assert verify_shards(tmp_path / "all") == []
    close_files()
    for sample in open_dataset(tmp_path / "all"):
        assert np.array_equal(sample.short, np.rint(np.float32(0.4) * sample.sharp).astype(sample.sharp.dtype))
    assert same(shorts(tmp_path / "one" / "shard-001.h5"), shorts(tmp_path / "all")[3:])


def test_the_same_as_process_makes(small_session, small_shards, tmp_path):
    root = shutil.copytree(small_shards, tmp_path / "copy")
    made = shorts(root)
    assert relo("short", root).code == 0
    assert same(shorts(root), made)
    # processing again finds its shards as they should be
    again = relo("process", small_session, root)
    assert "nothing to do" in again.out, again.err
    physical = tmp_path / "physical"
    options = ("--set", "short.model=physical", "--set", "short.colour=0.05", "--set", "short.brighten=0.5")
    assert relo("process", small_session, physical, *options).code == 0
    made = shorts(physical)
    for sample in open_dataset(physical):
        row = sample.row
        assert row["short_ratio"] == pytest.approx(row["t_short"] / row["t_long"])
        assert row["short_gain"] == pytest.approx(row["short_ratio"] ** -0.5)
        assert row["short_red"] != row["short_blue"]
    answer = relo("short", root, "--model", "physical", "--set", "colour=0.05", "--set", "brighten=0.5")
    assert answer.code == 0
    assert same(shorts(root), made)
    answer = relo("report", root)
    assert answer.code == 0
    assert "short ratio" in (root / "report.html").read_text()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    rng = np.random.default_rng(0)
    for split, scene, name in (("train", "s01/00", "00"), ("train", "s01/00", "01"), ("test", "s02/00", "00")):
        for role in ("blur", "sharp"):
            image = rng.integers(0, 256, (20, 30, 3), np.uint8)
            write_image(base / "dataset" / split / scene / f"{name}_{role}.png", image)
    return base


def test_a_folder_in_the_layout(layout):
    answer = relo("short", layout / "dataset", "--model", "physical", "--seed", "3", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["done"], answer.json["out"]) == (3, str(layout / "short"))
    made = sorted(path.relative_to(layout / "short").as_posix() for path in (layout / "short").rglob("*.*"))
    assert made == ["short.json", "test/s02/00/00.png", "train/s01/00/00.png", "train/s01/00/01.png"]
    rng = pair_generator(3, "s01/00", "01")
    parameters = draw_parameters(ShortExposureConfig(model="physical"), rng)
    sharp = read_image(layout / "dataset/train/s01/00/01_sharp.png")
    expected = short_exposure(sharp, rng, **parameters.keywords())
    assert np.array_equal(read_image(layout / "short/train/s01/00/01.png"), expected)
    listed = json.loads((layout / "short/short.json").read_text())
    assert listed["settings"]["seed"] == 3
    assert listed["pairs"]["train/s01/00/01"]["ratio"] == parameters.ratio
    assert set(listed["pairs"]) == {"train/s01/00/00", "train/s01/00/01", "test/s02/00/00"}


def test_a_layout_is_continued_not_mixed(layout, tmp_path):
    out = tmp_path / "out"
    relo("short", layout, out)
    images = {path: path.read_bytes() for path in out.rglob("*.png")}
    lost = out / "short/train/s01/00/01.png"
    lost.unlink()
    answer = relo("short", layout, out)
    assert "done 1, skipped 2" in answer.out
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == images
    relo("short", layout, out, "--seed", "1").error("short.json", "other settings (seed)", "--overwrite")
    answer = relo("short", layout, out, "--seed", "1", "--overwrite")
    assert "done 3, skipped 0" in answer.out
    assert lost.read_bytes() != images[lost]
    (out / "short/short.json").write_text("{")
    relo("short", layout, out).error("short.json", "is damaged")
    (out / "short/short.json").unlink()
    relo("short", layout, out).error("holds files but no short.json")


def test_frames_that_cannot_be_read_are_left_out(layout):
    scene = layout / "dataset/train/s01/00"
    (scene / "00_sharp.png").write_bytes(b"")
    (scene / "07_sharp.png").write_bytes(b"")
    answer = relo("short", layout)
    assert answer.code == 3
    assert "done 2, skipped 0, quarantined 2, failed 0" in answer.out
    assert "s01/00/00: " in answer.err and "00_sharp.png: is no readable" in answer.err
    assert "07_sharp.png: has no partner 07_blur.png" in answer.err
    assert "train/s01/00/00" not in json.loads((layout / "short/short.json").read_text())["pairs"]
    assert not (layout / "short/train/s01/00/00.png").exists()


def test_wrong_input(make_dataset, tmp_path):
    root = make_dataset()
    before = {path: path.read_bytes() for path in root.iterdir()}
    relo("short", tmp_path / "none").error("none", "does not exist")
    (tmp_path / "empty").mkdir()
    relo("short", tmp_path / "empty").error("neither a dataset folder nor laid out like ReLoBlur")
    (tmp_path / "text.h5").write_text("no HDF5")
    relo("short", tmp_path / "text.h5").error("text.h5", "cannot be opened as HDF5")
    relo("short", root, "--set", "ratio=[2, 3]").error("ratio must be two rising numbers")
    relo("short", root, "--set", "nonsense=1").error("unknown key 'nonsense'", "brighten")
    relo("short", root, "--set", "enabled=false").error("nothing to do")
    relo("short", root, tmp_path / "text.h5").error("is a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    relo("short", root, tmp_path / "full").error("holds other files")
    assert relo("short", root, "--model", "hsl").code == 2
    assert {path: path.read_bytes() for path in root.iterdir()} == before


def test_damaged_frames_stop_the_shard_and_leave_it(make_dataset):
    root = make_dataset()
    path = root / "shard-000.h5"
    with h5py.File(path, "r+") as file:
        offset = file["sharp"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(data)
    relo("short", root).error("shard-000.h5", "another sha256")
    (root / "dataset.json").unlink()
    relo("short", path).error("shard-000.h5", "cannot be decoded")
    assert path.read_bytes() == bytes(data)
    assert [item.name for item in root.iterdir()] == ["shard-000.h5"]
