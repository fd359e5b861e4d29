"""Public layouts to shards: every pixel, every reason, and nothing done twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from support.layouts import SIZE, blob, content, noise, reloblur, two_folders

from relo import atomic
from relo.errors import ConfigError, ReloError, ShardError
from relo.images import read_image, write_image
from relo.masks.external import write_mask
from relo.shards import open_dataset
from relo.shards.config import moved_splits
from relo.shards.importing.config import ImportConfig, MaskSettings
from relo.shards.importing.job import import_layout
from relo.shards.importing.plan import make_plan, needed_space
from relo.shards.inspect import verify_shards
from relo.shards.mask_stores.shards import mask_source
from relo.shards.reader import close_files

V1 = MaskSettings(version="v1")


@pytest.fixture(autouse=True)
def closed():
    yield
    close_files()


def load(src: Path, out: Path, layout="reloblur", masks_folder: Path | None = None, **settings):
    options = ("blur", "sharp", "licence", "jobs", "overwrite")
    given = {key: settings.pop(key) for key in options if key in settings}
    return import_layout(src, out, ImportConfig(layout=layout, **settings), masks=masks_folder, **given)


def quarantine(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def by_name(out: Path) -> dict[tuple[str, str, str], object]:
    return {(sample.split, sample.scene, sample.id): sample for sample in open_dataset(out)}


@pytest.mark.parametrize("bits", [8, 16])
def test_reloblur(tmp_path, bits):
    src, out = reloblur(tmp_path / "src", bits=bits, short=True), tmp_path / "out"
    result = load(src, out, masks=V1, licence="CC BY-NC-SA 4.0")
    assert (result.done, result.skipped, result.quarantined, result.mask_version) == (7, 0, [], "v1")
    samples = by_name(out)
    assert len(samples) == 7
    for (split, scene, name), sample in samples.items():
        frames = src / "dataset" / split / scene
        assert np.array_equal(sample.blur, read_image(frames / f"{name}_blur.png"))
        assert np.array_equal(sample.sharp, read_image(frames / f"{name}_sharp.png"))
        assert np.array_equal(sample.short, read_image(src / "short" / split / scene / f"{name}.png"))
        assert np.array_equal(sample.mask, read_image(src / "masks" / split / scene / f"{name}.png")[..., 0])
        assert sample.shard.bits == bits and (sample.valid == 255).all()
        assert sample.row["blur_fraction"] == pytest.approx((sample.mask > 0).mean())
        assert sample.row["mask_fragments"] == 1 and np.isnan(sample.row["psnr"])
    assert {path.name for path in out.glob("*.h5")} == {"s01_00-000.h5", "s02_00-000.h5", "s03_01-000.h5"}
    assert verify_shards(out) == []
    shard = open_dataset(out).shards[0]
    assert shard.attrs["mask_version"] == "v1"
    assert set(shard.attrs["sources"]) == {
        *(f"dataset/train/s01/00/{k:02d}_{role}.png" for k in range(3) for role in ("blur", "sharp")),
        *(f"{kind}/train/s01/00/{k:02d}.png" for k in range(3) for kind in ("masks", "short")),
    }
    assert shard.attrs["sources"]["masks/train/s01/00/01.png"] == atomic.file_sha256(
        src / "masks/train/s01/00/01.png"
    )
    index = json.loads((out / "dataset.json").read_text())
    assert index["licence"] == "CC BY-NC-SA 4.0" and index["config"]["masks"]["version"] == "v1"


def test_resized_frames_are_like_any_other(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 1}, size=(359, 538))
    load(src, tmp_path / "out")
    assert open_dataset(tmp_path / "out").shards[0].size == (359, 538)


def test_masks_above_the_threshold(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 3})
    folder = src / "masks/train/s01/00"
    grey = np.zeros(SIZE, np.uint8)
    grey[2:5], grey[8:10] = 127, 255
    write_mask(folder / "00.png", grey)
    cv2.imwrite(str(folder / "01.png"), grey.astype(np.uint16) * 257)
    (folder / "02.png").unlink()
    cv2.imwrite(str(folder / "02.jpg"), np.where(grey == 255, 255, 0).astype(np.uint8))
    result = load(src, tmp_path / "zero", masks=V1)
    assert any("masks hold values between" in note for note in result.notes)
    load(src, tmp_path / "half", masks=MaskSettings(version="v1", threshold=127))
    for out, level in ((tmp_path / "zero", 1), (tmp_path / "half", 128)):
        found = [sample.mask for sample in open_dataset(out)]
        expected = np.where(grey >= level, 255, 0)
        assert np.array_equal(found[0], expected) and np.array_equal(found[1], expected)
        assert ((found[2] > 0) & (grey == 255)).sum() == (grey == 255).sum()


def test_masks_from_another_folder(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 2}, masks=False)
    others = tmp_path / "downloads"
    for name in ("00", "01"):
        write_mask(others / "masks/train/s01/00" / f"{name}.png", blob(int(name)))
    result = load(src, tmp_path / "out", masks_folder=others, masks=MaskSettings(version="annotated"))
    assert result.mask_version == "annotated" and result.quarantined == []
    shard = open_dataset(tmp_path / "out").shards[0]
    assert "masks:masks/train/s01/00/00.png" in shard.attrs["sources"]
    source = mask_source(shard)
    assert source["method"] == "published" and source["imported"]["01"]["file"] == "train/s01/00/01.png"
    assert str(tmp_path) not in json.dumps(shard.attrs)


def test_without_masks_everything_counts_as_blurred(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 1}, masks=False)
    result = load(src, tmp_path / "out")
    sample = open_dataset(tmp_path / "out")[0]
    assert result.mask_version == sample.shard.attrs["mask_version"] == "ones"
    assert (sample.mask == 255).all() and sample.row["flags"] == ""
    assert mask_source(sample.shard)["method"] == "ones"
    with pytest.raises(ConfigError, match="there are no masks"):
        load(src, tmp_path / "other", masks=V1)


def damage_reloblur(src: Path) -> None:
    train, masks = src / "dataset/train/s01/00", src / "masks/train/s01/00"
    (train / "00_sharp.png").unlink()
    (train / "01_blur.png").write_bytes(b"")
    (train / "02_sharp.png").write_bytes((train / "02_sharp.png").read_bytes()[:-40])
    (train / "03_sharp.png").write_bytes(b"no image")
    write_image(train / "04_sharp.png", noise(1, (20, 30)))
    write_image(train / "05_sharp.png", noise(1, bits=16))
    (masks / "06.png").unlink()
    (masks / "07.png").write_bytes(b"")
    write_mask(masks / "08.png", blob(0, (10, 10)))
    write_image(masks / "09.png", noise(5))
    Image.fromarray(noise(3)).quantize(16).save(train / "10_blur.png")
    cv2.imwrite(str(train / "11_blur.png"), noise(3)[..., 0])
    cv2.imwrite(str(train / "12_blur.png"), np.dstack([noise(3), noise(4)[..., :1]]))
    write_image(train / "13_blur.tif", noise(3))
    write_image(masks / "14.tif", noise(3))
    (masks / "15.png").write_bytes((masks / "15.png").read_bytes()[:-20])


def test_whatever_cannot_be_used_is_told_apart(tmp_path):
    src, out = reloblur(tmp_path / "src", {"train/s01/00": 18}), tmp_path / "out"
    damage_reloblur(src)
    result = load(src, out, masks=V1)
    found = {entry["pair"]: entry for entry in quarantine(out)}
    reasons = {pair: entry["reason"] for pair, entry in found.items()}
    expected = {
        "00": "has no partner", "01": "is empty (0 bytes)", "02": "is damaged or truncated",
        "03": "is no readable PNG", "04": "is 30x20 of 8 bits, its partner 04_blur.png is 28x20",
        "05": "is 28x20 of 16 bits", "06": "mask is missing", "07": "mask is empty (0 bytes)",
        "08": "mask is 10x10, the frame is 28x20", "09": "mask holds colours", "10": "is a palette image",
        "11": "is a grey image", "12": "has an alpha channel", "13": "is a second file for the same frame",
        "14": "is a second file for the same mask", "15": "mask is damaged or truncated",
    }  # fmt: skip
    assert set(reasons) == set(expected)
    for pair, words in expected.items():
        assert words in reasons[pair], pair
    assert len(set(reasons.values())) == len(expected)
    for entry in found.values():
        assert set(entry) == {"file", "reason", "advice", "scene", "pair", "stage"}
        assert entry["advice"] and entry["scene"] == "s01/00" and not Path(entry["file"]).is_absolute()
    assert (result.done, len(result.quarantined)) == (2, 16)
    assert [sample.id for sample in open_dataset(out)] == ["16", "17"]
    before = content(out)
    again = load(src, out, masks=V1)
    assert (again.done, again.skipped, again.changed) == (0, 2, False)
    assert content(out) == before and len(again.quarantined) == 16


def test_unusual_colours_on_demand(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 3})
    train = src / "dataset/train/s01/00"
    cv2.imwrite(str(train / "01_blur.png"), noise(3)[..., 0])
    cv2.imwrite(str(train / "02_blur.png"), np.dstack([noise(3), noise(4)[..., :1]]))
    result = load(src, tmp_path / "out", convert=True)
    assert result.quarantined == []
    for sample in open_dataset(tmp_path / "out"):
        assert np.array_equal(sample.blur, read_image(train / f"{sample.id}_blur.png"))


def test_a_shard_whose_pairs_are_all_bad_is_not_written(tmp_path):
    src, out = reloblur(tmp_path / "src", {"train/s01/00": 1, "train/s02/00": 1}), tmp_path / "out"
    (src / "masks/train/s01/00/00.png").write_bytes(b"")
    for done in (1, 0):
        result = load(src, out)
        assert (result.done, [path.name for path in result.shards]) == (done, ["s02_00-000.h5"])
        assert len(quarantine(out)) == 1


def test_depth_on_demand(tmp_path):
    eight = reloblur(tmp_path / "eight", {"train/s01/00": 1})
    sixteen = reloblur(tmp_path / "sixteen", {"train/s01/00": 1}, bits=16)
    load(eight, tmp_path / "a", bits=16)
    load(sixteen, tmp_path / "b", bits=8)
    assert np.array_equal(open_dataset(tmp_path / "a")[0].blur, noise(3).astype(np.uint16) * 257)
    wide = open_dataset(tmp_path / "b")[0].blur.astype(int) * 257 - noise(3, bits=16).astype(int)
    assert np.abs(wide).max() <= 128


def test_sizes_and_depths_of_one_scene_go_to_parts(tmp_path):
    src = tmp_path / "src"
    for k, (size, bits) in enumerate([(SIZE, 8), ((16, 24), 8), (SIZE, 8), (SIZE, 16), ((16, 24), 8), (SIZE, 8)]):
        for role in ("blur", "gt"):
            path = src / f"RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/{role}/{role}_{k + 1}.png"
            write_image(path, noise(k + 50 * (role == "gt"), size, bits))
    load(src, tmp_path / "out", layout="realblur", pairs=2)
    shards = open_dataset(tmp_path / "out").shards
    assert [(shard.path.name, shard.size, shard.bits, shard.ids) for shard in shards] == [
        ("scene001-000.h5", SIZE, 8, ("1", "3")),
        ("scene001-001.h5", SIZE, 8, ("6",)),
        ("scene001-002.h5", (16, 24), 8, ("2", "5")),
        ("scene001-003.h5", SIZE, 16, ("4",)),
    ]
    assert {shard.scene for shard in shards} == {"scene001"}
    for sample in open_dataset(tmp_path / "out"):
        assert np.array_equal(sample.blur, noise(int(sample.id) - 1, sample.size, sample.shard.bits))
        assert np.array_equal(sample.sharp, noise(int(sample.id) + 49, sample.size, sample.shard.bits))


def realblur(src: Path, variant: str = "J", lists: bool = True) -> Path:
    folder = f"RealBlur-{variant}_ECC_IMCORR_centroid_itensity_ref"
    for split, scenes in (("train", ("scene002", "scene001")), ("test", ("scene010",))):
        lines = []
        for scene in scenes:
            for k in (1, 2, 10):
                names = [f"{folder}/{scene}/{role}/{role}_{k}.png" for role in ("gt", "blur")]
                for number, name in enumerate(names):
                    write_image(src / name, noise(k + 100 * number))
                lines.append(" ".join(names))
        if lists:
            (src / f"RealBlur_{variant}_{split}_list.txt").write_text("\n".join(lines) + "\n")
    return src


def test_realblur_lists(tmp_path):
    src, out = realblur(tmp_path / "src"), tmp_path / "out"
    path = src / "RealBlur_J_train_list.txt"
    lines = path.read_text().splitlines()
    lines[0] = " ".join(reversed(lines[0].split()))  # the names say which is which
    folder = lines[0].split()[0].split("/")[0]
    lines += [
        "nonsense",
        lines[1],
        f"{folder}/scene001/gt/gt_1.png {folder}/scene001/blur/blur_2.png",
        f"{folder}/scene001/gt/gt_7.png {folder}/scene001/blur/blur_7.png",
        "/etc/gt/gt_1.png /etc/blur/blur_1.png",
    ]
    path.write_text("\n".join(lines))
    result = load(src, out, layout="realblur")
    samples = by_name(out)
    assert list(samples)[:2] == [("train", "scene001", "1"), ("train", "scene001", "2")]
    assert {(split, scene) for split, scene, _ in samples} == {
        ("train", "scene001"), ("train", "scene002"), ("test", "scene010"),
    }  # fmt: skip
    sample = samples["train", "scene002", "1"]
    assert np.array_equal(sample.blur, noise(101)) and np.array_equal(sample.sharp, noise(1))
    reasons = sorted(problem.reason for problem in result.quarantined)
    assert len(result.quarantined) == 6
    assert sum("several pairs of that name" in reason for reason in reasons) == 2
    assert sum("names no gt and blur file" in reason for reason in reasons) == 2
    assert any(reason.startswith("line 9 pairs") for reason in reasons) and "is missing" in reasons
    assert sample.shard.attrs["mask_version"] == "ones"


def test_realblur_of_two_renderings_wants_a_choice(tmp_path):
    src = realblur(realblur(tmp_path / "src"), "R")
    with pytest.raises(ConfigError, match="--variant"):
        load(src, tmp_path / "out", layout="realblur")
    load(src, tmp_path / "out", layout="realblur", variant="R")
    assert all(
        "RealBlur-R" in name for shard in open_dataset(tmp_path / "out").shards for name in shard.attrs["sources"]
    )
    with pytest.raises(ConfigError, match="holds no RealBlur-R"):
        load(realblur(tmp_path / "j"), tmp_path / "other", layout="realblur", variant="R")


def test_realblur_folders(tmp_path):
    src = realblur(tmp_path / "src", lists=False)
    (src / "RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/gt/gt_2.png").unlink()
    for given in (src, src / "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"):
        out = tmp_path / f"out-{given.name}"
        result = load(given, out, layout="realblur", split={"test": ["scene010"]})
        assert set(by_name(out)) == {
            (split, scene, k)
            for split, scene in (("train", "scene001"), ("train", "scene002"), ("test", "scene010"))
            for k in ("1", "2", "10")
            if (scene, k) != ("scene001", "2")
        }
        assert [(p.scene, p.pair) for p in result.quarantined] == [("scene001", "2")]


def test_gopro_as_published(tmp_path):
    src = tmp_path / "GOPRO_Large"
    for split, scene in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00")):
        two_folders(src / split / scene, ["000047", "000048"])
        two_folders(src / split / scene, ["000047"], ("blur_gamma", "sharp"), seed=300)
    write_image(src / "train/GOPR0372_07_00/blur/000049.png", noise(1))
    result = load(src, tmp_path / "out", layout="gopro")
    assert set(by_name(tmp_path / "out")) == {
        (split, scene, name)
        for split, scene in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00"))
        for name in ("000047", "000048")
    }
    sample = open_dataset(tmp_path / "out")[0]
    assert (sample.mask == 255).all() and sample.shard.attrs["mask_version"] == "ones"
    assert [problem.pair for problem in result.quarantined] == ["000049"]
    load(src, tmp_path / "gamma", layout="gopro", gamma=True)
    samples = by_name(tmp_path / "gamma")
    assert np.array_equal(samples["train", "GOPR0372_07_00", "000047"].blur, noise(300))


@pytest.mark.parametrize("roles", [("blur", "sharp"), ("input", "target")])
@pytest.mark.parametrize("mark", ["_", "-"])
def test_gopro_flattened(tmp_path, roles, mark):
    src = tmp_path / "src"
    two_folders(src / "train", [f"GOPR0372_07_00{mark}000047", f"GOPR0372_07_01{mark}000047"], roles)
    two_folders(src / "test", [f"GOPR0384_11_00{mark}000001", "unknown"], roles)
    load(src, tmp_path / "out", layout="gopro")
    assert set(by_name(tmp_path / "out")) == {
        ("train", "GOPR0372_07_00", "000047"), ("train", "GOPR0372_07_01", "000047"),
        ("test", "GOPR0384_11_00", "000001"), ("test", "test", "unknown"),
    }  # fmt: skip


def test_pairs_in_every_arrangement(tmp_path):
    src = tmp_path / "src"
    two_folders(src, ["b", "a"])
    load(src, tmp_path / "flat", layout="pairs", scene="desk")
    assert set(by_name(tmp_path / "flat")) == {("train", "desk", "a"), ("train", "desk", "b")}
    trees = tmp_path / "trees"
    two_folders(trees / "train", ["door/0001", "door/0002", "wall/1/0001"])
    two_folders(trees / "test/lamp", ["0001"])
    two_folders(trees / "test/rug", ["x/0001"])
    load(trees, tmp_path / "deep", layout="pairs")
    assert set(by_name(tmp_path / "deep")) == {
        ("train", "door", "0001"), ("train", "door", "0002"), ("train", "wall/1", "0001"),
        ("test", "lamp", "0001"), ("test", "rug/x", "0001"),
    }  # fmt: skip


def test_pairs_are_matched_by_name(tmp_path):
    src = two_folders(tmp_path / "src", ["0001", "0002", "0003"])
    (src / "sharp/0002.png").rename(src / "sharp/0004.png")
    image = read_image(src / "sharp/0003.png")
    (src / "sharp/0003.png").unlink()
    write_image(src / "sharp/0003.tif", image)
    result = load(src, tmp_path / "out", layout="pairs")
    samples = by_name(tmp_path / "out")
    assert {name for _, _, name in samples} == {"0001", "0003"}
    assert np.array_equal(samples["train", "scene", "0003"].sharp, image)
    assert {(p.pair, p.reason) for p in result.quarantined} == {
        ("0002", "has no sharp partner of the name 0002"), ("0004", "has no blur partner of the name 0004"),
    }  # fmt: skip


@pytest.mark.parametrize("inside", [True, False])
def test_pairs_of_any_two_folders(tmp_path, inside):
    src = two_folders(tmp_path / "src", ["0001"], ("input", "target"))
    for role in ("mask", "short"):
        write_image(src / role / "0001.png", np.dstack([blob(1)] * 3))
    names = ("input", "target") if inside else (str(src / "input"), str(src / "target"))
    result = load(src, tmp_path / "out", layout="pairs", blur=names[0], sharp=names[1])
    sample = open_dataset(tmp_path / "out")[0]
    assert (
        np.array_equal(sample.mask, blob(1))
        and sample.short is not None
        and np.array_equal(sample.sharp, noise(101))
    )
    assert result.mask_version == "unknown" and "--mask-version" in result.notes[0]
    assert set(sample.shard.attrs["sources"]) == {
        f"{role}/0001.png" for role in ("input", "target", "mask", "short")
    }


def test_folders_from_where_one_stands(tmp_path, monkeypatch):
    two_folders(tmp_path, ["0001"], ("input", "target"))
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    load(Path("src"), Path("out"), layout="pairs", blur="input", sharp="target")
    (shard,) = open_dataset("out").shards
    assert set(shard.attrs["sources"]) == {"blur:0001.png", "sharp:0001.png"}


@pytest.mark.parametrize("given", ["", "dataset", "dataset/train"])
def test_any_folder_of_the_tree_will_do(tmp_path, monkeypatch, given):
    src = reloblur(tmp_path / "src", {"train/s01/00": 1}, short=True)
    monkeypatch.chdir(src / given)
    assert load(Path(), tmp_path / "out", masks=V1).quarantined == []
    sample = open_dataset(tmp_path / "out")[0]
    assert sample.short is not None and np.array_equal(sample.mask, blob(3))
    assert all("/" in name and not name.startswith("/") for name in sample.shard.attrs["sources"])


def test_a_second_run_continues(tmp_path, monkeypatch):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    steps = []

    def stop(done, total, what):
        steps.append((done, total, what))
        if done == 4:
            raise KeyboardInterrupt

    config = ImportConfig(layout="reloblur", pairs=2, masks=V1)
    with pytest.raises(KeyboardInterrupt):
        import_layout(src, out, config, progress=stop)
    assert steps[0] == (1, 7, "s01/00/00")
    assert sorted(content(out)) == ["s01_00-000.h5", "s01_00-001.h5"]
    (out / "s02_00-000.h5.part").write_bytes(b"half")
    result = import_layout(src, out, config)
    assert (result.done, result.skipped) == (4, 3)
    assert verify_shards(out) == []
    once = import_layout(src, tmp_path / "once", config)
    assert once.done == 7 and content(tmp_path / "once") == content(out)


def test_changed_sources_are_read_again(tmp_path):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    load(src, out, masks=V1)
    write_image(src / "dataset/train/s01/00/01_blur.png", noise(999))
    result = load(src, out, masks=V1)
    assert (result.done, result.skipped) == (3, 4)
    assert np.array_equal(by_name(out)["train", "s01/00", "01"].blur, noise(999))
    for path in (src / "dataset/train/s02/00").iterdir():
        path.unlink()
    load(src, out, masks=V1)
    assert sorted(path.name for path in out.glob("*.h5")) == ["s01_00-000.h5", "s03_01-000.h5"]


def test_other_settings_are_refused(tmp_path):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    load(src, out, masks=V1, licence="mine")
    before = content(out)
    with pytest.raises(ConfigError, match=r"masks.version: v1 -> annotated.*--overwrite"):
        load(src, out, masks=MaskSettings(version="annotated"))
    assert content(out) == before
    load(src, out, masks=V1)
    assert content(out) == before, "the licence stays"
    load(src, out, masks=MaskSettings(version="annotated"), pairs=1, overwrite=True)
    assert len(list(out.glob("*.h5"))) == 7


def test_foreign_folders_are_left_alone(tmp_path):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"thesis\.tex"):
            load(src, out, overwrite=overwrite)
    (out / "thesis.tex").rename(out / "README.md")
    with pytest.raises(ConfigError, match=r"README\.md"):
        load(src, out)
    with pytest.raises(ConfigError, match="the source itself"):
        load(src, src)
    with pytest.raises(ConfigError, match="is a file"):
        load(src, src / "dataset/train/s01/00/00_blur.png")


def test_a_full_disk_is_found_out_before(tmp_path, monkeypatch):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    config = ImportConfig(layout="reloblur")
    needed = needed_space(make_plan(src, out, config))
    load(src, tmp_path / "there")
    written = sum(path.stat().st_size for path in (tmp_path / "there").glob("*.h5"))
    assert 7 * 20 * 28 * 7 * 0.5 < needed < 2 * written
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(ReloError, match="No space left"):
        load(src, out)
    assert not out.exists() or content(out) == {}
    assert needed_space(make_plan(src, tmp_path / "there", config)) == 0


def test_jobs_change_nothing(tmp_path):
    src = reloblur(tmp_path / "src")
    (src / "masks/train/s01/00/01.png").write_bytes(b"")
    load(src, tmp_path / "one", masks=V1)
    load(src, tmp_path / "two", masks=V1, jobs=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_names_of_files_do_not_clash(tmp_path):
    src = tmp_path / "src"
    two_folders(src, ["a/b/0001", "a_b/0001", "A_B/0001"])
    load(src, tmp_path / "out", layout="pairs")
    shards = open_dataset(tmp_path / "out").shards
    assert {shard.scene for shard in shards} == {"a/b", "a_b", "A_B"}
    assert len({shard.path.name.lower() for shard in shards}) == 3


def test_a_scene_in_two_splits_is_refused(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 1, "test/s01/00": 1})
    with pytest.raises(ConfigError, match="is in train and in test"):
        load(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_cannot_be_stored_are_left_out(tmp_path):
    src = two_folders(tmp_path / "src", ["x" * 65, "y" * 64, "a\\b", os.fsdecode(b"\xff"), "new\nline"])
    result = load(src, tmp_path / "out", layout="pairs")
    assert result.done == 1 and len(open_dataset(tmp_path / "out")) == 1
    reasons = sorted(problem.reason for problem in result.quarantined)
    assert reasons == ["has a name longer than 64 bytes"] + ["has a name that no shard can hold"] * 3
    assert len(quarantine(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("reloblur", "not laid out"),
        ("gopro", "neither train nor test"),
        ("realblur", "holds no pair"),
        ("pairs", "no folders"),
    ],
)
def test_other_folders_are_refused(tmp_path, layout, words):
    (tmp_path / "src").mkdir()
    with pytest.raises(ShardError, match=words):
        load(tmp_path / "src", tmp_path / "out", layout=layout)
    with pytest.raises(ShardError, match="is no folder"):
        load(tmp_path / "none", tmp_path / "out", layout=layout)


def test_options_of_other_layouts_are_refused(tmp_path):
    src = reloblur(tmp_path / "src")
    for settings, option in (
        ({"gamma": True}, "--gamma"),
        ({"variant": "J"}, "--variant"),
        ({"blur": "x"}, "--blur"),
    ):
        with pytest.raises(ConfigError, match=f"knows no {option}"):
            load(src, tmp_path / "out", **settings)


def test_moving_scenes_leaves_test_scenes_alone():
    current = {f"a{k}": "train" for k in range(10)} | {"t0": "test", "t1": "test"}
    moved = moved_splits(current, {"val": 0.2})
    assert sum(split == "val" for split in moved.values()) == 2
    assert moved["t0"] == moved["t1"] == "test"
    assert moved_splits(current, {"val": 0.2}, seed=1) != moved
    moved = moved_splits(current, {"train": ["t0"], "test": ["a3"]})
    assert (moved["t0"], moved["a3"], moved["t1"], moved["a4"]) == ("train", "test", "test", "train")
    assert moved_splits(current, {}) == current
    for wanted, words in (
        ({"val": ["zz"]}, "names scene 'zz'"),
        ({"val": 0.96}, "leaves none"),
        ({"a b": 0.1}, "no name"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            moved_splits(current, wanted)
        assert "\n" not in str(caught.value)


def test_a_shard_tells_where_its_masks_are_from(tmp_path):
    src = reloblur(tmp_path / "src", {"train/s01/00": 1})
    load(src, tmp_path / "out", masks=V1)
    with h5py.File(tmp_path / "out/s01_00-000.h5") as file:
        assert file.attrs["mask_version"] == "v1"
        assert json.loads(file.attrs["mask_source"])["config"] == {"version": "v1", "threshold": 0}
