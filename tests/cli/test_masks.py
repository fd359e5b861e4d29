from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.program import relo

from relo.atomic import file_sha256
from relo.images import write_image
from relo.shards import Dataset, open_dataset
from relo.shards.mask_stores.shards import mask_source
from relo.shards.reader import close_files


@pytest.fixture
def shards(small_shards: Path, tmp_path: Path) -> Path:
    """A dataset of 2 scenes x 3 pairs that may be changed."""
    return Path(shutil.copytree(small_shards, tmp_path / "shards"))


@pytest.fixture
def layout(small_shards: Path, tmp_path: Path) -> Path:
    """The same pairs as files of the ReLoBlur layout: s01 for training, s02 for testing."""
    base = tmp_path / "reloblur"
    for pair in open_dataset(small_shards):
        scene = {"scene_00": "train/s01/00", "scene_01": "test/s02/00"}[pair.scene]
        for role in ("blur", "sharp"):
            write_image(base / "dataset" / scene / f"{pair.id[2:]}_{role}.png", getattr(pair, role))
    return base


def opened(root: Path) -> Dataset:
    close_files()
    return open_dataset(root)


def masks_of(root: Path) -> dict[str, np.ndarray]:
    return {f"{pair.scene}/{pair.id}": pair.mask for pair in opened(root)}


def imported_of(root: Path) -> dict[str, dict[str, str]]:
    return {
        f"{shard.scene}/{name}": entry
        for shard in opened(root).shards
        for name, entry in mask_source(shard).get("imported", {}).items()
    }


def read_png(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def square(path: Path) -> np.ndarray:
    """Draw into an exported mask as an editor would; return what it should then be."""
    mask = read_png(path)
    mask[60:100, 80:140] = 255
    save(path, mask)
    return mask


# --- computing them anew


def test_shards_in_place(shards):
    before = opened(shards)
    versions = [shard.attrs["mask_version"] for shard in before.shards]
    answer = relo("masks", shards, "--method", "lbfmg", "--set", "var_threshold=24")
    assert answer.code == 0, answer.err
    assert "done 6, skipped 0" in answer.out
    assert "ReLoBlur: 11.75 %" in answer.out
    after = opened(shards)
    for shard, version in zip(after.shards, versions, strict=True):
        assert shard.attrs["mask_version"] == version + 1
        source = mask_source(shard)
        assert source["method"] == "lbfmg"
        assert source["config"]["var_threshold"] == 24
        assert source["imported"] == {}
    for pair in after:
        assert pair.row["blur_fraction"] == pytest.approx((pair.mask & pair.valid).sum() / pair.valid.sum())
        assert np.isnan(pair.row["mask_agreement"]), "one method alone agrees with nothing"
    assert relo("inspect", shards, "--verify").code == 0


def test_the_report_follows(shards):
    before = (shards / "report.html").read_bytes()
    relo("masks", shards, "--method", "lbfmg")
    assert (shards / "report.html").read_bytes() != before
    (shards / "report.html").unlink()
    relo("masks", shards)
    assert not (shards / "report.html").exists()


def test_only_mask_flags_are_replaced(make_dataset):
    root = make_dataset([{"flags": {0: "bumped,mask-large,misaligned"}}])
    assert relo("masks", root).code == 0
    flags = opened(root)[0].row["flags"].split(",")
    assert flags[:2] == ["bumped", "misaligned"]
    assert "mask-large" not in flags


def test_a_copy_leaves_the_original_alone(shards, tmp_path):
    hashes = {path.name: file_sha256(path) for path in shards.iterdir()}
    answer = relo("masks", shards, tmp_path / "copy", "--method", "lbfmg", "--json")
    assert answer.json["done"] == 6
    assert answer.json["out"] == str(tmp_path / "copy")
    assert {path.name: file_sha256(path) for path in shards.iterdir()} == hashes
    assert (tmp_path / "copy" / "report.html").is_file()
    assert len(opened(tmp_path / "copy")) == 6
    relo("masks", shards, tmp_path / "copy").error("copy", "holds other files", "new or empty folder")


def test_a_single_shard(shards):
    file = sorted(shards.glob("*.h5"))[0]
    assert relo("masks", file, "--json").json["done"] == 3
    assert relo("inspect", shards, "--verify").code == 0, "dataset.json must follow"


def test_process_keeps_shards_with_new_masks(small_session, shards):
    relo("masks", shards, "--method", "lbfmg")
    before = masks_of(shards)
    answer = relo("process", small_session, shards, "--json")
    assert answer.json["skipped"] == 6, answer
    for name, mask in masks_of(shards).items():
        np.testing.assert_array_equal(mask, before[name])


def test_sheet(shards, tmp_path):
    relo("masks", shards, "--sheet", tmp_path / "sheet.png")
    sheet = read_png(tmp_path / "sheet.png")
    assert sheet.shape[0] > 3 * 100 and sheet.shape[1] > 1000
    tinted = (sheet[..., 2].astype(int) - sheet[..., 1]) > 60
    assert tinted.any(), "masks are shown on the frames"


def test_one_pair_and_16_bits(make_dataset):
    root = make_dataset([{"pairs": 1, "size": (90, 120)}, {"scene": "deep", "bits": 16, "size": (90, 120)}])
    assert relo("masks", root, "--json").json["done"] == 4


def test_layout(layout):
    answer = relo("masks", layout, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["done"] == 6
    files = sorted(path.relative_to(layout / "masks").as_posix() for path in (layout / "masks").rglob("*.png"))
    assert files == [f"{scene}/{pair:02d}.png" for scene in ("test/s02/00", "train/s01/00") for pair in range(3)]
    table = json.loads((layout / "masks" / "masks.json").read_text())
    for name, entry in table["pairs"].items():
        mask = read_png(layout / "masks" / f"{name}.png")
        assert mask.dtype == np.uint8 and mask.ndim == 2
        assert set(np.unique(mask)) <= {0, 255}
        assert entry["covered"] == pytest.approx((mask > 0).mean())
        assert entry["made_with"]["method"] == "fused"
        assert set(entry) >= {"agreement", "fragments", "border", "flags"}
    assert table["paper_mean_coverage"] == 0.1175
    assert table["mean_coverage"] == pytest.approx(answer.json["mean_coverage"])
    assert table["scenes"]["train/s01/00"]["pairs"] == 3


def test_layout_keeps_files_that_are_there(layout, tmp_path):
    out = tmp_path / "out"
    drawn = np.zeros((180, 270), np.uint8)
    drawn[:90] = 255
    save(out / "masks/train/s01/00/01.png", drawn)
    answer = relo("masks", layout, out, "--json")
    assert (answer.json["done"], answer.json["skipped"]) == (5, 1)
    np.testing.assert_array_equal(read_png(out / "masks/train/s01/00/01.png"), drawn)
    assert json.loads((out / "masks/masks.json").read_text())["pairs"]["train/s01/00/01"]["made_with"] == "unknown"
    assert not (layout / "masks").exists()
    again = relo("masks", layout, out, "--json").json
    assert (again["done"], again["skipped"]) == (0, 6)
    assert relo("masks", layout, out, "--overwrite", "--json").json["done"] == 6
    assert (read_png(out / "masks/train/s01/00/01.png") != drawn).any()


def test_a_mask_file_that_is_no_mask_is_made_again(layout):
    """The published download left users with files of 0 kB."""
    whole = relo("masks", layout, "--json")
    assert (whole.code, whole.json["done"]) == (0, 6)
    good = {path: path.read_bytes() for path in (layout / "masks").rglob("*.png")}
    files = sorted(good)
    files[0].write_bytes(b"")
    files[1].write_bytes(good[files[1]][:40])
    answer = relo("masks", layout, "--json")
    assert (answer.code, answer.json["done"], answer.json["skipped"]) == (0, 2, 4), answer.err
    assert {path: path.read_bytes() for path in files} == good
    assert "relo masks export" in answer.json["next"]


def test_layout_with_bad_pairs(layout):
    folder = layout / "dataset" / "train" / "s01" / "00"
    (folder / "00_sharp.png").unlink()  # a missing partner
    (folder / "01_blur.png").write_bytes(b"")
    answer = relo("masks", layout, "--json")
    assert answer.code == 3
    assert (answer.json["done"], answer.json["failed"]) == (4, 2)
    assert {Path(item["file"]).name for item in answer.json["problems"]} == {"00_blur.png", "01_blur.png"}
    assert "Traceback" not in answer.err
    assert len(list((layout / "masks").rglob("*.png"))) == 4


def test_a_damaged_frame_is_no_background(layout):
    path = layout / "dataset" / "train" / "s01" / "00" / "02_sharp.png"
    path.write_bytes(path.read_bytes()[:-400])  # its header is whole
    answer = relo("masks", layout, "--json")
    assert answer.code == 3
    assert answer.json["done"] == 5
    assert [item["pair"] for item in answer.json["problems"]] == ["02"]
    assert not (layout / "masks/train/s01/00/02.png").exists()


def test_frames_of_several_sizes_and_depths(layout):
    folder = layout / "dataset" / "train" / "s01" / "00"
    for role in ("blur", "sharp"):
        image = read_png(folder / f"00_{role}.png")[..., ::-1]
        write_image(folder / f"00_{role}.png", np.ascontiguousarray(image[:100]))
        image = read_png(folder / f"01_{role}.png")[..., ::-1].astype(np.uint16) * 257
        write_image(folder / f"01_{role}.png", image)
    image = read_png(folder / "02_sharp.png")[..., ::-1]
    write_image(folder / "02_sharp.png", np.ascontiguousarray(image[:100]))
    answer = relo("masks", layout, "--json")
    assert answer.code == 3
    assert answer.json["done"] == 5
    assert [item["pair"] for item in answer.json["problems"]] == ["02"]
    assert "270x100" in answer.json["problems"][0]["reason"]
    assert read_png(layout / "masks/train/s01/00/00.png").shape == (100, 270)
    assert read_png(layout / "masks/train/s01/00/01.png").dtype == np.uint8


# --- to an editor and back


@pytest.mark.parametrize("kind", ["shards", "layout"])
def test_export_edit_import(kind, tmp_path, request):
    src = request.getfixturevalue(kind)
    relo("masks", src)
    answer = relo("masks", "export", src, tmp_path / "edit", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["done"] == 6
    scene, pair = ("scene_00", "0001") if kind == "shards" else ("s01/00", "01")
    file = tmp_path / "edit" / scene / f"{pair}_mask.png"
    assert read_png(file).shape == (180, 270)
    assert read_png(file.with_name(f"{pair}_overlay.png")).shape == (180, 270, 3)
    manifest = json.loads((tmp_path / "edit" / "masks.json").read_text())
    assert manifest["masks"][f"{scene}/{pair}_mask.png"]["sha256"] == file_sha256(file)
    assert manifest["fingerprint"]

    def current() -> dict[str, np.ndarray]:
        if kind == "shards":
            return masks_of(src)
        return {
            f"{path.parent.parent.name}/{path.parent.name}/{path.stem}": read_png(path)
            for path in (src / "masks").rglob("*.png")
        }

    before = current()
    wanted = square(file)
    answer = relo("masks", "import", src, tmp_path / "edit", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["taken"] == [f"{scene}/{pair}"]
    assert answer.json["skipped"] == 5
    after = current()
    for name, mask in after.items():
        if name != f"{scene}/{pair}":
            np.testing.assert_array_equal(mask, before[name])
    if kind == "shards":
        row = next(item for item in opened(src) if (item.scene, item.id) == (scene, pair))
        wanted = np.where(row.valid > 0, wanted, 0)
        assert row.row["blur_fraction"] == pytest.approx((wanted > 0).sum() / (row.valid > 0).sum())
        origin = imported_of(src)
        assert list(origin) == [f"{scene}/{pair}"]
        entry = origin[f"{scene}/{pair}"]
    else:
        entry = json.loads((src / "masks/masks.json").read_text())["pairs"][f"train/{scene}/{pair}"]["imported"]
    np.testing.assert_array_equal(after[f"{scene}/{pair}"], wanted)
    assert entry == {"folder": "edit", "file": f"{scene}/{pair}_mask.png", "sha256": file_sha256(file)}

    again = relo("masks", "import", src, tmp_path / "edit", "--json")
    assert again.code == 0
    assert (again.json["done"], again.json["skipped"]) == (0, 6), "the same file is not taken twice"
    assert relo("masks", "import", src, tmp_path / "edit", "--all", "--json").json["done"] == 6


def test_only_shards_with_a_new_mask_change(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    square(tmp_path / "edit/scene_01/0000_mask.png")
    before = {path.name: file_sha256(path) for path in shards.glob("*.h5")}
    relo("masks", "import", shards, tmp_path / "edit")
    after = {path.name: file_sha256(path) for path in shards.glob("*.h5")}
    assert [name for name in before if before[name] != after[name]] == ["scene_01-000.h5"]
    assert relo("inspect", shards, "--verify").code == 0


def test_imported_masks_survive_new_ones(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    square(tmp_path / "edit/scene_00/0002_mask.png")
    relo("masks", "import", shards, tmp_path / "edit")
    drawn = masks_of(shards)["scene_00/0002"]
    answer = relo("masks", shards, "--method", "pair", "--json").json
    assert (answer["done"], answer["skipped"], answer["imported"]) == (5, 1, 1)
    np.testing.assert_array_equal(masks_of(shards)["scene_00/0002"], drawn)
    assert list(imported_of(shards)) == ["scene_00/0002"]
    assert relo("masks", shards, "--overwrite", "--json").json["done"] == 6
    assert imported_of(shards) == {}


def test_import_to_a_copy(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    square(tmp_path / "edit/scene_00/0000_mask.png")
    before = masks_of(shards)
    assert relo("masks", "import", shards, tmp_path / "edit", tmp_path / "copy").code == 0
    np.testing.assert_array_equal(masks_of(shards)["scene_00/0000"], before["scene_00/0000"])
    assert list(imported_of(tmp_path / "copy")) == ["scene_00/0000"]
    assert len(opened(tmp_path / "copy")) == 6


def spoil(folder: Path) -> np.ndarray:
    """One bad file of each kind, and two unusual good ones; return the mask the latter hold."""
    mask = np.zeros((180, 270), np.uint8)
    mask[40:90, 50:120] = 255
    (folder / "scene_00/0000_mask.png").write_bytes(b"")
    save(folder / "scene_00/0001_mask.png", mask[:100])
    (folder / "scene_00/0002_mask.png").unlink()
    alpha = np.full((180, 270, 4), 255, np.uint8)
    alpha[..., 3] = mask
    save(folder / "scene_01/0000_mask.png", alpha)
    red = np.zeros((180, 270, 3), np.uint8)
    red[mask > 0] = (0, 0, 128)
    save(folder / "scene_01/0001_mask.png", red)
    return mask


def test_bad_files_are_listed_and_good_ones_taken(shards, tmp_path):
    folder = tmp_path / "edit"
    relo("masks", "export", shards, folder)
    mask = spoil(folder)
    before = masks_of(shards)
    answer = relo("masks", "import", shards, folder, "--json")
    assert answer.code == 0, "something was taken"
    assert answer.json["taken"] == ["scene_01/0000", "scene_01/0001"]
    reasons = {item["pair"]: item["reason"] for item in answer.json["problems"]}
    assert "0 bytes" in reasons["0000"]
    assert "270x100" in reasons["0001"]
    assert "missing" in reasons["0002"]
    assert any("alpha was taken" in note for note in answer.json["notes"])
    assert "scene_00/0000_mask.png" in answer.err
    after = masks_of(shards)
    for pair in opened(shards):
        name = f"{pair.scene}/{pair.id}"
        wanted = np.where(pair.valid > 0, mask, 0) if name in answer.json["taken"] else before[name]
        np.testing.assert_array_equal(after[name], wanted)


def test_strict_takes_all_or_nothing(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    spoil(tmp_path / "edit")
    hashes = {path.name: file_sha256(path) for path in shards.iterdir()}
    answer = relo("masks", "import", shards, tmp_path / "edit", "--strict")
    assert answer.code == 2
    assert "nothing was taken" in answer.out
    assert {path.name: file_sha256(path) for path in shards.iterdir()} == hashes


def test_nothing_usable(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    for path in (tmp_path / "edit").rglob("*_mask.png"):
        path.write_bytes(b"")
    assert relo("masks", "import", shards, tmp_path / "edit").code == 2


def test_an_empty_mask_is_taken_and_told(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    save(tmp_path / "edit/scene_00/0000_mask.png", np.zeros((180, 270), np.uint8))
    answer = relo("masks", "import", shards, tmp_path / "edit")
    assert answer.code == 0
    assert "the mask is empty" in answer.err
    assert opened(shards)[0].row["flags"].split(",")[-1] == "mask-empty"


@pytest.mark.parametrize("form", ["s01/00", "s01_00", "s01-00"])
@pytest.mark.parametrize("folder", ["masks", "."])
def test_a_published_tree(make_dataset, tmp_path, form, folder):
    root = make_dataset([{"scene": form, "pairs": 2}, {"scene": "desk", "pairs": 1}])
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 255
    tree = tmp_path / "published"
    save(tree / "masks/train/s01/00/0000.png", mask)
    save(tree / "masks/train/s01/00/0007.png", mask)
    answer = relo("masks", "import", root, tree / folder, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["taken"] == [f"{form}/0000"]
    problems = {(item["scene"], item["pair"]) for item in answer.json["problems"]}
    assert problems == {(form, "0001"), ("desk", "")}
    assert any("no pair: 1" in note and "0007.png" in note for note in answer.json["notes"])
    np.testing.assert_array_equal(opened(root)[0].mask, mask)
    entry = imported_of(root)[f"{form}/0000"]
    assert entry["sha256"] == file_sha256(tree / "masks/train/s01/00/0000.png")


def test_a_published_tree_to_a_layout(layout, tmp_path):
    mask = np.zeros((180, 270), np.uint8)
    mask[40:90, 50:120] = 255
    save(tmp_path / "published/test/s02/00/01.png", mask // 255)
    answer = relo("masks", "import", layout, tmp_path / "published", tmp_path / "out", "--json")
    assert answer.json["taken"] == ["s02/00/01"]
    np.testing.assert_array_equal(read_png(tmp_path / "out/masks/test/s02/00/01.png"), mask)


def test_export_of_pairs_without_mask(layout, tmp_path):
    save(layout / "masks/train/s01/00/00.png", np.zeros((180, 270), np.uint8))
    answer = relo("masks", "export", layout, tmp_path / "edit", "--json")
    assert answer.code == 3
    assert (answer.json["done"], answer.json["failed"]) == (1, 5)


def test_export_does_not_overwrite(shards, tmp_path):
    relo("masks", "export", shards, tmp_path / "edit")
    relo("masks", "export", shards, tmp_path / "edit").error("edit", "not empty", "--overwrite")
    assert relo("masks", "export", shards, tmp_path / "edit", "--overwrite").code == 0


def test_a_place_that_cannot_be_written(shards, layout, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "masks").touch()
    relo("masks", layout, blocked).error("blocked", "cannot be written")
    (blocked / "scene_00").touch()
    relo("masks", "export", shards, blocked, "--overwrite").error("blocked", "cannot be written")
    relo("masks", shards, blocked / "masks").error("masks", "is a file")
    relo("masks", shards, "--sheet", blocked / "masks" / "sheet.png").error("sheet.png", "cannot be written")


# --- the command line


def test_words_that_are_folders_too(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards.rename(tmp_path / "export")
    assert relo("masks", "./export", "--json").json["done"] == 6


def test_wrong_input(tmp_path, shards):
    relo("masks", tmp_path / "nowhere").error("nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    relo("masks", tmp_path / "empty").error("empty", "ReLoBlur")
    relo("masks", shards, "--set", "var_treshold=3").error("var_treshold", "var_threshold")
    relo("masks", "import", shards, tmp_path / "nowhere").error("nowhere", "no folder")
    relo("masks", "import", shards, tmp_path / "empty").error("empty", "no image")
    (tmp_path / "empty/masks.json").write_text("{")
    relo("masks", "import", shards, tmp_path / "empty").error("masks.json", "damaged")


@pytest.mark.parametrize("words", [["masks"], ["masks", "export"], ["masks", "import"]])
def test_help_has_examples(words):
    answer = relo(*words, "--help")
    assert answer.code == 0
    assert f"Usage: relo {' '.join(words)} [OPTIONS] SRC" in answer.out
    assert "Examples:" in answer.out
