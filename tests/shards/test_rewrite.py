"""Finished shards are changed as a whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from relo import atomic, locks
from relo.atomic import file_sha256
from relo.errors import ConfigError, ReloError, ShardError
from relo.shards import open_dataset, rewrite, schema
from relo.shards.inspect import verify_shards
from relo.shards.reader import close_files
from relo.shards.rewrite import rewrite_shards, set_columns

TWO = [{"scene": "desk"}, {"scene": "door", "split": "test"}]


def invert(file, shard):
    for index in range(shard.count):
        file["mask"][index] = 255 - file["mask"][index]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def masks(path: Path) -> np.ndarray:
    close_files()
    return np.stack([sample.mask for sample in open_dataset(path)])


def index_of(folder: Path) -> dict:
    return json.loads((folder / schema.DATASET_FILE).read_text())


def test_in_place(make_dataset):
    root = make_dataset(TWO)
    before, old_index = masks(root), index_of(root)
    steps = []
    # readers hold the old files open
    result = rewrite_shards(root, None, invert, progress=lambda *step: steps.append(step))
    assert np.array_equal(masks(root), 255 - before)
    assert (result.out, result.done, result.skipped) == (root, 6, 0)
    assert steps == [(3, 6, "shard-000.h5"), (6, 6, "shard-001.h5")]
    index = index_of(root)
    for entry, old in zip(index["shards"], old_index["shards"], strict=True):
        assert entry["sha256"] == file_sha256(root / entry["file"]) != old["sha256"]
        with h5py.File(root / entry["file"]) as file:
            assert file.attrs[rewrite.REWRITTEN_FROM] == old["sha256"]
        assert {**entry, "sha256": ""} == {**old, "sha256": ""}
    assert {**index, "shards": 0} == {**old_index, "shards": 0}
    assert verify_shards(root) == []
    assert sorted(content(root)) == ["dataset.json", "shard-000.h5", "shard-001.h5"]


def test_to_a_new_folder(make_dataset, tmp_path):
    root = make_dataset(TWO, [{"file": "a"}])
    before, old = content(root), masks(root)
    out = tmp_path / "new" / "out"
    result = rewrite_shards(root, out, invert)
    assert content(root) == before
    assert result.shards == [out / "shard-000.h5", out / "shard-001.h5"]
    assert np.array_equal(masks(out), 255 - old)
    assert sorted(content(out)) == ["dataset.json", "quarantine.jsonl", "shard-000.h5", "shard-001.h5"]
    assert content(out)["quarantine.jsonl"] == before["quarantine.jsonl"]
    assert verify_shards(out) == []


@pytest.mark.parametrize("new", [False, True])
def test_an_edit_that_fails_changes_nothing(make_dataset, tmp_path, new):
    root = make_dataset(TWO)
    before = content(root)
    out = tmp_path / "out"

    def fail(file, shard):
        invert(file, shard)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rewrite_shards(root, out if new else None, fail)
    assert content(root) == before
    assert not out.exists()


def test_shards_that_were_finished_before_an_edit_fails_are_listed(make_dataset, tmp_path):
    root = make_dataset(TWO)

    def second_fails(file, shard):
        if shard.scene == "door":
            raise KeyboardInterrupt
        invert(file, shard)

    for out in (None, tmp_path / "out"):
        with pytest.raises(KeyboardInterrupt):
            rewrite_shards(root, out, second_fails)
    assert verify_shards(root) == []
    assert not (tmp_path / "out").exists()
    with h5py.File(root / "shard-000.h5") as first, h5py.File(root / "shard-001.h5") as second:
        assert rewrite.REWRITTEN_FROM in first.attrs and rewrite.REWRITTEN_FROM not in second.attrs


def test_killed_between_a_shard_and_its_index(make_dataset):
    root = make_dataset(TWO)
    stale = (root / schema.DATASET_FILE).read_bytes()
    rewrite_shards(root, None, invert)
    (root / schema.DATASET_FILE).write_bytes(stale)
    (root / "shard-000.h5.part").write_bytes(b"half")
    assert len(verify_shards(root)) == 2
    result = rewrite_shards(root, None, invert, skip=lambda shard: shard.scene == "desk")
    assert (result.done, result.skipped) == (3, 3)
    assert verify_shards(root) == []
    assert sorted(content(root)) == ["dataset.json", "shard-000.h5", "shard-001.h5"]


def test_skipped_shards_are_copied_as_they_are(make_dataset, tmp_path):
    root = make_dataset(TWO)
    rewrite_shards(root, tmp_path / "out", invert, skip=lambda shard: shard.scene == "desk")
    first, second = (
        content(root)[f"shard-00{k}.h5"] == content(tmp_path / "out")[f"shard-00{k}.h5"] for k in (0, 1)
    )
    assert first and not second


def test_a_single_shard(make_dataset, tmp_path):
    root = make_dataset(TWO)
    old = masks(root / "shard-001.h5")
    result = rewrite_shards(root / "shard-001.h5", tmp_path / "out", invert)
    assert result.shards == [tmp_path / "out" / "shard-001.h5"]
    assert sorted(content(tmp_path / "out")) == ["shard-001.h5"]
    assert np.array_equal(masks(tmp_path / "out" / "shard-001.h5"), 255 - old)
    rewrite_shards(root / "shard-001.h5", None, invert)  # the index beside it follows
    assert np.array_equal(masks(root / "shard-001.h5"), 255 - old)
    assert verify_shards(root) == []
    (root / schema.DATASET_FILE).unlink()
    rewrite_shards(root / "shard-000.h5", None, invert)
    assert sorted(content(root)) == ["shard-000.h5", "shard-001.h5"]


def test_damage_is_not_given_a_new_checksum(make_dataset):
    root = make_dataset()
    with h5py.File(root / "shard-000.h5", "r+") as file:
        file["mask"][0, 0, 0] = 255 - file["mask"][0, 0, 0]
    before = content(root)
    with pytest.raises(ShardError, match=r"shard-000\.h5: has another sha256"):
        rewrite_shards(root, None, invert)
    assert content(root) == before


def test_folders_that_are_refused(make_dataset, tmp_path):
    root = make_dataset()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for out, words in (("file", "is a file"), ("full", r"holds other files \(notes.txt\)")):
        with pytest.raises(ConfigError, match=words):
            rewrite_shards(root, tmp_path / out, invert)
    with pytest.raises(ShardError, match="does not exist"):
        rewrite_shards(tmp_path / "none", None, invert)
    with pytest.raises(ShardError, match=r"dataset\.json"):
        rewrite_shards(tmp_path / "full", None, invert)
    with locks.locked(root), pytest.raises(ReloError, match="another relo"):
        rewrite_shards(root, None, invert)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_what_a_killed_run_left_in_a_new_folder_is_replaced(make_dataset, tmp_path):
    root, out = make_dataset(TWO), tmp_path / "out"
    out.mkdir()
    (out / "shard-000.h5").write_bytes(b"finished, but not listed")
    (out / "shard-001.h5.part").write_bytes(b"half")
    rewrite_shards(root, out, invert)
    assert verify_shards(out) == []
    assert sorted(content(out)) == ["dataset.json", "shard-000.h5", "shard-001.h5"]


def test_a_full_disk_is_noticed_before_anything_is_written(make_dataset, monkeypatch):
    root = make_dataset()
    before = content(root)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ReloError, match=r"cannot be written \(No space left on device\)"):
        rewrite_shards(root, None, invert)
    assert content(root) == before


def test_columns_are_replaced_and_added(make_dataset):
    root = make_dataset()
    path = root / "shard-000.h5"
    with h5py.File(path, "r+") as file:  # as an older relo made it, and with a column of somebody else
        old = file["pairs"][()]
        names = [name for name in old.dtype.names if not name.startswith("short_")]
        table = np.zeros(3, [(name, old.dtype[name]) for name in names] + [("mine", "<i4")])
        for name in names:
            table[name] = old[name]
        table["mine"] = (7, 8, 9)
        del file["pairs"]
        file["pairs"] = table
        set_columns(file, {"short_ratio": [0.1, 0.2, 0.3], "flags": [b"", b"gain", b""]})
        with pytest.raises(KeyError, match="nonsense"):
            set_columns(file, {"nonsense": [1, 2, 3]})
    close_files()
    samples = list(open_dataset(path))
    assert [sample.row["short_ratio"] for sample in samples] == [0.1, 0.2, 0.3]
    assert [sample.row["flags"] for sample in samples] == ["", "gain", ""]
    assert [sample.row["mine"] for sample in samples] == [7, 8, 9]
    assert np.isnan(samples[0].row["short_scale"])
    assert samples[0].row["psnr"] == old["psnr"][0]
