"""What a user gets for a session that is not as it should be: one line, a quarantine entry, the right code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.program import Answer, relo

from relo.atomic import file_sha256
from relo.capture import RawFrame, read_raw, write_dng
from relo.shards import open_dataset
from relo.shards.reader import close_files


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_session, tmp_path / "s"))


@pytest.fixture
def processed(session: Path, small_shards: Path) -> Path:
    """The session's shards, as finished before."""
    return Path(shutil.copytree(small_shards, session.with_name("s-shards")))


@pytest.fixture(autouse=True)
def no_open_files():
    yield
    close_files()


def frame(session: Path, name: str, scene: str = "scene_00") -> Path:
    return session / "scenes" / scene / f"{name}.dng"


def rewrite(path: Path, **changes: Any) -> None:
    """Write the frame at `path` anew with other values."""
    old = read_raw(path)
    write_dng(path, RawFrame(**(vars(old) | changes)))


def ids(out: Path) -> dict[str, list[str]]:
    """Pairs by scene."""
    found: dict[str, list[str]] = {}
    for sample in open_dataset(out):
        found.setdefault(sample.scene, []).append(sample.id)
    close_files()
    return found


def quarantine(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def checksums(out: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(out.iterdir())}


def assert_partial(answer: Answer, count: int) -> list[str]:
    """Code 3, `count` lines that tell what was left out, no traceback."""
    assert answer.code == 3, answer
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("quarantined: ")]
    assert len(lines) == count, answer.err
    assert f"quarantined {count}, failed 0" in answer.out or f'"quarantined": {count}, "failed": 0' in answer.out
    return lines


EVERYTHING = {"scene_00": ["0000", "0001", "0002"], "scene_01": ["0000", "0001", "0002"]}
WITHOUT_ONE = EVERYTHING | {"scene_00": ["0000", "0002"]}


# Sessions that cannot be used at all


def test_no_folder(tmp_path: Path):
    relo("process", tmp_path / "nowhere").error("nowhere", "is no folder", "scenes/")


def test_a_file_for_a_session(tmp_path: Path):
    (tmp_path / "s").write_text("")
    relo("process", tmp_path / "s").error(tmp_path / "s", "is no folder")
    relo("check", tmp_path / "s").error(tmp_path / "s", "is no folder")


def test_an_empty_folder(tmp_path: Path):
    for verb in ("process", "check"):
        relo(verb, tmp_path).error(tmp_path, "holds no scene", "relo simulate")
    (tmp_path / "scenes").mkdir()
    relo("process", tmp_path).error(tmp_path, "holds no scene")
    assert sorted(path.name for path in tmp_path.parent.glob(f"{tmp_path.name}*")) == [tmp_path.name]


@pytest.mark.parametrize("camera", ["B", "S"])
def test_no_lightbox_frame(session: Path, camera: str):
    (session / "calibration" / f"lightbox_{camera}.dng").unlink()
    relo("process", session).error(f"lightbox_{camera}.dng", "is missing", "--set colour.enabled=false")
    assert not session.with_name("s-shards").exists()
    check = relo("check", session)
    assert check.code == 3
    assert f"lightbox_{camera}.dng: is missing" in check.out


def test_the_advice_for_no_lightbox_frames_works(session: Path):
    shutil.rmtree(session / "calibration")
    answer = relo("process", session, "--set", "colour.enabled=false")
    assert answer.code == 0, answer
    assert ids(session.with_name("s-shards")) == EVERYTHING


def test_a_lightbox_frame_that_is_too_bright(session: Path):
    path = session / "calibration" / "lightbox_B.dng"
    rewrite(path, mosaic=np.full(read_raw(path).shape, 16383, np.uint16))
    relo("process", session).error(path, "over-exposed", "95 %")


def test_a_lightbox_frame_that_is_damaged(session: Path):
    path = session / "calibration" / "lightbox_S.dng"
    path.write_bytes(path.read_bytes()[:9000])
    relo("process", session).error(path, "truncated", "Copy it again")


@pytest.mark.parametrize("key", ["nonsense", "shards.nonsense", "flow.methud"])
def test_an_unknown_config_key(session: Path, tmp_path: Path, key: str):
    line = relo("process", session, "--set", f"{key}=1").error(f"unknown key '{key}'", "known here")
    assert "seed" in line or "bits" in line or "method" in line
    stage, _, name = key.partition(".")
    file = tmp_path / "settings.yaml"
    file.write_text(f"{stage}: {{{name}: 1}}\n" if name else f"{stage}: 1\n")
    relo("process", session, "--config", file).error(file, f"unknown key '{key}'")
    assert not session.with_name("s-shards").exists()


def test_an_unknown_key_in_session_yaml(session: Path):
    (session / "session.yaml").write_text("cameras: {B: {patern: RGGB}}\n")
    relo("process", session).error(session / "session.yaml", "cameras.B.patern", "pattern")


# Pairs and scenes that cannot be used


def assert_only_one_is_left_out(session: Path, *words: object) -> None:
    """Pair 0001 of scene_00 is quarantined, told on one line that holds `words`; a second run does nothing."""
    out = session.with_name("s-shards")
    first = relo("process", session)
    (line,) = assert_partial(first, 1)
    for word in ("scene_00/0001", *words):
        assert str(word) in line
    (entry,) = quarantine(out)
    assert (entry["scene"], entry["pair"]) == ("scene_00", "0001")
    assert entry["file"].startswith("scenes/scene_00/0001_")
    assert entry["reason"] and entry["advice"]
    assert ids(out) == WITHOUT_ONE
    assert (out / "report.html").is_file()
    before = checksums(out)
    second = relo("process", session, "--json")
    assert_partial(second, 1)
    assert (second.json["done"], second.json["skipped"]) == (0, 5)
    assert checksums(out) == before
    check = relo("check", session)
    assert check.code == 3
    assert f"problem: {session}" in check.out


@pytest.mark.parametrize("camera", ["B", "S"])
def test_a_pair_without_partner(session: Path, camera: str):
    frame(session, f"0001_{camera}").unlink()
    there, missing = ("S", "B") if camera == "B" else ("B", "S")
    assert_only_one_is_left_out(session, frame(session, f"0001_{there}"), f"no partner 0001_{missing}.dng", "Copy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda data: b"", ("0 bytes", "Copy it again")),
        (lambda data: data[:5000], ("truncated", "Copy it again")),
        (lambda data: data[: len(data) * 2 // 3], ("truncated", "Copy it again")),
        (lambda data: b"Lens cap was on.\n" * 500, ("no RAW file", "Copy it again")),
    ],
    ids=["empty", "cut at 5 kB", "cut at two thirds", "text"],
)
def test_a_damaged_dng(session: Path, content, words):
    path = frame(session, "0001_S")
    path.write_bytes(content(path.read_bytes()))
    assert_only_one_is_left_out(session, path, *words)


def test_a_pair_of_another_size(session: Path):
    for camera in "BS":
        path = frame(session, f"0001_{camera}")
        rewrite(path, mosaic=read_raw(path).mosaic[:160, :200])
    assert_only_one_is_left_out(session, "0001_", "200x160", "270x180", "one size")


def test_one_frame_of_another_size(session: Path):
    path = frame(session, "0001_B")
    rewrite(path, mosaic=read_raw(path).mosaic[:160])
    assert_only_one_is_left_out(session, path, "270x160", "270x180")


def test_different_patterns_in_a_pair(session: Path):
    path = frame(session, "0001_B")
    rewrite(path, pattern="BGGR")
    assert_only_one_is_left_out(session, path, "BGGR", "RGGB", "session.yaml")


def test_a_name_that_does_not_fit_the_table(session: Path):
    name = "0001" + 70 * "x"
    for camera in "BS":
        frame(session, f"0001_{camera}").rename(frame(session, f"{name}_{camera}"))
    (line,) = assert_partial(relo("process", session), 1)
    assert "64 bytes" in line and f"{name}_B.dng" in line
    assert ids(session.with_name("s-shards")) == WITHOUT_ONE


def test_a_file_that_may_not_be_read(session: Path, monkeypatch: pytest.MonkeyPatch):
    path = frame(session, "0001_B")
    honest = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return honest(self, *args, **kwargs)

    path.write_bytes(b"")  # as root the tests could read it otherwise
    monkeypatch.setattr(Path, "open", refuse)
    (line,) = assert_partial(relo("process", session), 1)
    assert str(path) in line
    assert ids(session.with_name("s-shards")) == WITHOUT_ONE


def test_no_static_pair(session: Path):
    for camera in "BS":
        frame(session, f"static_{camera}").unlink()
    lines = assert_partial(relo("process", session), 3)
    for line, pair in zip(lines, EVERYTHING["scene_00"], strict=True):
        assert f"scene_00/{pair}: {frame(session, 'static_B')}: is missing" in line
        assert "Photograph the still scene" in line
    assert ids(session.with_name("s-shards")) == {"scene_01": EVERYTHING["scene_01"]}
    assert "scene_00: 0 of 3" in relo("check", session).out


def test_no_static_pair_anywhere(session: Path):
    for scene in EVERYTHING:
        for camera in "BS":
            frame(session, f"static_{camera}", scene).unlink()
    answer = relo("process", session)
    assert_partial(answer, 6)
    assert f"next:   relo check {session}" in answer.out
    assert "0000" in (session.with_name("s-shards") / "report.html").read_text()


def test_a_truncated_static_frame(session: Path):
    path = frame(session, "static_S")
    path.write_bytes(path.read_bytes()[:9000])
    lines = assert_partial(relo("process", session), 3)
    assert all(str(path) in line and "truncated" in line for line in lines)
    assert ids(session.with_name("s-shards")) == {"scene_01": EVERYTHING["scene_01"]}


def test_a_static_pair_of_something_else(session: Path, rng_frame):
    """Nothing in common: the scene is left out or flagged, never aligned to nonsense in silence."""
    path = frame(session, "static_B")
    rewrite(path, mosaic=rng_frame(read_raw(path).shape))
    out = session.with_name("s-shards")
    answer = relo("process", session)
    if answer.code == 3:
        assert ids(out) == {"scene_01": EVERYTHING["scene_01"]}
    else:
        assert "note: scene scene_00" in answer.err


@pytest.fixture
def rng_frame():
    return lambda shape: np.random.default_rng(0).integers(600, 9000, shape).astype(np.uint16)


@pytest.mark.parametrize("level", [3000, "noise"])
def test_a_static_pair_without_texture(session: Path, level):
    """Constant or nothing but noise: no alignment is invented."""
    for camera in "BS":
        path = frame(session, f"static_{camera}")
        mosaic = np.full(read_raw(path).shape, 3000, np.uint16)
        if level == "noise":
            mosaic += np.random.default_rng(ord(camera)).integers(0, 60, mosaic.shape, dtype=np.uint16)
        rewrite(path, mosaic=mosaic)
    answer = relo("process", session)
    assert answer.code == 3, answer
    assert {line["scene"] for line in quarantine(session.with_name("s-shards"))} == {"scene_00"}
    assert all(
        "texture" in line["reason"] or "cannot be aligned" in line["reason"] or "px apart" in line["reason"]
        for line in quarantine(session.with_name("s-shards"))
    )
    assert ids(session.with_name("s-shards")) == {"scene_01": ["0000", "0001", "0002"]}


def test_an_object_that_moved_between_the_static_frames_is_a_note(session: Path):
    path = frame(session, "static_S")
    mosaic = read_raw(path).mosaic.copy()
    mosaic[40:140, 60:180] = np.roll(mosaic, (26, 34), axis=(0, 1))[40:140, 60:180]
    rewrite(path, mosaic=mosaic)
    answer = relo("process", session)
    assert answer.code == 0, answer
    assert "something moved" in answer.err


def test_a_lightbox_frame_of_another_size(session: Path):
    path = session / "calibration" / "lightbox_S.dng"
    rewrite(path, mosaic=read_raw(path).mosaic[:-20, :-30])
    checked = relo("check", session)
    assert checked.code == 3
    assert "lightbox_S.dng: is 240x160 pixels, the scene's frames are 270x180" in checked.out
    answer = relo("process", session)
    assert answer.code == 3, answer
    assert all("240x160" in line["reason"] for line in quarantine(session.with_name("s-shards")))
    assert len(quarantine(session.with_name("s-shards"))) == 6


def test_an_empty_scene_folder(session: Path):
    (session / "scenes" / "porch").mkdir()
    (line,) = assert_partial(relo("process", session), 1)
    assert str(session / "scenes" / "porch") in line and "holds no pair" in line and "_B" in line
    assert ids(session.with_name("s-shards")) == EVERYTHING


def test_files_of_no_camera(session: Path):
    shutil.copy(frame(session, "0000_B"), frame(session, "holiday"))
    (line,) = assert_partial(relo("process", session), 1)
    assert "holiday.dng" in line and "_B or" in line


# Output folders


def test_an_output_folder_with_other_files(session: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("thesis.docx", "weights.h5", "film.mkv.part"):
        file = out / name
        file.write_text("dear")
        for options in ([], ["--overwrite"]):
            relo("process", session, out, *options).error(out, name, "new or empty folder")
        assert file.read_text() == "dear"
        file.unlink()


def test_somebody_elses_dataset_json(session: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text('{"images": []}')
    for options in ([], ["--overwrite"]):
        relo("process", session, out, *options).error(out / "dataset.json", "no index of a relo dataset")
    assert (out / "dataset.json").read_text() == '{"images": []}'


def test_overwrite_leaves_other_files_of_the_folder(processed: Path, session: Path):
    (processed / "notes.h5").write_text("dear")
    answer = relo("process", session, "--overwrite", "--set", "short.enabled=false")
    assert answer.code == 0, answer
    assert (processed / "notes.h5").read_text() == "dear"
    assert open_dataset(processed)[0].short is None


def test_a_damaged_index_is_made_anew(processed: Path, session: Path):
    good = checksums(processed)
    (processed / "dataset.json").write_text("{")
    relo("process", session).error(processed / "dataset.json", "--overwrite")
    assert relo("process", session, "--overwrite").code == 0
    assert checksums(processed) == good


@pytest.mark.parametrize("where", ["file", "file/out", "session"])
def test_an_output_that_cannot_be(session: Path, tmp_path: Path, where: str):
    (tmp_path / "file").write_text("dear")
    out = session if where == "session" else tmp_path / where
    relo("process", session, out).error(out)
    assert (tmp_path / "file").read_text() == "dear"


def test_a_full_disk(session: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(session)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    out = session.with_name("s-shards")
    relo("process", session).error(out, "No space left", "continues")
    assert list(out.iterdir()) == []


def test_two_runs_at_once(session: Path):
    from relo import locks

    out = session.with_name("s-shards")
    with locks.locked(out):
        relo("process", session).error(out, "another relo")
    assert relo("process", session, "--json").json["done"] == 6


# Runs on a folder that is there


def test_the_second_run_does_nothing_and_says_so(processed: Path, session: Path):
    before = {path: path.stat().st_mtime_ns for path in processed.iterdir()}
    answer = relo("process", session)
    assert answer.code == 0
    assert "everything was done before; nothing to do" in answer.out
    assert "done 0, skipped 6, quarantined 0, failed 0" in answer.out
    assert {path: path.stat().st_mtime_ns for path in processed.iterdir()} == before


def test_changed_settings(processed: Path, session: Path):
    before = checksums(processed)
    line = relo("process", session, "--set", "shards.bits=16").error(processed, "shards.bits: 8 -> 16")
    assert "--overwrite" in line
    assert checksums(processed) == before
    answer = relo("process", session, "--set", "shards.bits=16", "--overwrite", "--json")
    assert (answer.code, answer.json["done"]) == (0, 6)
    assert open_dataset(processed)[0].blur.dtype == np.uint16


def test_changed_settings_after_an_interruption(processed: Path, session: Path):
    (processed / "dataset.json").unlink()
    relo("process", session, "--seed", "5").error(processed / "scene_00-000.h5", "seed: 0 -> 5")


@pytest.mark.parametrize("damage", ["deleted", "truncated", "emptied"])
def test_a_shard_that_was_lost(processed: Path, session: Path, damage: str):
    good = checksums(processed)
    shard = processed / "scene_01-000.h5"
    if damage == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:20000] if damage == "truncated" else b"")
    answer = relo("process", session, "--json")
    assert answer.code == 0
    assert (answer.json["done"], answer.json["skipped"]) == (3, 3)
    assert checksums(processed) == good


def test_one_of_several_shards_of_a_scene_that_was_lost(session: Path):
    options = ("--set", "shards.pairs=2", "--json")
    out = session.with_name("s-shards")
    assert relo("process", session, *options).json["done"] == 6
    assert ids(out) == EVERYTHING
    good = checksums(out)
    (out / "scene_00-001.h5").unlink()
    assert relo("process", session, *options).json["done"] == 3
    assert checksums(out) == good


def test_what_was_quarantined_before_an_interruption_is_not_forgotten(session: Path):
    """Killed after a scene, before the index: the rerun must tell about the scene's pairs all the same."""
    out = session.with_name("s-shards")
    frame(session, "0001_S").write_bytes(b"")
    frame(session, "0002_B", "scene_01").unlink()
    first = assert_partial(relo("process", session), 2)
    good = checksums(out)
    for name in ("dataset.json", "quarantine.jsonl", "report.html"):
        (out / name).unlink()
    assert assert_partial(relo("process", session), 2) == first
    assert checksums(out) == good


def test_an_unfinished_file_is_removed(processed: Path, session: Path):
    good = checksums(processed)
    for name in ("scene_00-000.h5.part", "scene_77-000.h5.part", "dataset.json.part"):
        (processed / name).write_bytes(b"half")
    assert relo("process", session).code == 0
    assert checksums(processed) == good


def test_a_source_that_has_changed(processed: Path, session: Path):
    old = checksums(processed)
    path = frame(session, "0002_B")
    rewrite(path, mosaic=np.minimum(read_raw(path).mosaic + 3, 16383).astype(np.uint16))
    answer = relo("process", session, "--json")
    assert (answer.json["done"], answer.json["skipped"]) == (3, 3)
    new = checksums(processed)
    assert new["scene_00-000.h5"] != old["scene_00-000.h5"]
    assert new["scene_01-000.h5"] == old["scene_01-000.h5"]
    assert new["report.html"] != old["report.html"]


def test_a_source_that_was_mended(session: Path, small_shards: Path):
    path = frame(session, "0001_S")
    good = path.read_bytes()
    path.write_bytes(good[:5000])
    assert_partial(relo("process", session), 1)
    path.write_bytes(good)
    assert relo("process", session).code == 0
    out = session.with_name("s-shards")
    assert quarantine(out) == []
    for name in ("scene_00-000.h5", "scene_01-000.h5"):
        assert file_sha256(out / name) == file_sha256(small_shards / name)


def test_a_source_that_was_added(processed: Path, session: Path):
    for camera in "BS":
        shutil.copy(frame(session, f"0000_{camera}"), frame(session, f"0003_{camera}"))
    answer = relo("process", session, "--json")
    assert (answer.code, answer.json["done"], answer.json["skipped"]) == (0, 4, 3)
    assert ids(processed) == EVERYTHING | {"scene_00": ["0000", "0001", "0002", "0003"]}


def test_a_scene_that_was_added(processed: Path, session: Path):
    shutil.copytree(session / "scenes" / "scene_00", session / "scenes" / "scene_02")
    answer = relo("process", session, "--json")
    assert (answer.json["done"], answer.json["skipped"]) == (3, 6)
    assert answer.json["shards"] == [f"scene_0{number}-000.h5" for number in range(3)]


def test_a_scene_name_is_no_pattern(session: Path):
    """Names with the wildcards of a shell are names; remaking one scene touches no other."""
    (session / "scenes" / "scene_00").rename(session / "scenes" / "desk*")
    (session / "scenes" / "scene_01").rename(session / "scenes" / "desk-lamp")
    out = session.with_name("s-shards")
    assert relo("process", session).code == 0
    frame(session, "0002_B", "desk*").unlink()
    answer = relo("process", session, "--json")
    assert (answer.code, answer.json["done"], answer.json["skipped"]) == (3, 2, 3)
    assert ids(out) == {"desk*": ["0000", "0001"], "desk-lamp": EVERYTHING["scene_01"]}


def test_a_scene_that_got_shorter_loses_its_last_part(session: Path):
    options = ("--set", "shards.pairs=2")
    out = session.with_name("s-shards")
    relo("process", session, *options)
    for camera in "BS":
        frame(session, f"0002_{camera}").unlink()
    assert relo("process", session, *options).code == 0
    assert ids(out) == EVERYTHING | {"scene_00": ["0000", "0001"]}
    assert not (out / "scene_00-001.h5").exists()
