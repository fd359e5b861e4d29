"""`relo ingest` end to end: a simulated session taken apart into two camera folders and put together again."""

from __future__ import annotations

import csv
import os
import random
import shutil
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.program import relo

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stamp(file: Path, seconds: float) -> None:
    """Give a DNG the capture time `seconds` after noon: a new first directory, with an EXIF one, at its end."""
    data = file.read_bytes()
    assert data[:4] == b"II*\0"
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * index :][:12] for index in range(count)]
    data += b"\0" * (len(data) % 2)
    moment = NOON + timedelta(microseconds=round(seconds * 1e6))
    text = moment.strftime("%Y:%m:%d %H:%M:%S").encode() + b"\0"
    fraction = f"{moment.microsecond // 1000:03d}".encode() + b"\0"
    exif = len(data) + len(text)
    data += text + struct.pack("<H", 2)
    data += struct.pack("<HHII", 0x9003, 2, len(text), exif - len(text))
    data += struct.pack("<HHI4s", 0x9291, 2, 4, fraction) + b"\0\0\0\0"
    entries = sorted(
        [*entries, struct.pack("<HHII", 0x8769, 4, 1, exif)], key=lambda entry: struct.unpack("<H", entry[:2])
    )
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    file.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)


def raw_bytes(session: Path) -> dict[str, bytes]:
    """Content of every RAW file of a session and of its sidecars."""
    return {
        path.relative_to(session).as_posix(): path.read_bytes()
        for folder in ("scenes", "calibration")
        for path in (session / folder).rglob("*")
        if path.suffix in (".dng", ".json")
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def take_apart(small_session: Path, tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """Copy a session whose files carry times, and deal its files out: `take_apart(name_of)` -> session, b, s.

    `name_of(camera, scene, id, number)` is the path of a file in its camera's folder.
    """

    def take(name_of: Callable[[str, str, str, int], str], offset: float = 0.0) -> tuple[Path, Path, Path]:
        session = tmp_path / "session"
        session.mkdir()
        for name in ("scenes", "calibration", "session.yaml"):
            source = small_session / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, session / name)
        rng = random.Random(8)
        seconds, number = 0.0, 0
        for folder in [session / "calibration", *sorted((session / "scenes").iterdir())]:
            seconds += 600
            scene = folder.name if folder.parent.name == "scenes" else ""
            # static and whiteboard first, as on a rig
            ids = sorted({file.stem[:-2] for file in folder.glob("*.dng")}, key=lambda name: (name.isdigit(), name))
            for pair_id in ids:
                seconds += rng.uniform(2, 9)
                number += 1
                for camera in "BS":
                    file = folder / f"{pair_id}_{camera}.dng"
                    stamp(file, seconds + (offset + rng.gauss(0, 0.004) if camera == "S" else 0))
                    target = tmp_path / camera.lower() / name_of(camera, scene, pair_id, number)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, target)
                    if file.with_suffix(".json").is_file():
                        shutil.copy2(file.with_suffix(".json"), target.with_suffix(".json"))
        return session, tmp_path / "b", tmp_path / "s"

    return take


def by_folder(camera: str, scene: str, pair_id: str, number: int) -> str:
    return f"{scene or 'calibration'}/{pair_id}_{camera}.dng"


def counters(camera: str, scene: str, pair_id: str, number: int) -> str:
    """As cameras count, each in its own way; only references have been renamed."""
    reference = "" if pair_id.isdigit() else f"_{pair_id}"
    return f"DSC_{number:04d}{reference}.dng" if camera == "B" else f"100CANON/IMG_{number + 57}{reference}.DNG"


def test_by_name(take_apart, tmp_path: Path):
    session, b, s = take_apart(by_folder)
    out = tmp_path / "out"
    answer = relo("ingest", b, s, out)
    assert answer.code == 0, answer
    files = len([name for name in raw_bytes(session) if name.endswith(".dng")])
    assert answer.out.splitlines() == [
        "scene_00: 3 pairs, 1 static, 1 whiteboard (first: 0000 = 0000_B.dng + 0000_S.dng)",
        "scene_01: 3 pairs, 1 static, 1 whiteboard (first: 0000 = 0000_B.dng + 0000_S.dng)",
        "lightbox: 1 of camera B, 1 of camera S",
        f"files: {files} hard links",
        f"done {files}, skipped 0, quarantined 0, failed 0",
        f"output: {out}",
        f"next:   relo check {out}",
    ]
    assert raw_bytes(out) == raw_bytes(session)
    shutil.copy2(session / "session.yaml", out)
    assert relo("check", out).out.replace(str(out), "X") == relo("check", session).out.replace(str(session), "X")
    assert "nothing is wrong" in relo("check", out).out
    before = tree(out)
    again = relo("ingest", b, s, out)
    assert again.code == 0 and f"files: {files} there already\ndone 0, skipped {files}" in again.out
    assert tree(out) == before


def test_by_time(take_apart, tmp_path: Path):
    session, b, s = take_apart(counters, offset=3723.25)
    out = tmp_path / "out"
    options = ("--by", "time", "--gap", 60)
    before = tree(b) | tree(s)
    dry = relo("ingest", b, s, out, *options, "--dry-run", "--json")
    assert dry.code == 0, dry
    assert not out.exists()
    answer = relo("ingest", b, s, out, *options, "--json")
    plan = answer.json
    assert (answer.code, plan["quarantined"], plan["left_out"], plan["warnings"]) == (0, 0, [], [])
    assert plan["offset"]["seconds"] == pytest.approx(3723.25, abs=0.01)
    assert plan["offset"]["pairs"] == 10 and plan["offset"]["spread"] < 0.02
    assert plan["scenes"] == {name: {"pairs": 3, "static": 1, "whiteboard": 1} for name in ("scene_00", "scene_01")}
    assert dry.json["plan"] == plan["plan"] and dry.json["dry_run"] and dry.json["next"] is None
    assert raw_bytes(out) == raw_bytes(session)
    assert tree(b) | tree(s) == before
    shutil.copy2(session / "session.yaml", out)
    assert relo("check", out).code == 0
    people = relo("ingest", b, s, out, *options).out
    assert "clock of camera S minus clock of camera B: +3723.2" in people and "(found; 10 pairs agree" in people
    # The plan is a CSV that makes the same session elsewhere, from the same files.
    copy = relo("ingest", b, s, tmp_path / "copy", "--csv", out / "ingest.csv", "--copy")
    assert copy.code == 0, copy
    assert raw_bytes(tmp_path / "copy") == raw_bytes(session)
    assert (tmp_path / "copy" / "ingest.csv").read_bytes() == (out / "ingest.csv").read_bytes()


def test_by_csv(take_apart, tmp_path: Path):
    session, b, s = take_apart(
        lambda camera, scene, pair_id, number: f"{number * (7919 if camera == 'B' else 104729) % 1000}_{number}.dng"
    )
    files = {
        camera: {path.stem.split("_")[-1]: path.name for path in folder.glob("*.dng")}
        for camera, folder in (("B", b), ("S", s))
    }
    number = 0
    rows = []
    for folder in [session / "calibration", *sorted((session / "scenes").iterdir())]:
        ids = sorted({file.stem[:-2] for file in folder.glob("*.dng")}, key=lambda name: (name.isdigit(), name))
        for pair_id in ids:
            number += 1
            role = "" if pair_id.isdigit() else pair_id
            scene = folder.name if folder.parent.name == "scenes" else ""
            rows.append([scene, role, files["S"][str(number)], files["B"][str(number)]])
    rows.sort(key=lambda row: row[1] or row[0] + row[3].split("_")[-1].zfill(9))
    table = tmp_path / "pairs.csv"
    with table.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([["scene", "role", "sharp", "blur"], *rows])
    answer = relo("ingest", b, s, tmp_path / "out", "--csv", table, "--symlink")
    assert answer.code == 0, answer
    assert raw_bytes(tmp_path / "out") == raw_bytes(session)
    table.write_text("scene;blur;sharp\na;nothing.dng;\n")
    relo("ingest", b, s, tmp_path / "other", "--csv", table).error(f"{table}: line 2, column 'blur': 'nothing.dng'")
    assert not (tmp_path / "other").exists()


def test_what_is_left_out_is_listed_and_gives_3(take_apart, tmp_path: Path):
    _, b, s = take_apart(counters, offset=-7.5)
    victim, lonely = b / "DSC_0004.dng", b / "DSC_0005.dng"
    victim.write_bytes(victim.read_bytes()[:6])
    (s / "100CANON" / "IMG_62.DNG").unlink()
    (s / "100CANON" / "IMG_58_lightbox.DNG").unlink()
    answer = relo("ingest", b, s, tmp_path / "out", "--by", "time", "--scene", "hall", "--json")
    assert answer.code == 3, answer
    left_out = {Path(item["file"]).name: item["kind"] for item in answer.json["left_out"]}
    assert left_out == {victim.name: "unreadable", lonely.name: "unmatched", "IMG_61.DNG": "unmatched"}
    assert answer.json["quarantined"] == 3
    assert answer.json["warnings"] == [
        "no lightbox frame of camera S: add one, or process with --set colour.enabled=false"
    ]
    lines = relo("ingest", b, s, tmp_path / "out", "--by", "time", "--scene", "hall").out.splitlines()
    (line,) = (line for line in lines if str(lonely) in line)
    assert line.startswith(f"unmatched: {lonely}: camera S has no file within 0.5 s; the nearest, IMG_")
    assert lines[0].startswith("hall: ")


def empty_files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_scene_without_static_pair_is_told(tmp_path: Path):
    b, s = empty_files(tmp_path / "b", "1.dng"), empty_files(tmp_path / "s", "1.dng")
    answer = relo("ingest", b, s, tmp_path / "out", "--dry-run")
    assert answer.code == 0
    assert "warning: scene scene_00 has no static pair; 'relo process' needs one" in answer.out
    assert "nothing was written: leave out --dry-run to do it" in answer.out
    assert {path.name for path in tmp_path.iterdir()} == {"b", "s"}


def test_long_lists_are_cut_for_people_only(tmp_path: Path):
    b = empty_files(tmp_path / "b", *(f"{number}.dng" for number in range(40)))
    s = empty_files(tmp_path / "s", "1.dng")
    answer = relo("ingest", b, s, tmp_path / "out", "--dry-run")
    assert answer.code == 3
    assert answer.out.count("unmatched: ") == 20 and "... and 19 more files left out" in answer.out
    assert len(relo("ingest", b, s, tmp_path / "out", "--dry-run", "--json").json["left_out"]) == 39


def test_a_periodic_recording_is_refused(tmp_path: Path):
    folders = []
    for name, shift in (("b", 0), ("s", 100)):
        folder = empty_files(tmp_path / name, *(f"{name}{number:02d}.dng" for number in range(12)))
        for number, file in enumerate(sorted(folder.iterdir())):
            os.utime(file, (1e9 + 2 * number + shift,) * 2)
        folders.append(folder)
    options = ("--by", "time", "--time-from", "mtime")
    relo("ingest", *folders, tmp_path / "out", *options).error("ambiguous", "+100.000 s (12 pairs", "--offset")
    answer = relo("ingest", *folders, tmp_path / "out", *options, "--offset", 102, "--keep-names")
    assert (answer.code, answer.out.count("unmatched: ")) == (3, 2)
    assert (tmp_path / "out" / "scenes" / "scene_00" / "b01_B.dng").is_file()
    # Under exactly this many seconds nothing fits: the clock is told in the message.
    relo("ingest", *folders, tmp_path / "other", *options, "--offset", 1000).error("no pair found", "the nearest")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--by", "csv"), "belong together"),
        (("--by", "name", "--csv", "x.csv"), "belong together"),
        (("--tolerance", 1), "--tolerance needs --by time"),
        (("--offset", 1), "--offset needs --by time"),
        (("--time-from", "mtime"), "--time-from needs"),
        (("--by", "time", "--tolerance", "nan"), "is not a number of seconds"),
        (("--by", "time", "--tolerance", -1), "is not a number of seconds, 0 or more"),
        (("--by", "time", "--offset", "1e30"), "is not a number of seconds"),
        (("--gap", "long"), "is not a number of seconds"),
        (("--scene", "../x"), "starts with a dot"),
        (("--scene", "a/b"), "holds a letter"),
        (("--csv", "none.csv"), "none.csv: cannot be read"),
        (("--by", "time"), "has a time"),
    ],
)
def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], words: str):
    monkeypatch.chdir(tmp_path)
    empty_files(tmp_path / "b", "1.dng")
    empty_files(tmp_path / "s", "1.dng")
    answer = relo("ingest", "b", "s", "out", *options)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be(tmp_path: Path):
    b, s = empty_files(tmp_path / "b", "1.dng"), empty_files(tmp_path / "s", "1.dng")
    relo("ingest", b, s, b / "out").error(b / "out", "lies within the camera's folder")
    relo("ingest", b, s, s, "--dry-run").error("is the camera's folder")
    relo("ingest", b, s, tmp_path, "--dry-run").error(tmp_path, "is not empty and no ingest of relo")
    relo("ingest", b, tmp_path / "x", tmp_path / "out").error(tmp_path / "x", "is no folder")
    relo("ingest", b, s, b / "1.dng" / "out").error("lies within")
    (tmp_path / "file").write_text("")
    relo("ingest", b, s, tmp_path / "file" / "out").error("cannot be written")
