"""Shards to public layouts and back: nothing that a layout can carry is lost."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support.layouts import content, reloblur

from relo.errors import ConfigError, ShardError
from relo.images import read_image
from relo.shards import open_dataset
from relo.shards.exporting.job import export_layout
from relo.shards.importing.config import ImportConfig
from relo.shards.importing.job import import_layout
from relo.shards.reader import Sample, close_files

# Names that fit a layout and names that do not, next to each other.
SCENES = [
    {"scene": "s01/00", "pairs": 2},
    {"scene": "desk", "split": "test", "size": (40, 52)},
    {"scene": "desk/00", "pairs": 1},
    {"scene": "a/b/c", "split": "val", "pairs": 1},
    {"scene": "why: so?", "pairs": 1},
    {"scene": "Why- so-", "pairs": 1},
]


@pytest.fixture(autouse=True)
def closed():
    yield
    close_files()


def images(sample: Sample) -> dict[str, np.ndarray]:
    found = {"blur": sample.blur, "sharp": sample.sharp, "mask": sample.mask}
    return found | ({} if sample.short is None else {"short": sample.short})


def everything(path: Path) -> dict[tuple[str, str, str], dict[str, np.ndarray]]:
    return {(sample.split, sample.scene, sample.id): images(sample) for sample in open_dataset(path)}


def assert_equal(first: Path, second: Path) -> None:
    one, two = everything(first), everything(second)
    assert set(one) == set(two)
    for key in one:
        assert set(one[key]) == set(two[key])
        for name, image in one[key].items():
            assert image.dtype == two[key][name].dtype
            assert np.array_equal(image, two[key][name]), (key, name)


@pytest.mark.parametrize("layout", ["reloblur", "pairs"])
@pytest.mark.parametrize("bits", [8, 16])
def test_round_trip(make_dataset, tmp_path, layout, bits):
    root = make_dataset([{**scene, "bits": bits, "short": True} for scene in SCENES])
    result = export_layout(layout, root, tmp_path / "png")
    assert (result.done, result.skipped, result.problems) == (9, 0, [])
    again = import_layout(tmp_path / "png", tmp_path / "back", ImportConfig(layout=layout))
    assert again.quarantined == [] and again.mask_version == "relo"
    assert_equal(root, tmp_path / "back")


@pytest.mark.parametrize("layout", ["reloblur", "pairs"])
def test_unusual_pair_names_come_back(make_dataset, tmp_path, layout):
    root = make_dataset([{"scene": "desk", "pairs": 6}])
    names = ["a/b", "...", ".hidden", "x_blur", "A B.c", "a_b"]
    with h5py.File(root / "shard-000.h5", "r+") as file:
        table = file["pairs"][()]
        table["id"] = [name.encode() for name in names]
        file["pairs"][...] = table
    close_files()
    export_layout(layout, root, tmp_path / "png")
    import_layout(tmp_path / "png", tmp_path / "back", ImportConfig(layout=layout))
    assert {key[2] for key in everything(tmp_path / "back")} == set(names)
    assert_equal(root, tmp_path / "back")


def test_a_public_folder_survives_both_ways(tmp_path):
    src = reloblur(tmp_path / "src", short=True)
    import_layout(
        src, tmp_path / "shards", ImportConfig(layout="reloblur", masks={"version": "v1"}), licence="CC BY 4.0"
    )
    export_layout("reloblur", tmp_path / "shards", tmp_path / "png")
    one, two = content(src), content(tmp_path / "png")
    manifest = json.loads(two.pop("relo-export.json"))
    assert set(one) == set(two)
    for name in one:
        assert np.array_equal(read_image(src / name), read_image(tmp_path / "png" / name))
    assert (manifest["licence"], manifest["mask_version"], manifest["scenes"]) == ("CC BY 4.0", "v1", {})
    assert str(tmp_path) not in json.dumps(manifest)
    import_layout(tmp_path / "png", tmp_path / "again", ImportConfig(layout="reloblur"))
    index = json.loads((tmp_path / "again" / "dataset.json").read_text())
    assert (index["licence"], index["config"]["masks"]["version"]) == ("CC BY 4.0", "v1")


def test_masks_that_stand_for_none_are_not_written(tmp_path):
    src = reloblur(tmp_path / "src", masks=False)
    import_layout(src, tmp_path / "shards", ImportConfig(layout="reloblur"))
    export_layout("pairs", tmp_path / "shards", tmp_path / "png")
    assert not list((tmp_path / "png").rglob("mask"))
    result = import_layout(tmp_path / "png", tmp_path / "back", ImportConfig(layout="pairs"))
    assert result.mask_version == "ones"
    assert_equal(tmp_path / "shards", tmp_path / "back")


def test_names_of_the_public_loader(make_dataset, tmp_path):
    """Its glob is {split}/*/*/*sharp.png."""
    root = make_dataset([{"scene": "desk", "pairs": 2}, {"scene": "s01/00", "split": "test", "pairs": 1}])
    export_layout("reloblur", root, tmp_path / "png")
    frames = tmp_path / "png/dataset"
    found = {
        split: sorted(path.relative_to(frames).as_posix() for path in frames.glob(f"{split}/*/*/*sharp.png"))
        for split in ("train", "test")
    }
    assert found == {
        "train": ["train/desk/00/0000_sharp.png", "train/desk/00/0001_sharp.png"],
        "test": ["test/s01/00/0000_sharp.png"],
    }
    assert (tmp_path / "png/masks/train/desk/00/0001.png").is_file()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        assert all((info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644) for info in tar)
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., ::-1]


@pytest.mark.parametrize("bits", [8, 16])
def test_webdataset(make_dataset, tmp_path, bits):
    root = make_dataset([{**scene, "bits": bits, "short": True, "flags": {0: "gain"}} for scene in SCENES])
    result = export_layout("webdataset", root, tmp_path / "tars", pairs_a_tar=2)
    assert result.done == 9
    tars = sorted(path.name for path in (tmp_path / "tars").glob("*.tar"))
    assert tars == [
        "test-000000.tar",
        "test-000001.tar",
        *(f"train-00000{k}.tar" for k in range(3)),
        "val-000000.tar",
    ]
    wanted = everything(root)
    keys = set()
    for name in tars:
        found = members(tmp_path / "tars" / name)
        samples: dict[str, dict[str, bytes]] = {}
        for member, data in found.items():
            key, _, extension = member.partition(".")
            samples.setdefault(key, {})[extension] = data
        assert len(samples) <= 2
        assert list(found) == [f"{key}.{extension}" for key in samples for extension in samples[key]], "in one run"
        for key, sample in samples.items():
            assert key not in keys
            keys.add(key)
            about = json.loads(sample.pop("json"))
            assert about["t_long"] == 0.04 and "short_scale" not in about and about["mask_version"] == 1
            pair = wanted.pop((about["split"], about["scene"], about["id"]))
            assert about["flags"] == ("gain" if about["id"] == "0000" else "")
            assert set(sample) == {f"{role}.png" for role in pair}
            for role, image in pair.items():
                assert np.array_equal(decoded(sample[f"{role}.png"]), image)
    assert wanted == {}
    export_layout("webdataset", root, tmp_path / "other", pairs_a_tar=2)
    assert content(tmp_path / "tars") == content(tmp_path / "other")


def test_one_split_or_one_shard(make_dataset, tmp_path):
    root = make_dataset(SCENES)
    assert export_layout("pairs", root, tmp_path / "a", split="test").done == 3
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"test", "relo-export.json"}
    assert export_layout("pairs", root / "shard-000.h5", tmp_path / "b").done == 2
    with pytest.raises(ShardError, match="no split 'nope'"):
        export_layout("pairs", root, tmp_path / "c", split="nope")


@pytest.mark.parametrize("layout", ["reloblur", "webdataset"])
def test_a_second_run_continues(make_dataset, tmp_path, layout):
    root, out = make_dataset([{"pairs": 5}]), tmp_path / "out"

    def stop(done, total, what):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_layout(layout, root, out, pairs_a_tar=2, progress=stop)
    assert not list(out.rglob("*.part"))
    there = len(content(out))
    if layout == "reloblur":
        (out / "dataset/train/scene_00/00/0004_blur.png.part").write_bytes(b"half")
    result = export_layout(layout, root, out, pairs_a_tar=2)
    assert (result.done, result.skipped) == ((2, 3) if layout == "reloblur" else (3, 2))
    assert there < len(content(out))
    export_layout(layout, root, tmp_path / "once", pairs_a_tar=2)
    assert content(out) == content(tmp_path / "once")
    result = export_layout(layout, root, out, pairs_a_tar=2)
    assert (result.done, result.skipped) == (0, 5)


def test_folders_of_others(make_dataset, tmp_path):
    first, second = (
        make_dataset([{"pairs": 3}], name="first"),
        make_dataset([{"pairs": 1, "seed": 9}], name="second"),
    )
    out = tmp_path / "out"
    export_layout("pairs", first, out)
    (out / "notes.txt").touch()
    before = content(out)
    for layout, root in (("pairs", second), ("reloblur", first)):
        with pytest.raises(ConfigError, match="another dataset, or in another form"):
            export_layout(layout, root, out)
    assert content(out) == before
    export_layout("pairs", second, out, overwrite=True)
    assert sorted(content(out)) == [
        "notes.txt", "relo-export.json",
        *(f"train/{role}/scene_00/0000.png" for role in ("blur", "mask", "sharp")),
    ]  # fmt: skip
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds other files"):
            export_layout("pairs", second, first, overwrite=overwrite)


def test_a_manifest_cannot_reach_outside(make_dataset, tmp_path):
    root, out = make_dataset(), tmp_path / "out"
    export_layout("pairs", root, out)
    precious = tmp_path / "precious"
    precious.touch()
    manifest = json.loads((out / "relo-export.json").read_text())
    manifest["files"] += ["../precious", str(precious)]
    (out / "relo-export.json").write_text(json.dumps(manifest))
    export_layout("pairs", root, out, overwrite=True)
    assert precious.is_file()


def test_splits_that_the_layout_does_not_know(make_dataset, tmp_path):
    root = make_dataset([{"split": "fold1"}])
    for layout in ("reloblur", "pairs"):
        with pytest.raises(ConfigError, match="'fold1'"):
            export_layout(layout, root, tmp_path / "out")
    assert export_layout("webdataset", root, tmp_path / "out").done == 3


def damage(path: Path) -> None:
    """Make the blurred frame of the second pair undecodable."""
    with h5py.File(path, "r+") as file:
        _, data = file["blur"].id.read_direct_chunk((1, 0, 0, 0))
        file["blur"].id.write_direct_chunk((1, 0, 0, 0), bytes(len(data)))
    close_files()


@pytest.mark.parametrize("layout", ["reloblur", "webdataset"])
def test_pairs_that_cannot_be_read_are_told(make_dataset, tmp_path, layout):
    root, out = make_dataset(), tmp_path / "out"
    damage(root / "shard-000.h5")
    for done in (2, 0 if layout == "reloblur" else 2):
        result = export_layout(layout, root, out)
        assert (result.done, [problem.pair for problem in result.problems]) == (done, ["0001"])
    if layout == "reloblur":
        assert not [name for name in content(out) if "0001" in name]
    else:
        names = list(members(out / "train-000000.tar"))
        assert len(names) == 8 and not [name for name in names if "0001" in name]


def test_what_is_lost_is_said(make_dataset, tmp_path):
    root = make_dataset([{"bits": 16}])
    notes = export_layout("reloblur", root, tmp_path / "out").notes
    assert any("/valid" in note for note in notes) and any("16 bits" in note for note in notes)


def test_png_of_a_tar_is_what_other_readers_expect(make_dataset, tmp_path):
    from PIL import Image

    root = make_dataset([{"pairs": 1}])
    export_layout("webdataset", root, tmp_path / "tars")
    found = members(tmp_path / "tars/train-000000.tar")
    sample = open_dataset(root)[0]
    for role in ("blur", "sharp", "mask"):
        data = found[f"scene_00-0000.{role}.png"]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), getattr(sample, role))
