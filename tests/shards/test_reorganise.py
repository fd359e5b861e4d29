"""Datasets from datasets: tiles, rows and attributes come through as they are."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.layouts import content, reloblur

from relo import atomic
from relo.atomic import file_sha256
from relo.errors import ConfigError, ReloError, ShardError
from relo.shards import open_dataset
from relo.shards.importing.config import ImportConfig
from relo.shards.importing.job import import_layout
from relo.shards.inspect import verify_shards
from relo.shards.mask_stores.shards import mask_source
from relo.shards.reader import Dataset, close_files
from relo.shards.rearranging import copy_pairs, job
from relo.shards.rearranging.merge import merge_datasets
from relo.shards.rearranging.operations import drop_pairs, reshard_dataset, split_dataset
from relo.shards.tiles import stored_tiles

SIZE = (150, 200)  # four tiles a frame
DESK = {"scene": "desk", "size": SIZE}
DOOR = {"scene": "door", "size": SIZE, "split": "test", "pairs": 2}


@pytest.fixture(autouse=True)
def closed():
    yield
    close_files()


@pytest.fixture(autouse=True)
def nothing_is_decoded(monkeypatch):
    """Reading images through HDF5's filters would be reprocessing."""

    def refuse(self, key, *rest, **more):
        if self.name.lstrip("/") in ("blur", "sharp", "short", "mask"):
            raise AssertionError(f"{self.name} was decoded")
        return original(self, key, *rest, **more)

    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(job, "write_target", lambda *given: guarded(refuse, original, *given))


def guarded(refuse, original, *given):
    h5py.Dataset.__getitem__ = refuse
    try:
        return copy_pairs.write_target(*given)
    finally:
        h5py.Dataset.__getitem__ = original


def stored(path: Path) -> dict[tuple[str, str], tuple]:
    """Of each pair: its split, bytes of all tiles, and row."""
    found = {}
    close_files()
    for sample in open_dataset(path):
        file = sample.shard.file
        tiles = {
            name: [(offset[1:], mask, data) for offset, mask, data in stored_tiles(file[name], sample.index)]
            for name in ("blur", "sharp", "short", "mask")
            if name in file
        }
        row = sample.shard.pairs[sample.index]
        found[sample.scene, sample.id] = (sample.split, tiles, row.dtype, row.tobytes())
    return found


def index_of(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def layout_of(dataset: Dataset) -> list[tuple]:
    return [(shard.path.name, shard.scene, shard.split, shard.ids) for shard in dataset.shards]


def pipeline(dataset: h5py.Dataset) -> list:
    plan = dataset.id.get_create_plist()
    return [plan.get_filter(number) for number in range(plan.get_nfilters())]


@pytest.mark.parametrize("bits", [8, 16])
def test_reshard_and_back(make_dataset, tmp_path, bits):
    parts = [{**DESK, "bits": bits, "short": True, "pairs": 3, "flags": {1: "gain"}} for _ in range(2)]
    root = make_dataset([*parts, {**DOOR, "bits": bits}])
    rename(root / "shard-001.h5", ["0003", "0004", "0005"])
    steps = []
    result = reshard_dataset(root, tmp_path / "big", 4, progress=lambda *step: steps.append(step))
    assert (result.done, result.skipped, result.dropped) == (8, 0, 0)
    assert steps == [(4, 8, "desk-000.h5"), (6, 8, "desk-001.h5"), (8, 8, "door-000.h5")]
    assert layout_of(open_dataset(tmp_path / "big")) == [
        ("desk-000.h5", "desk", "train", ("0000", "0001", "0002", "0003")),
        ("desk-001.h5", "desk", "train", ("0004", "0005")),
        ("door-000.h5", "door", "test", ("0000", "0001")),
    ]
    assert stored(tmp_path / "big") == stored(root)
    assert verify_shards(tmp_path / "big") == []
    with h5py.File(root / "shard-000.h5") as before, h5py.File(tmp_path / "big/desk-000.h5") as after:
        for name in ("blur", "sharp", "short", "mask"):
            assert pipeline(before[name]) == pipeline(after[name]) != []
            assert before[name].chunks == after[name].chunks and before[name].maxshape == after[name].maxshape
            assert np.array_equal(after[name][:3], before[name][()])
            assert h5py.h5o.get_info(after[name].id).mtime == 0, "no time, so that equal sources make equal files"
        for name in ("valid", "calibration/gain", "calibration/static/after", "calibration/flow/coefficients"):
            assert np.array_equal(before[name][()], after[name][()])
        assert dict(after["calibration/flow"].attrs)["method"] == "parametric"
        same = set(before.attrs) - {"sources"}
        assert {name: before.attrs[name] for name in same} == {name: after.attrs[name] for name in same}
        (step,) = json.loads(after.attrs["reorganised"])
        assert step["operation"] == "reshard"
        assert [(item["file"], item["pairs"]) for item in step["from"]] == [
            ("shard-000.h5", 3),
            ("shard-001.h5", 1),
        ]
        assert step["from"][0]["sha256"] == file_sha256(root / "shard-000.h5")
    reshard_dataset(tmp_path / "big", tmp_path / "small", 1)
    assert len(open_dataset(tmp_path / "small").shards) == 8
    assert stored(tmp_path / "small") == stored(root)
    reshard_dataset(tmp_path / "small", tmp_path / "again", 4)
    assert stored(tmp_path / "again") == stored(root)


def rename(path: Path, names: list[str], index: bool = True) -> None:
    """Give the pairs of a shard other names."""
    close_files()
    with h5py.File(path, "r+") as file:
        table = file["pairs"][()]
        table["id"] = [name.encode() for name in names]
        file["pairs"][...] = table
    close_files()
    if index:
        content = index_of(path.parent)
        for entry in content["shards"]:
            if entry["file"] == path.name:
                entry["sha256"] = file_sha256(path)
        (path.parent / "dataset.json").write_text(json.dumps(content))


def change(path: Path, edit) -> None:
    close_files()
    with h5py.File(path, "r+") as file:
        edit(file)
    with h5py.File(path) as file:
        names = [name.decode() for name in file["pairs"]["id"]]
    rename(path, names)


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file["calibration/gain"].__setitem__(0, 3.0),
        lambda file: file["valid"].__setitem__((0, 0), 7),
        lambda file: file.attrs.__setitem__("config_sha256", "other"),
        lambda file: file.attrs.__setitem__("mask_version", 2),
        lambda file: file["calibration/flow"].attrs.__setitem__("note", "else"),
        lambda file: file.attrs.__setitem__("sources", '{"scenes/desk/0000_B.dng":"11"}'),
    ],
)
def test_what_differs_is_not_joined(make_dataset, tmp_path, edit):
    root = make_dataset([DESK, DESK])
    rename(root / "shard-001.h5", ["0003", "0004", "0005"])
    reshard_dataset(root, tmp_path / "joined", 10)
    assert len(open_dataset(tmp_path / "joined").shards) == 1
    change(root / "shard-001.h5", edit)
    reshard_dataset(root, tmp_path / "out", 10)
    assert layout_of(open_dataset(tmp_path / "out")) == [
        ("desk-000.h5", "desk", "train", ("0000", "0001", "0002")),
        ("desk-001.h5", "desk", "train", ("0003", "0004", "0005")),
    ]
    assert stored(tmp_path / "out") == stored(root)


def test_columns_of_other_versions_come_along(make_dataset, tmp_path):
    root = make_dataset([DESK])

    def add_column(file):
        old = file["pairs"][()]
        kept = [(name, old.dtype[name]) for name in old.dtype.names if name != "bump"]
        table = np.zeros(len(old), [*kept, ("mine", "<i4")])
        for name, _ in kept:
            table[name] = old[name]
        table["mine"] = (7, 8, 9)
        del file["pairs"]
        file["pairs"] = table

    change(root / "shard-000.h5", add_column)
    drop_pairs(root, tmp_path / "out", pairs=["desk/0001"])
    samples = list(open_dataset(tmp_path / "out"))
    assert [sample.row["mine"] for sample in samples] == [7, 9]
    assert "bump" not in samples[0].row


def test_merge(make_dataset, tmp_path):
    first = make_dataset([DESK, DOOR], [{"file": "a", "scene": "desk", "pair": "9"}], name="first")
    second = make_dataset([{"scene": "lamp", "size": (40, 40), "seed": 5}], [{"file": "b"}], name="second")
    result = merge_datasets([first, second], tmp_path / "out")
    out = tmp_path / "out"
    assert (result.done, result.notes) == (8, [])
    assert {path.name: path.read_bytes() for path in sorted(first.glob("*.h5"))}.items() <= content(out).items()
    assert layout_of(open_dataset(out)) == [
        ("shard-000.h5", "desk", "train", ("0000", "0001", "0002")),
        ("shard-001.h5", "door", "test", ("0000", "0001")),
        ("lamp-000.h5", "lamp", "train", ("0000", "0001", "0002")),
    ]
    assert stored(out) == stored(first) | stored(second)
    assert verify_shards(out) == []
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["file"], line["scene"], line["pair"]) for line in lines] == [("a", "desk", "9"), ("b", "", "")]
    config = index_of(out)["config"]
    assert config["operation"] == "merge"
    assert [item["fingerprint"] for item in config["sources"]] == [
        open_dataset(first).fingerprint, open_dataset(second).fingerprint,
    ]  # fmt: skip
    assert str(tmp_path) not in (out / "dataset.json").read_text() + (out / "README.md").read_text()


def test_merge_with_prefixes(make_dataset, tmp_path):
    first, second = make_dataset([DESK, DOOR], name="first"), make_dataset([{**DESK, "seed": 7}], name="second")
    with pytest.raises(ConfigError, match=r"another pair desk/0000.*--prefix"):
        merge_datasets([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_datasets([first, second], tmp_path / "out", prefixes=["", "tue/"])
    assert [entry[:3] for entry in layout_of(open_dataset(tmp_path / "out"))] == [
        ("shard-000.h5", "desk", "train"), ("shard-001.h5", "door", "test"),
        ("tue_desk-000.h5", "tue/desk", "train"),
    ]  # fmt: skip
    renamed = {(f"tue/{scene}", name): found for (scene, name), found in stored(second).items()}
    assert stored(tmp_path / "out") == stored(first) | renamed
    with pytest.raises(ConfigError, match="2 sources need as many"):
        merge_datasets([first, second], tmp_path / "other", prefixes=["x"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "test"}, "in split test, another source in train"),
        ({"size": (40, 60)}, "with 60x40, another source with 200x150"),
        ({"seed": 3}, "another pair desk/0000"),
    ],
)
def test_contradictions_are_refused(make_dataset, tmp_path, change, words):
    first, second = make_dataset([DESK], name="first"), make_dataset([{**DESK, **change}], name="second")
    with pytest.raises(ConfigError, match=words):
        merge_datasets([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_pairs_are_taken_once(make_dataset, tmp_path):
    root = make_dataset([DESK, DOOR])
    drop_pairs(root, tmp_path / "some", pairs=["desk/0001", "door/*"])
    result = merge_datasets([tmp_path / "some", root], tmp_path / "out")
    assert "2 pairs were in several sources" in result.notes[0]
    assert stored(tmp_path / "out") == stored(root)


def test_one_scene_in_pieces_and_joined_again(make_dataset, tmp_path):
    root = make_dataset([{**DESK, "pairs": 5}])
    drop_pairs(root, tmp_path / "a", pairs=["desk/000[01]"])
    drop_pairs(root, tmp_path / "b", pairs=["desk/000[234]"])
    merge_datasets([tmp_path / "b", tmp_path / "a"], tmp_path / "both")
    assert len(open_dataset(tmp_path / "both").shards) == 2
    reshard_dataset(tmp_path / "both", tmp_path / "out", 64)
    (shard,) = open_dataset(tmp_path / "out").shards
    assert sorted(shard.ids) == [f"{k:04d}" for k in range(5)] and stored(tmp_path / "out") == stored(root)
    steps = json.loads(shard.attrs["reorganised"])
    assert [step["operation"] for step in steps] == ["drop", "drop", "reshard"]


def test_split(make_dataset, tmp_path):
    root = make_dataset([DESK, DOOR, {**DESK, "scene": "lamp"}], [{"file": "a", "scene": "x"}])
    split_dataset(root, tmp_path / "out", {"val": ["lamp"]})
    splits = {shard.scene: shard.split for shard in open_dataset(tmp_path / "out").shards}
    assert splits == {"desk": "train", "door": "test", "lamp": "val"}
    assert (tmp_path / "out/shard-000.h5").read_bytes() == (root / "shard-000.h5").read_bytes()
    before, after = stored(root), stored(tmp_path / "out")
    assert {key: found[1:] for key, found in before.items()} == {key: found[1:] for key, found in after.items()}
    assert verify_shards(tmp_path / "out") == []
    entries = index_of(tmp_path / "out")["shards"]
    assert [entry["split"] for entry in entries] == ["train", "test", "val"]
    assert index_of(tmp_path / "out")["quarantined"] == 1
    with h5py.File(tmp_path / "out/shard-002.h5") as file:
        assert file.attrs["rewritten_from"] == file_sha256(root / "shard-002.h5")
    split_dataset(tmp_path / "out", tmp_path / "anew", {"test": ["desk"]}, anew=True)
    splits = {shard.scene: shard.split for shard in open_dataset(tmp_path / "anew").shards}
    assert splits == {"desk": "test", "door": "train", "lamp": "train"}
    with pytest.raises(ConfigError, match="names scene 'nope'"):
        split_dataset(root, tmp_path / "other", {"val": ["nope"]})


def test_shares_move_scenes_of_train_only(make_dataset, tmp_path):
    root = make_dataset([{"scene": f"s{k}", "pairs": 1} for k in range(4)] + [{"scene": "held", "split": "test"}])
    split_dataset(root, tmp_path / "out", {"test": 0.25})
    splits = {shard.scene: shard.split for shard in open_dataset(tmp_path / "out").shards}
    assert splits["held"] == "test" and sorted(splits.values()) == ["test", "test", "train", "train", "train"]


def test_drop(make_dataset, tmp_path):
    root = make_dataset(
        [{**DESK, "flags": {1: "bumped,gain"}}, DOOR, {**DESK, "scene": "lamp", "pairs": 4}],
        [{"file": "a", "scene": "x"}],
    )
    out = tmp_path / "out"
    result = drop_pairs(root, out, flags=["gain"], scenes=["doo*"], pairs=["lamp/*2"], listed=["lamp/0000"])
    assert (result.done, result.dropped) == (4, 5)
    before = stored(root)
    assert stored(out) == {
        key: before[key] for key in [("desk", "0000"), ("desk", "0002"), ("lamp", "0001"), ("lamp", "0003")]
    }
    assert layout_of(open_dataset(out))[1] == ("shard-002.h5", "lamp", "train", ("0001", "0003"))
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert (lines[0]["file"], lines[0]["scene"]) == ("a", "x") and index_of(out)["quarantined"] == 6
    assert {(line["scene"], line["pair"], line["stage"]) for line in lines[1:]} == {
        ("desk", "0001", "drop"), ("door", "0000", "drop"), ("door", "0001", "drop"),
        ("lamp", "0000", "drop"), ("lamp", "0002", "drop"),
    }  # fmt: skip
    assert "flag gain" in lines[1]["reason"] and verify_shards(out) == []
    for rules, words in (
        ({"pairs": ["desk/9*"]}, "no pair fits 'pair desk/9"),
        ({"flags": ["gai"]}, "no pair fits 'flag gai'"),
        ({"scenes": ["*"]}, "nothing would be left"),
        ({}, "needs a rule"),
    ):
        with pytest.raises(ConfigError, match=words):
            drop_pairs(root, tmp_path / "other", **rules)
    assert not (tmp_path / "other").exists()


def test_what_an_import_has_recorded_comes_along(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 4})
    (src / "masks/train/s01/00/03.png").write_bytes(b"")
    config = ImportConfig(layout="reloblur", pairs=1, masks={"version": "v1"})
    import_layout(src, tmp_path / "shards", config, licence="CC0")
    reshard_dataset(tmp_path / "shards", tmp_path / "packed", 64)
    drop_pairs(tmp_path / "packed", tmp_path / "out", pairs=["s01/00/01"])
    (shard,) = open_dataset(tmp_path / "out").shards
    assert shard.attrs["mask_version"] == "v1" and set(mask_source(shard)["imported"]) == {"00", "02"}
    assert len(shard.attrs["sources"]) == 9
    index = index_of(tmp_path / "out")
    assert (index["licence"], index["origin"], index["quarantined"]) == ("CC0", "the layout reloblur", 2)
    assert index["config"]["sources"][0]["config"]["sources"][0]["config"]["layout"] == "reloblur"


def test_a_second_run_does_nothing(make_dataset, tmp_path):
    root, out = make_dataset([DESK, DOOR]), tmp_path / "out"
    reshard_dataset(root, out, 2)
    before = content(out)
    result = reshard_dataset(root, out, 2)
    assert (result.done, result.skipped) == (0, 5) and content(out) == before
    (out / "desk-001.h5").write_bytes(b"")
    assert reshard_dataset(root, out, 2).done == 5 and content(out) == before
    with pytest.raises(ConfigError, match=r"other settings \(arguments.pairs: 2 -> 3\)"):
        reshard_dataset(root, out, 3)
    assert content(out) == before
    reshard_dataset(root, out, 5, overwrite=True)
    assert sorted(path.name for path in out.glob("*.h5")) == ["desk-000.h5", "door-000.h5"]
    reshard_dataset(root, tmp_path / "other", 5)
    assert content(out) == content(tmp_path / "other")


def test_stopped_or_killed(make_dataset, tmp_path):
    root, out = make_dataset([DESK, DOOR]), tmp_path / "out"

    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reshard_dataset(root, out, 2, progress=stop)
    assert content(out) == {}
    out.mkdir(exist_ok=True)
    (out / "desk-000.h5.part").write_bytes(b"half")
    (out / "desk-001.h5").write_bytes(b"of a run that was killed")
    assert reshard_dataset(root, out, 2).done == 5
    assert verify_shards(out) == []


def test_foreign_folders_are_left_alone(make_dataset, tmp_path):
    root, out = make_dataset([DESK]), tmp_path / "out"
    out.mkdir()
    for name in ("thesis.tex", "lamp-000.h5"):
        (out / name).touch()
        with pytest.raises(ConfigError, match=name):
            reshard_dataset(root, out, 2)
        (out / name).unlink()
    with pytest.raises(ConfigError, match="the source itself"):
        reshard_dataset(root, root, 2)
    with pytest.raises(ConfigError, match="the source itself"):
        reshard_dataset(root / "shard-000.h5", root, 2)


def test_damage_is_not_copied(make_dataset, tmp_path):
    root = make_dataset([DESK])
    with (root / "shard-000.h5").open("r+b") as stream:
        stream.seek(tile_in(root / "shard-000.h5") + 500)
        stream.write(b"xxxx")
    with pytest.raises(ShardError, match="another sha256"):
        reshard_dataset(root, tmp_path / "out", 2)
    assert content(tmp_path / "out") == {}


def tile_in(path: Path) -> int:
    """Where the first tile of /blur begins in the file."""
    with h5py.File(path) as file:
        return file["blur"].id.get_chunk_info(0).byte_offset


def test_a_full_disk_is_found_out_before(make_dataset, tmp_path, monkeypatch):
    root = make_dataset([DESK])
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ReloError, match="No space left"):
        reshard_dataset(root, tmp_path / "out", 2)
    assert content(tmp_path / "out") == {}


def test_a_single_shard_will_do(make_dataset, tmp_path):
    root = make_dataset([DESK, DOOR])
    reshard_dataset(root / "shard-000.h5", tmp_path / "out", 2)
    assert stored(tmp_path / "out") == {key: found for key, found in stored(root).items() if key[0] == "desk"}
