"""A shard under its final name is complete; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from relo.shards import ShardWriter, open_dataset, schema
from relo.shards.reader import close_files

SIZE = (10, 14)


def image(value: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.full((*SIZE, 3), value, dtype)


def make(path: Path, **options) -> ShardWriter:
    return ShardWriter(path, size=SIZE, scene="desk", split="train", **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back(tmp_path: Path):
    rng = np.random.default_rng(0)
    blur, sharp, short = (rng.integers(0, 256, (2, *SIZE, 3), np.uint8) for _ in range(3))
    mask = np.zeros((2, *SIZE), np.uint8)
    mask[0, 2:4, 2:6] = 255
    valid = np.full(SIZE, 255, np.uint8)
    valid[:, :4] = 0
    path = tmp_path / "new" / "desk-000.h5"
    with make(path, valid=valid, short=True, config={"b": 1}, config_sha256="c0", sources={"f": "00"}) as writer:
        for index in range(2):
            row = {"t_long": 0.02 * (index + 1), "flags": "gain"}
            assert writer.append(
                f"{index:04d}", blur=blur[index], sharp=sharp[index], short=short[index], mask=mask[index], row=row
            ) == index  # fmt: skip
            assert names(path.parent) == ["desk-000.h5.part"]
        assert len(writer) == 2
        assert (writer.read("blur", 1) == blur[1]).all()
    assert names(path.parent) == ["desk-000.h5"]
    with h5py.File(path) as file:
        for name, images in {"blur": blur, "sharp": sharp, "short": short, "mask": mask, "valid": valid}.items():
            assert file[name].dtype == np.uint8
            assert (file[name][()] == images).all(), name
        assert file["pairs"].dtype == schema.PAIR_DTYPE
        rows = file["pairs"][()]
        assert rows["id"].tolist() == [b"0000", b"0001"]
        assert rows["t_long"].tolist() == [0.02, 0.04]
        assert rows["flags"].tolist() == [b"gain", b"gain"]
        assert np.isnan(rows["psnr"]).all()
        assert rows["blur_fraction"][0] == pytest.approx(4 / 100)  # two columns of the mask lie outside `valid`
        assert {name: file.attrs[name] for name in ("format", "version", "scene", "split", "mask_version")} == {
            "format": "relo-shard", "version": 1, "scene": "desk", "split": "train", "mask_version": 1,
        }  # fmt: skip
        assert json.loads(file.attrs["config"]) == {"b": 1}
        assert json.loads(file.attrs["sources"]) == {"f": "00"}


def test_sixteen_bits(tmp_path: Path):
    with make(tmp_path / "a.h5", bits=16) as writer:
        writer.append("0", blur=image(65535, np.uint16), sharp=image(257, np.uint16))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["blur"].dtype == file["sharp"].dtype == np.uint16
        assert file["blur"][0].min() == 65535
        assert file["mask"].dtype == np.uint8
        assert "short" not in file


def test_tiles_let_a_patch_be_read_alone(tmp_path: Path):
    with ShardWriter(tmp_path / "a.h5", size=(200, 300), scene="a", split="train", short=True) as writer:
        for name in ("blur", "sharp", "short"):
            assert writer.file[name].chunks == (1, 128, 128, 3)
            assert writer.file[name].maxshape == (None, 200, 300, 3)
        assert writer.file["mask"].chunks == (1, 128, 128)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.h5", "b.h5"):
        with make(tmp_path / name) as writer:
            writer.append("0", blur=image(3), sharp=image(4))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_new(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "a.h5"
    path.write_bytes(b"an older shard")
    with pytest.raises(error), make(path) as writer:
        writer.append("0", blur=image(), sharp=image())
        raise error
    assert names(tmp_path) == ["a.h5"]
    assert path.read_bytes() == b"an older shard"


def test_a_bad_beginning_leaves_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="valid must be"):
        make(tmp_path / "a.h5", valid=np.zeros((3, 4), np.uint8))
    assert names(tmp_path) == []


def test_discard(tmp_path: Path):
    writer = make(tmp_path / "a.h5")
    writer.append("0", blur=image(), sharp=image())
    writer.discard()
    writer.discard()
    assert names(tmp_path) == []


def test_every_pair_is_on_disk_when_append_returns(tmp_path: Path):
    writer = make(tmp_path / "a.h5")
    try:
        before = (tmp_path / "a.h5.part").stat().st_size
        noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        writer.append("0", blur=noise, sharp=noise)
        assert (tmp_path / "a.h5.part").stat().st_size >= before + 2 * noise.nbytes
    finally:
        writer.discard()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"blur": image(dtype=np.uint16)}, "blur of pair 0000 must be .*uint8, got .*uint16"),
        ({"blur": image().astype(np.float32)}, "float32"),
        ({"sharp": image()[:-1]}, r"sharp of pair 0000 must be \(10, 14, 3\)"),
        ({"sharp": image()[..., 0]}, r"sharp .* got \(10, 14\)"),
        ({"short": None}, "short of pair 0000 .* got none"),
        ({"mask": np.full(SIZE, 127, np.uint8)}, "mask must be .* of 0 and 255"),
        ({"mask": np.zeros(SIZE, bool)}, "mask must be"),
        ({"mask": np.zeros((4, 4), np.uint8)}, "mask must be"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, images: dict[str, np.ndarray | None], message: str):
    good = {"blur": image(), "sharp": image(), "short": image()}
    with pytest.raises(ValueError, match=message), make(tmp_path / "a.h5", short=True) as writer:
        writer.append("0000", **(good | images))
    assert names(tmp_path) == []


def test_a_name_longer_than_the_table_allows(tmp_path: Path):
    with make(tmp_path / "a.h5") as writer:
        writer.append("é" * 32, blur=image(), sharp=image())
        with pytest.raises(ValueError, match="64 bytes"):
            writer.append("é" * 33, blur=image(), sharp=image())
    assert [sample.id for sample in open_dataset(tmp_path / "a.h5")] == ["é" * 32]
    close_files()


def test_rows_can_be_completed_and_take_no_other_columns(tmp_path: Path):
    with make(tmp_path / "a.h5") as writer:
        writer.append("0", blur=image(), sharp=image())
        writer.update_row(0, psnr=40.0, flags="gain,clipped")
        with pytest.raises(KeyError, match="colour"):
            writer.update_row(0, colour=1)
        copy = writer.row(0)
        copy["psnr"] = 0.0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["pairs"][0]["psnr"] == 40.0
        assert file["pairs"][0]["flags"] == b"gain,clipped"


def test_a_full_disk_is_noticed_before_hdf5_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    with pytest.raises(OSError, match="No space left"), make(tmp_path / "a.h5") as writer:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500))
        writer.append("0", blur=image(), sharp=image())
    assert names(tmp_path) == []
