from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from relo.errors import ShardError
from relo.shards.inspect import inspect_shards, split_flags, verify_shards


def edit_index(root, change):
    path = root / "dataset.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def damage_chunk(path, name, pair):
    """Overwrite the stored bytes of one compressed chunk of image `pair`."""
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info_by_coord((pair,) + (0,) * (file[name].ndim - 1))
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)


def test_summary_of_a_dataset(make_dataset):
    root = make_dataset(
        [
            {"scene": "a", "pairs": 2, "flags": {0: "misaligned,mask-large", 1: "misaligned"}},
            {"scene": "b", "split": "test", "bits": 16, "short": True, "size": (40, 56)},
        ],
        [{"scene": "a", "reason": "x"}],
    )
    found = inspect_shards(root)
    assert (found.pairs, found.scenes, found.splits) == (5, ["a", "b"], {"test": 3, "train": 2})
    assert found.quarantined == 1
    assert found.flags == {"mask-large": 1, "misaligned": 2}
    assert found.bytes == sum(path.stat().st_size for path in root.glob("*.h5"))
    second = found.shards[1]
    assert (second.width, second.height, second.bits, second.short) == (56, 40, 16, True)
    mean, low, high = found.coverage
    assert 0 < low <= mean <= high < 1
    assert found.damage == ()


def test_coverage_is_unknown_without_numbers(make_dataset):
    found = inspect_shards(make_dataset([]))
    assert found.coverage is None
    assert (found.pairs, found.splits, found.flags) == (0, {}, {})


def test_a_single_shard(make_dataset):
    found = inspect_shards(make_dataset() / "shard-000.h5")
    assert (found.pairs, found.quarantined) == (3, 0)


def test_no_dataset(tmp_path):
    with pytest.raises(ShardError, match=r"dataset\.json"):
        inspect_shards(tmp_path)
    with pytest.raises(ShardError, match="does not exist"):
        inspect_shards(tmp_path / "nothing")


def test_a_missing_shard_does_not_hide_the_others(make_dataset):
    root = make_dataset([{"scene": "a"}, {"scene": "b"}])
    (root / "shard-000.h5").unlink()
    found = inspect_shards(root)
    assert found.scenes == ["b"]
    assert [(item.file, "missing" in item.reason) for item in found.damage] == [("shard-000.h5", True)]


def test_good_dataset_verifies_with_progress(make_dataset):
    calls = []
    root = make_dataset([{"short": True}, {"scene": "b", "bits": 16}])
    assert verify_shards(root, lambda *call: calls.append(call[:2])) == []
    assert calls == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize("name", ["blur", "sharp", "mask", "short"])
def test_damaged_pair_is_named(make_dataset, name):
    root = make_dataset([{"short": True, "pairs": 4}, {"scene": "b"}])
    damage_chunk(root / "shard-000.h5", name, 2)
    damage = verify_shards(root)
    assert {item.file for item in damage} == {"shard-000.h5"}
    assert damage[0].pair == "" and "sha256" in damage[0].reason
    assert [item.pair for item in damage[1:]] == ["0002"]
    assert "sha256 in /pairs" in str(damage[1]) and "run the same 'relo process'" in str(damage[1])


def test_truncated_and_empty_shards(make_dataset):
    root = make_dataset([{"scene": name} for name in "abc"])
    first, second = root / "shard-000.h5", root / "shard-001.h5"
    first.write_bytes(first.read_bytes()[:5000])
    second.write_bytes(b"")
    damage = verify_shards(root)
    assert {item.file for item in damage} == {first.name, second.name}
    assert any("cannot be opened" in item.reason for item in damage)


def test_index_that_contradicts_the_shard(make_dataset):
    root = make_dataset()
    edit_index(root, lambda index: index["shards"][0].update(scene="other", pairs=7))
    reasons = [item.reason for item in verify_shards(root)]
    assert reasons == [
        "holds scene 'scene_00', dataset.json says 'other'",
        "holds pairs '3', dataset.json says '7'",
    ]


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd", 3, None])
def test_names_that_leave_the_folder_are_refused(make_dataset, name):
    root = make_dataset()
    edit_index(root, lambda index: index["shards"][0].update(file=name))
    assert "no file of this folder" in verify_shards(root)[0].reason
    assert "no file of this folder" in inspect_shards(root).damage[0].reason


def test_mask_with_other_values(make_dataset):
    root = make_dataset()
    with h5py.File(root / "shard-000.h5", "r+") as file:
        file["mask"][1, 0, 0] = np.uint8(7)
    assert [item.pair for item in verify_shards(root) if item.pair] == ["0001"]


def test_flags_are_split():
    assert split_flags(" a, b,,") == ("a", "b")
    assert split_flags("") == ()


def without_checksums(path):
    """Make a shard as an older relo wrote it."""
    with h5py.File(path, "r+") as file:
        table = file["pairs"][()]
        names = [name for name in table.dtype.names if name != "sha256"]
        del file["pairs"]
        file["pairs"] = table[names].astype([(name, table.dtype[name]) for name in names])


def forget_sha256(root):
    edit_index(root, lambda index: index["shards"][0].pop("sha256"))


def test_a_change_that_can_be_decoded_is_named(make_dataset):
    """Another valid mask: only its checksum tells."""
    root = make_dataset()
    forget_sha256(root)
    with h5py.File(root / "shard-000.h5", "r+") as file:
        file["mask"][2, 0, 0] = 255 - file["mask"][2, 0, 0]
    damage = verify_shards(root)
    assert [item.pair for item in damage] == ["0002"]
    assert "sha256 in /pairs" in damage[0].reason and "relo process" in damage[0].reason


def test_damaged_bytes_are_not_decoded(make_dataset, monkeypatch):
    root = make_dataset()
    damage_chunk(root / "shard-000.h5", "sharp", 1)
    decoded = []
    monkeypatch.setattr("relo.shards.inspect._decode", lambda sample: decoded.append(sample.id))
    verify_shards(root)
    assert decoded == ["0000", "0002"]


def test_shards_of_an_older_relo_are_verified_by_decoding(make_dataset):
    root = make_dataset()
    forget_sha256(root)
    without_checksums(root / "shard-000.h5")
    assert verify_shards(root) == []
    damage_chunk(root / "shard-000.h5", "sharp", 1)
    damage = verify_shards(root)
    assert [item.pair for item in damage] == ["0001"] and "decoded" in damage[0].reason


def test_damage_outside_of_the_pairs_is_that_of_the_file(make_dataset):
    root = make_dataset()
    with h5py.File(root / "shard-000.h5", "r+") as file:
        file.attrs["note"] = "x"
    (item,) = verify_shards(root)
    assert (item.file, item.pair) == ("shard-000.h5", "") and item.reason.startswith("sha256 differs")


def test_a_recorded_checksum_that_is_damaged_itself(make_dataset):
    root = make_dataset()
    forget_sha256(root)
    with h5py.File(root / "shard-000.h5", "r+") as file:
        table = file["pairs"][()]
        table["sha256"][0] = b"0" * 64
        file["pairs"][...] = table
    assert [item.pair for item in verify_shards(root)] == ["0000"]


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff", b"[" * 100_000], ids=["cut", "list", "bytes", "deep"])
def test_a_damaged_quarantine_is_named(make_dataset, line):
    root = make_dataset([{}], [{"scene": "a", "reason": "x"}])
    with (root / "quarantine.jsonl").open("ab") as stream:
        stream.write(b"\n" + line + b"\n")
    (item,) = verify_shards(root)
    assert item.file == "quarantine.jsonl" and "line 3" in item.reason
    assert inspect_shards(root).damage == ()


def test_coverage_that_is_none(make_dataset):
    """Of a damaged table: 1e308 twice is no mean."""
    root = make_dataset()
    with h5py.File(root / "shard-000.h5", "r+") as file:
        table = file["pairs"][()]
        table["blur_fraction"] = [1e308, 1e308, 0.25]
        table["flags"][0] = b"a\x1b[31m"
        file["pairs"][...] = table
    found = inspect_shards(root)
    assert found.coverage == (0.25, 0.25, 0.25)
    assert found.flags == {"a?[31m": 1}
