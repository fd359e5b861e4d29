"""Ingest: capture times, names, the clock offset, matching against brute force, the CSV, names, placing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relo.capture.ingest import IngestOptions, place, plan_ingest
from relo.capture.ingest.clock import find_offset, measure, partners
from relo.capture.ingest.files import RoleRule, SourceFile, list_files, natural, without_marker
from relo.capture.ingest.matching import match_times
from relo.capture.ingest.placing import refuse_overlap
from relo.capture.ingest.table import read_table, table_text
from relo.capture.ingest.timestamps import SECOND, CaptureTime, comparable, exif_time, file_time
from relo.errors import CaptureError, ReloError

MS = SECOND // 1000
NOON = 1_772_366_400 * SECOND  # 2026-03-01 12:00:00


def touch(folder: Path, *names: str) -> Path:
    """Files that hold nothing but their own name: names and dates are all that planning looks at."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{folder.name}/{name}")
    return folder


def tiff(
    *, order: str = "<", top: dict[int, str] | None = None, exif: dict[int, str] | None = None, magic: int = 42
) -> bytes:
    """A TIFF without picture: text tags in its first directory and in its EXIF directory."""

    def directory(tags: dict[int, str], start: int, pointer: int | None = None) -> bytes:
        entries = sorted(tags.items())
        number = len(entries) + (pointer is not None)
        place, body, tail = start + 2 + 12 * number + 4, b"", b""
        for tag, text in entries:
            data = text.encode() + b"\0"
            if len(data) <= 4:
                value = data.ljust(4, b"\0")
            else:
                value = struct.pack(order + "I", place + len(tail))
                tail += data
            body += struct.pack(order + "HHI", tag, 2, len(data)) + value
        if pointer is not None:
            body += struct.pack(order + "HHII", 0x8769, 4, 1, pointer)
        return struct.pack(order + "H", number) + body + b"\0\0\0\0" + tail

    first = directory(top or {}, 8, None if exif is None else 0)
    if exif is not None:
        first = directory(top or {}, 8, 8 + len(first))
    mark = b"II" if order == "<" else b"MM"
    header = mark + struct.pack(order + "HI", magic, 8)
    return header + first + (b"" if exif is None else directory(exif, 8 + len(first)))


FULL = {0x9003: "2026:03:01 12:00:01", 0x9291: "25", 0x9011: "+01:00"}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- capture times


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [42, 0x55, 0x4F52])
def test_exif_time_of_a_tiff(tmp_path: Path, order: str, magic: int):
    file = written(
        tmp_path / "a.nef", tiff(order=order, magic=magic, top={0x0132: "2026:05:05 00:00:00"}, exif=FULL)
    )
    assert exif_time(file) == CaptureTime(NOON + SECOND + 250 * MS, 3600 * SECOND)


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b"\0\0\0\x18ftypcrx " + b"\0" * 90 + b"CMT2", b"\0" * 9),
        (b"FUJIFILMCCD-RAW " + b"\0" * 132 + b"\xff\xd8\xff\xe1\x01\x00Exif\0\0", b"\xff\xd9"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x40eXIf", b"crc!"),
    ],
)
def test_exif_time_within_other_containers(tmp_path: Path, head: bytes, tail: bytes):
    inner = tiff(top=FULL) if b"CMT2" in head else tiff(exif=FULL)
    assert exif_time(written(tmp_path / "a.cr3", head + inner + tail)).clock_ns == NOON + SECOND + 250 * MS


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # DateTime with its own fraction where there is no DateTimeOriginal
        ({0x0132: "2026:03:01 12:00:00", 0x9290: "5", 0x9291: "9"}, CaptureTime(NOON + 500 * MS)),
        # an empty DateTimeOriginal is none
        ({0x0132: "2026:03:01 12:00:00", 0x9003: "   "}, CaptureTime(NOON)),
        ({0x9003: "2026:03:01 12:00:00", 0x9291: "x"}, CaptureTime(NOON)),
        ({0x9003: "2026-03-01T12:00:00", 0x9010: "-03:30"}, CaptureTime(NOON, -12600 * SECOND)),
        ({0x9003: "2026:03:01 12:00:00", 0x9291: "123456789012", 0x9011: "Z"}, CaptureTime(NOON + 123456789, 0)),
    ],
)
def test_exif_tags(tmp_path: Path, tags: dict[int, str], expected: CaptureTime):
    assert exif_time(written(tmp_path / "a.dng", tiff(exif=tags))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0000:00:00 00:00:00",
        "2026:13:01 00:00:00",
        "    :  :     :  :  ",
        "9999:01:01 00:00:00",
        "1904:01:01 00:00:00",
    ],
)
def test_implausible_times_are_no_times(tmp_path: Path, text: str):
    with pytest.raises(CaptureError, match="EXIF") as caught:
        exif_time(written(tmp_path / "a.dng", tiff(exif={0x9003: text})))
    assert "--time-from mtime" in caught.value.advice


@pytest.mark.parametrize(
    "data", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"no RAW" * 9, b"II+\0" * 9]
)
def test_damaged_files_have_no_time(tmp_path: Path, data: bytes):
    with pytest.raises(CaptureError, match="no readable EXIF"):
        exif_time(written(tmp_path / "a.dng", data))
    with pytest.raises(CaptureError, match="cannot be read"):
        exif_time(tmp_path / "none.dng")
    with pytest.raises(CaptureError, match="cannot be read"):
        file_time(tmp_path / "none.dng")


@given(st.data())
def test_no_damage_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    whole = bytearray(tiff(exif=FULL))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.dng"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(CaptureError):
        assert 0 <= exif_time(file).clock_ns < 2**63 // 1.1


def test_a_directory_that_points_to_itself_ends(tmp_path: Path):
    data = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + b"\0" * 4
    with pytest.raises(CaptureError):
        exif_time(written(tmp_path / "a.dng", data))


def test_time_zones_count_only_where_every_file_has_one():
    east, west = CaptureTime(7200 * SECOND, 3600 * SECOND), CaptureTime(0, -3600 * SECOND)
    assert comparable([east, west]) == [3600 * SECOND, 3600 * SECOND]
    assert comparable([east, CaptureTime(5)]) == [7200 * SECOND, 5]


# --- names


@pytest.mark.parametrize(
    ("stem", "camera", "key"),
    [
        ("IMG_0001_B", "B", "IMG_0001"),
        ("IMG_0001_b", "B", "IMG_0001"),
        ("B_0001", "B", "0001"),
        ("camB-0001", "B", "0001"),
        ("0001.blur", "B", "0001"),
        ("0001_sharp", "S", "0001"),
        ("IMG_0001_S", "B", "IMG_0001_S"),
        ("IMG_0001", "B", "IMG_0001"),
        ("S_take_S", "S", "S_take"),
        ("B", "B", "B"),
        ("DSCB", "B", "DSCB"),
    ],
)
def test_markers(stem: str, camera: str, key: str):
    assert without_marker(stem, camera) == key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("static_01.dng", ["static"]),
        ("IMG_Static01_B.dng", ["static"]),
        ("ecstatic.dng", []),
        ("statics.dng", []),
        ("lightbox/0001.dng", ["lightbox"]),
        ("day 1/Whiteboard_B/0001.dng", ["whiteboard"]),
        ("static_objects/0001.dng", []),
        ("static_whiteboard.dng", ["static", "whiteboard"]),
    ],
)
def test_words_in_names_tell_the_role(name: str, roles: list[str]):
    assert RoleRule().roles(Path(name)) == roles


def test_patterns_replace_the_words():
    rule = RoleRule({"static": ("DSC_000[12]*", "still/*")})
    assert rule.roles(Path("dsc_0001.NEF")) == ["static"]
    assert rule.roles(Path("still/7.dng")) == ["static"]
    assert rule.roles(Path("static.dng")) == []
    assert rule.roles(Path("whiteboard.dng")) == ["whiteboard"]


def test_listing(tmp_path: Path):
    touch(
        tmp_path,
        "DCIM/100NIKON/DSC_1.NEF",
        "DCIM/100NIKON/DSC_1.JPG",
        "yard/static/2_B.dng",
        ".trash/3.dng",
        "._4.dng",
    )
    touch(tmp_path, "notes.txt", "yard/a/5.dng", "static_whiteboard.dng", "bad\nname.dng")
    (tmp_path / "folder.dng").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.dng")).touch()
    files, left_out = list_files(tmp_path, "B", RoleRule())
    assert {(file.key, file.scene, file.role) for file in files} == {
        ("DSC_1", "", "pair"),
        ("2", "yard", "static"),
        ("5", "yard_a", "pair"),
    }
    assert sorted(item.kind for item in left_out) == ["ambiguous", "unreadable", "unreadable"]
    assert all(str(item).isprintable() for item in left_out)


def test_natural_order():
    assert sorted(["img_10", "img_9", "IMG_1", "a", "10", "9"], key=natural) == [
        "9",
        "10",
        "a",
        "IMG_1",
        "img_9",
        "img_10",
    ]


def plan_pairs(plan) -> dict[str, tuple[str, str]]:
    """`scene/id` -> names of both files."""
    return {
        f"{entry.scene}/{entry.id}": (entry.blur.name, entry.sharp.name)
        for entry in plan.entries
        if entry.role != "lightbox"
    }


def test_by_name(tmp_path: Path):
    b = touch(
        tmp_path / "b",
        "IMG_10_B.NEF",
        "IMG_9_B.dng",
        "img_1.dng",
        "IMG_1.jpg",
        "IMG_3.dng",
        "IMG_4.dng",
        "IMG_4.nef",
    )
    s = touch(
        tmp_path / "s", "S_IMG_10.dng", "IMG_9_S.DNG", "IMG_1_s.dng", "IMG_4.dng", "IMG_7.dng", "static_S.dng"
    )
    touch(b, "static_B.dng", "static2_B.dng", "lightbox_B.dng", "same_B.dng")
    touch(s, "static2_S.dng", "lightbox_1.dng", "lightbox_2.dng", "same_B.dng")
    plan = plan_ingest(b, s, IngestOptions())
    assert plan_pairs(plan) == {
        "scene_00/static_00": ("static2_B.dng", "static2_S.dng"),
        "scene_00/static_01": ("static_B.dng", "static_S.dng"),
        "scene_00/0000": ("img_1.dng", "IMG_1_s.dng"),
        "scene_00/0001": ("IMG_9_B.dng", "IMG_9_S.DNG"),
        "scene_00/0002": ("IMG_10_B.NEF", "S_IMG_10.dng"),
        "scene_00/0003": ("same_B.dng", "same_B.dng"),
    }
    assert [entry.id for entry in plan.entries if entry.role == "lightbox"] == [
        "lightbox",
        "lightbox_00",
        "lightbox_01",
    ]
    assert [(item.file.name, item.kind) for item in plan.left_out] == [
        ("IMG_3.dng", "unmatched"),
        ("IMG_4.dng", "ambiguous"),
        ("IMG_4.nef", "ambiguous"),
        ("IMG_4.dng", "ambiguous"),
        ("IMG_7.dng", "unmatched"),
    ]
    assert plan_ingest(b, s, IngestOptions()) == plan


def test_subfolders_are_scenes(tmp_path: Path):
    b = touch(tmp_path / "b", "yard/1.dng", "yard/2.dng", "hall/1.dng", "hall/static/9.dng", "5.dng")
    s = touch(tmp_path / "s", "Yard/1.dng", "hall/1.dng", "hall/2.dng", "hall/static/9.dng", "5.dng")
    plan = plan_ingest(b, s, IngestOptions())
    assert set(plan_pairs(plan)) == {"scene_00/0000", "yard/0000", "hall/static", "hall/0000"}
    assert {item.file.parent.name for item in plan.left_out} == {"yard", "hall"}
    assert "camera S has no file '2' in 'yard'" in plan.left_out[-1].reason + plan.left_out[0].reason
    # only one camera has subfolders: they name the scenes, and do not stand in the way
    s = touch(tmp_path / "flat", "1.dng", "2.dng")
    b = touch(tmp_path / "deep", "yard/1.dng", "hall/2.dng")
    assert set(plan_pairs(plan_ingest(b, s, IngestOptions()))) == {"yard/0000", "hall/0000"}
    assert set(plan_pairs(plan_ingest(b, s, IngestOptions(scene="all")))) == {"all/0000", "all/0001"}


def test_one_folder_for_both_cameras(tmp_path: Path):
    folder = touch(tmp_path / "card", "1_B.dng", "1_S.dng", "2_B.dng", "3.dng", "B_4_S.dng", "lightbox_S.dng")
    plan = plan_ingest(folder, folder, IngestOptions())
    assert plan_pairs(plan) == {"scene_00/0000": ("1_B.dng", "1_S.dng")}
    assert [(item.file.name, item.kind) for item in plan.left_out] == [
        ("2_B.dng", "unmatched"),
        ("3.dng", "ambiguous"),
        ("B_4_S.dng", "ambiguous"),
    ]
    assert plan.lightbox() == {"B": 0, "S": 1}
    with pytest.raises(CaptureError, match="folder of both cameras"):
        plan_ingest(folder, folder, IngestOptions(by="time"))


def test_folders_of_no_use(tmp_path: Path):
    b, s = touch(tmp_path / "b", "1_B.dng", "2_B.dng"), touch(tmp_path / "s", "1_S.dng", "2_S.dng")
    (tmp_path / "empty").mkdir()
    for first, second, message in (
        (b, tmp_path / "none", "is no folder"),
        (b, tmp_path / "empty", "holds no RAW file"),
        (s, b, "seem to be swapped"),
        (b, touch(tmp_path / "x", "7.dng"), "no pair found among 3 RAW files, for example .*1_B.dng"),
        (b, tmp_path / "b" / "inner", "lies within"),
    ):
        if message == "lies within":
            touch(second, "1.dng")
        with pytest.raises(CaptureError, match=message):
            plan_ingest(first, second, IngestOptions())


def test_kept_names(tmp_path: Path):
    names = "DSC_7.dng", "DSC_10.dng", "rig static.dng", "Lightbox 2.dng"
    b, s = touch(tmp_path / "b", *names), touch(tmp_path / "s", *names)
    plan = plan_ingest(b, s, IngestOptions(keep_names=True))
    assert [entry.id for entry in plan.entries] == ["lightbox 2"] * 2 + ["static_rig static", "DSC_7", "DSC_10"]
    with pytest.raises(CaptureError, match="taken for a reference as 'static"):
        plan_ingest(
            touch(tmp_path / "b2", "static_dance.dng"),
            touch(tmp_path / "s2", "static_dance.dng"),
            IngestOptions(keep_names=True, rule=RoleRule({"static": ("none*",)})),
        )
    b, s = (dated(tmp_path / name, {"100CANON/1.dng": 1, "101CANON/1.dng": 8}) for name in ("b3", "s3"))
    with pytest.raises(CaptureError, match="would both be pair '1' of scene"):
        plan_ingest(b, s, IngestOptions(by="time", time_from="mtime", offset_ns=0, keep_names=True))


def test_scenes_that_differ_in_case_only(tmp_path: Path):
    b, s = (touch(tmp_path / name, "Yard/1.dng", "yard/2.dng") for name in "bs")
    with pytest.raises(CaptureError, match="'Yard' and 'yard' differ in upper and lower case"):
        plan_ingest(b, s, IngestOptions())


# --- by time


def oracle(blur: list[int], sharp: list[int], offset: int, tolerance: int) -> set[tuple[int, int]]:
    """Pairs of positions that see nobody but each other, by trying them all."""
    near = {(i, j) for i, b in enumerate(blur) for j, s in enumerate(sharp) if abs(s - b - offset) <= tolerance}
    return {(i, j) for i, j in near if sum(a == i for a, _ in near) == 1 and sum(c == j for _, c in near) == 1}


small = st.lists(st.integers(0, 60), max_size=12)


@given(small, small, st.integers(-10, 10), st.integers(0, 6))
def test_partners_against_brute_force(blur: list[int], sharp: list[int], offset: int, tolerance: int):
    blur, sharp = sorted(blur), sorted(sharp)
    found = partners(np.array(blur, np.int64), np.array(sharp, np.int64), offset, tolerance)
    assert set(zip(found.blur.tolist(), found.sharp.tolist(), strict=True)) == oracle(
        blur, sharp, offset, tolerance
    )


@given(small, small, st.integers(-10, 10), st.integers(0, 6))
def test_every_file_is_paired_or_explained(blur: list[int], sharp: list[int], offset: int, tolerance: int):
    b = [SourceFile(Path(f"/b/{index}.dng"), "B", str(index)) for index in range(len(blur))]
    s = [SourceFile(Path(f"/s/{index}.dng"), "S", str(index)) for index in range(len(sharp))]
    pairs, left_out = match_times(b, s, blur, sharp, offset, tolerance)
    expected = oracle(blur, sharp, offset, tolerance)
    assert {(int(x.key), int(y.key)) for x, y in pairs} == expected
    told = [item.file for item in left_out]
    assert sorted([*told, *(file.path for pair in pairs for file in pair)]) == sorted(
        file.path for file in (*b, *s)
    )
    for item in left_out:
        mine, others, shift = (blur, sharp, offset) if item.file.parent.name == "b" else (sharp, blur, -offset)
        near = sum(abs(value - mine[int(item.file.stem)] - shift) <= tolerance for value in others)
        assert (item.kind == "unmatched") == (near == 0), item


def test_an_unmatched_file_tells_how_far_its_nearest_is():
    b, s = SourceFile(Path("b.dng"), "B", "b"), SourceFile(Path("s.dng"), "S", "s")
    _, left_out = match_times([b], [s], [0], [3 * SECOND + 250 * MS], SECOND, SECOND // 2)
    assert [item.reason for item in left_out] == [
        "camera S has no file within 0.5 s; the nearest, s.dng, is 2.250 s away",
        "camera B has no file within 0.5 s; the nearest, b.dng, is 2.250 s away",
    ]


def recording(rng: np.random.Generator, number: int, mean_s: float = 4.0) -> np.ndarray:
    """Times of a person pressing the button: at least half a second apart, then whenever."""
    return NOON + np.cumsum((0.5 + rng.exponential(mean_s - 0.5, number)) * SECOND).astype(np.int64)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("number", "missing", "mean_s"), [(8, 0.0, 20.0), (40, 0.2, 8.0), (400, 0.3, 4.0)])
def test_the_offset_is_found(seed: int, number: int, missing: float, mean_s: float):
    """Jitter of 20 ms, a clock 30 ppm fast, frames missing on both sides, strangers in between."""
    rng = np.random.default_rng(seed)
    times = recording(rng, number, mean_s)
    true = int(rng.uniform(-5e4, 5e4) * SECOND)
    seen = [times[rng.random(number) >= missing] for _ in "BS"]
    strangers = [NOON + rng.integers(0, int(np.ptp(times)), number // 10) for _ in "BS"]
    blur = np.sort(np.r_[seen[0], strangers[0]])
    drifted = seen[1] + (3e-5 * (seen[1] - NOON)).astype(np.int64)
    sharp = np.sort(np.r_[drifted + rng.normal(0, 20 * MS, drifted.size).astype(np.int64), strangers[1]] + true)
    found = find_offset(blur, sharp, SECOND // 2)
    assert abs(found.offset_ns - true) < 60 * MS
    # chance takes a pair away where a stranger stands too near, and gives one now and then
    common = np.intersect1d(*seen).size
    assert 0.7 * common - 1 <= found.pairs <= common + 0.1 * number
    assert found.spread_ns < 80 * MS and not found.given


def test_drift_is_reported():
    blur = recording(np.random.default_rng(1), 200, 20.0)
    sharp = blur + 7 * SECOND + (1e-4 * (blur - blur[0])).astype(np.int64)
    found = find_offset(blur, sharp, SECOND // 2)
    assert found.pairs == 200
    assert found.drift_ns == pytest.approx(1e-4 * np.ptp(blur), rel=0.01)
    assert measure(blur, sharp, found.offset_ns, SECOND // 2, given=True).given


def test_whole_seconds_are_enough():
    """Clocks without fractions differ by one of two neighbouring seconds, depending on where the second falls."""
    rng = np.random.default_rng(3)
    times = NOON + np.cumsum(rng.integers(3000, 9000, 60)) * MS
    blur, sharp = ((times + shift) // SECOND * SECOND for shift in (0, 3456 * SECOND + 400 * MS))
    found = find_offset(blur, sharp, SECOND // 2)
    assert (found.pairs, found.offset_ns) == (60, 3456 * SECOND + 500 * MS)


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("number", [4, 30, 300])
def test_a_periodic_recording_is_not_guessed(number: int, missing: int):
    rng = np.random.default_rng(number)
    times = NOON + np.arange(number) * 2 * SECOND
    blur, sharp = (times + rng.normal(0, 2 * MS, number).astype(np.int64) for _ in "BS")
    with pytest.raises(CaptureError, match="ambiguous") as caught:
        find_offset(blur, sharp[missing:] + 5 * SECOND, SECOND // 2)
    assert re.search(r"\+(4\.99|5\.00)", caught.value.reason) and "--offset" in caught.value.advice


def test_a_period_with_the_same_jitter_in_both_cameras_is_clear():
    """One trigger with 100 ms of jitter: only the true offset makes the two clocks agree."""
    rng = np.random.default_rng(0)
    blur = NOON + np.arange(50) * 2 * SECOND + rng.normal(0, 100 * MS, 50).astype(np.int64)
    sharp = blur[1:] + 9 * SECOND + rng.normal(0, 2 * MS, 49).astype(np.int64)
    assert find_offset(blur, sharp, SECOND // 2).offset_ns == pytest.approx(9 * SECOND, abs=5 * MS)


def test_unrelated_recordings_are_refused():
    blur, sharp = (recording(np.random.default_rng(seed), 60) for seed in (1, 2))
    with pytest.raises(CaptureError, match="ambiguous"):
        find_offset(blur, sharp, SECOND // 10)


def test_bursts_faster_than_the_tolerance_are_refused():
    times = NOON + np.arange(40) * 100 * MS
    with pytest.raises(CaptureError, match=r"cannot be found|ambiguous"):
        find_offset(times, times, SECOND // 2)
    assert measure(times, times, 0, 40 * MS, given=True).pairs == 40


def test_two_pairs_agree_on_some_offset_by_chance():
    times = NOON + np.array([0, 7, 31]) * SECOND
    assert find_offset(times, times + 5, SECOND // 2).pairs == 3
    with pytest.raises(CaptureError, match="no more than 2 pairs agree on one, 3 are needed"):
        find_offset(times[:2], times, SECOND // 2)
    with pytest.raises(CaptureError, match="no more than 1 pairs"):
        find_offset(times[:1], times[:1], SECOND // 2)


def test_scenes_of_periodic_frames_agree_on_their_pauses_only_once():
    """Twelve scenes of 20 frames, 2 s apart: one frame later 228 of 240 pairs still fit."""
    rng = np.random.default_rng(4)
    steps = np.where(np.arange(240) % 20 == 0, rng.uniform(30, 200, 240), 2.0)
    blur = NOON + (np.cumsum(steps) * SECOND).astype(np.int64)
    sharp = blur + rng.normal(0, 2 * MS, 240).astype(np.int64)
    assert abs(find_offset(blur, sharp, SECOND // 2).offset_ns) < 5 * MS
    with pytest.raises(CaptureError, match="ambiguous"):
        find_offset(blur, sharp[rng.random(240) > 0.1], SECOND // 2)


def dated(folder: Path, times: Mapping[str, float]) -> Path:
    """Files with a date of last change, in seconds after noon."""
    touch(folder, *times)
    for name, seconds in times.items():
        moment = NOON + round(seconds * SECOND)
        os.utime(folder / name, ns=(moment, moment))
    return folder


def test_2405_pairs_are_planned_in_seconds(tmp_path: Path):
    times = (recording(np.random.default_rng(5), 2405) - NOON) / SECOND
    b = dated(tmp_path / "b", {f"DSC_{index:04d}.dng": t for index, t in enumerate(times)})
    s = dated(tmp_path / "s", {f"IMG_{index:04d}.dng": t + 11 for index, t in enumerate(times)})
    start = time.process_time()
    plan = plan_ingest(b, s, IngestOptions(by="time", time_from="mtime", gap_ns=20 * SECOND))
    assert time.process_time() - start < 10, "a few seconds of work; the rest is room for a busy machine"
    assert plan.offset is not None and plan.offset.offset_ns == 11 * SECOND
    assert sum(counts["pair"] for counts in plan.counts().values()) > 2000
    assert all(x[4:8] == y[4:8] for x, y in plan_pairs(plan).values())


def test_times_roles_and_scenes_from_either_camera(tmp_path: Path):
    b = dated(
        tmp_path / "b",
        {"yard/x1.dng": 1, "yard/x2.dng": 4, "hall/x3.dng": 9, "hall/x4_static.dng": 20.5, "x5.dng": 33},
    )
    s = dated(
        tmp_path / "s", {"y1.dng": 1, "yard/y2.dng": 4, "yard/y3.dng": 9, "y4.dng": 20.5, "y5_whiteboard.dng": 33}
    )
    plan = plan_ingest(b, s, IngestOptions(by="time", time_from="mtime"))
    assert plan_pairs(plan) == {
        "hall/static": ("x4_static.dng", "y4.dng"),
        "scene_00/whiteboard": ("x5.dng", "y5_whiteboard.dng"),
        "yard/0000": ("x1.dng", "y1.dng"),
        "yard/0001": ("x2.dng", "y2.dng"),
    }
    assert {item.file.name for item in plan.left_out} == {"x3.dng", "y3.dng"}
    assert "'hall' and 'yard'" in plan.left_out[0].reason


def test_gaps_split_scenes(tmp_path: Path):
    times = {"a.dng": 0, "b.dng": 5, "static.dng": 40, "c.dng": 45, "d.dng": 200}
    b, s = dated(tmp_path / "b", times), dated(tmp_path / "s", times)

    def scenes(**options) -> dict[str, dict[str, int]]:
        plan = plan_ingest(b, s, IngestOptions(time_from="mtime", **options))
        return {scene: sum(counts.values()) for scene, counts in plan.counts().items()}

    assert scenes() == {"scene_00": 5}
    assert scenes(gap_ns=30 * SECOND) == {"scene_00": 2, "scene_01": 2, "scene_02": 1}
    assert scenes(gap_ns=35 * SECOND, scene="hall") == {"hall_00": 4, "hall_01": 1}, "a gap must be longer"
    assert scenes(gap_ns=300 * SECOND, scene="hall") == {"hall": 5}


def test_files_without_time_are_left_out(tmp_path: Path):
    b, s = tmp_path / "b", tmp_path / "s"
    for folder in (b, s):
        folder.mkdir()
        for name, moment in (("1", "12:00:00"), ("2", "12:00:09"), ("3", "12:01:00")):
            written(folder / f"{name}.dng", tiff(exif={0x9003: f"2026:03:01 {moment}"}))
    (b / "2.dng").write_bytes(b"II*\0" + b"\xff" * 40)
    plan = plan_ingest(b, s, IngestOptions(by="time", offset_ns=0))
    assert [(item.file.parent.name, item.file.name, item.kind) for item in plan.left_out] == [
        ("b", "2.dng", "unreadable"),
        ("s", "2.dng", "unmatched"),
    ]
    plan = plan_ingest(b, s, IngestOptions(gap_ns=30 * SECOND))
    assert [item.kind for item in plan.left_out] == ["unreadable", "unreadable"]
    assert set(plan.counts()) == {"scene_00", "scene_01"}
    for file in b.iterdir():
        file.write_bytes(b"")
    for options in (IngestOptions(by="time"), IngestOptions(gap_ns=1)):
        with pytest.raises(CaptureError, match="camera B has"):
            plan_ingest(b, s, options)


# --- CSV


def table(tmp_path: Path, text: str, encoding: str = "utf-8"):
    b, s = touch(tmp_path / "b", "1.dng", "2.dng", "box.dng", "a,b.dng"), touch(tmp_path / "s", "1.nef", "2.nef")
    file = tmp_path / "pairs.csv"
    file.write_bytes(text.encode(encoding))
    return read_table(file, b, s, RoleRule())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_programs_write_it(tmp_path: Path, separator: str, encoding: str, end: str):
    lines = [
        ["Sharp", " blur", "scene", "ID", "role"],
        ["1.nef", "1.dng", "hällway", "", "static"],
        ["", "", "", "", ""],
    ]
    lines += [["2.nef", f"{tmp_path}/b/2.dng", "yard", "x7", ""], ["", "box.dng", "", "", "Lightbox"]]
    first, second, box = table(tmp_path, end.join(separator.join(line) for line in lines) + end, encoding)
    assert (first.line, first.scene, first.role, first.id) == (2, "hällway", "static", None)
    assert (second.line, second.role, second.id, second.blur.name) == (4, "pair", "x7", "2.dng")
    assert (box.role, box.sharp, box.blur.name) == ("lightbox", None, "box.dng")


def test_csv_with_quotes(tmp_path: Path):
    (row,) = table(tmp_path, 'blur,sharp\n"a,b.dng",1.nef\n')
    assert row.blur.name == "a,b.dng"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("blur,sharp\n", "no line below"),
        ("blur\n1.dng\n", "line 1: column 'sharp' is missing"),
        ("blur,sharp,scenes\n", "line 1: unknown column 'scenes'"),
        ("blur,sharp,blur\n", "line 1: column 'blur' stands there twice"),
        ("blur,sharp\n1.dng,3.nef\n", "line 2, column 'sharp': '3.nef' is no file in"),
        ("blur,sharp\n1.dng,1.txt\n", "line 2, column 'sharp': '1.txt' is no RAW file"),
        ("blur,sharp\n1.dng," + "x" * 300 + ".dng\n", "line 2, column 'sharp'"),
        ("blur,sharp\n1.dng,\n", "line 2, column 'sharp': is empty"),
        ("blur,sharp\n1.dng,1.nef,9\n", "line 2, column 'sharp': is followed by 1 more"),
        ("blur,sharp\n1.dng,1.nef\n1.dng,2.nef\n", "line 3, column 'blur': '1.dng' stands in line 2 already"),
        ("blur,sharp,role\n1.dng,1.nef,dark\n", "line 2, column 'role': unknown role 'dark'"),
        ("blur,sharp,scene\n1.dng,1.nef,../x\n", "line 2, column 'scene': '../x' starts with a dot"),
        ("blur,sharp,scene\n1.dng,1.nef,a/b\n", "line 2, column 'scene': 'a/b' holds a letter"),
        ("blur,sharp,scene\n1.dng,1.nef,\n", "line 2, column 'scene': is empty"),
        ("blur,sharp,id\n1.dng,1.nef,static_1\n", "line 2, column 'id': 'static_1' is the name of a reference"),
        ("blur,sharp,id\n1.dng,1.nef,a\\b\n", "line 2, column 'id'"),
        ('blur,sharp\n"1.dng,1.nef\n', "is no CSV"),
        ("blur,sharp\n9.dng,1.nef\n8.dng,\n7.dng,2.nef\n", r"line 2, column 'blur'.*\(also wrong: line 3, 4\)"),
    ],
)
def test_mistakes_in_a_csv_are_told_with_their_place(tmp_path: Path, text: str, words: str):
    with pytest.raises(CaptureError, match=words) as caught:
        table(tmp_path, text)
    assert caught.value.file == tmp_path / "pairs.csv" and caught.value.advice


def test_csv_of_another_encoding(tmp_path: Path):
    with pytest.raises(CaptureError, match="no UTF-8"):
        table(tmp_path, "blur,sharp\nü.dng,1.nef\n", "latin-1")


def test_csv_plan_round_trip(tmp_path: Path):
    b = touch(
        tmp_path / "b", "7.dng", "8.dng", "9.dng", "static_B.dng", "lightbox1.dng", "lightbox2.dng", "extra.dng"
    )
    s = touch(tmp_path / "s", "107.dng", "108.dng", "109.dng", "static_S.dng", "lightbox.dng")
    file = tmp_path / "pairs.csv"
    file.write_text(
        "scene,id,blur,sharp\nyard,late,9.dng,109.dng\nyard,,7.dng,107.dng\nyard,0000,8.dng,108.dng\n"
        "yard,,static_B.dng,static_S.dng\n,,lightbox1.dng,lightbox.dng\n,,lightbox2.dng,\n"
    )
    options = IngestOptions(by="csv", csv=file)
    plan = plan_ingest(b, s, options)
    assert plan_pairs(plan) == {
        "yard/static": ("static_B.dng", "static_S.dng"),
        "yard/late": ("9.dng", "109.dng"),
        "yard/0001": ("7.dng", "107.dng"),
        "yard/0000": ("8.dng", "108.dng"),
    }
    assert plan.lightbox() == {"B": 2, "S": 1}
    assert plan.left_out == () and "1 RAW files stand in no line" in plan.warnings[0]
    again = tmp_path / "again.csv"
    again.write_text(table_text(plan.entries))
    assert plan_ingest(b, s, IngestOptions(by="csv", csv=again)).entries == plan.entries
    for wrong in (IngestOptions(by="csv", csv=file, gap_ns=1), IngestOptions(by="csv", csv=file, scene="x")):
        with pytest.raises(CaptureError, match="names the scenes"):
            plan_ingest(b, s, wrong)


def test_two_lines_with_one_id(tmp_path: Path):
    b, s = touch(tmp_path / "b", "1.dng", "2.dng"), touch(tmp_path / "s", "1.dng", "2.dng")
    file = tmp_path / "pairs.csv"
    file.write_text("blur,sharp,id\n1.dng,1.dng,a\n2.dng,2.dng,A\n")
    with pytest.raises(CaptureError, match="would both be pair 'A'"):
        plan_ingest(b, s, IngestOptions(by="csv", csv=file))
    file.write_text(
        "blur,sharp,id,role\n1.dng,,a,lightbox\n2.dng,,A,lightbox\n,1.dng,,\n".replace(",1.dng,,", "b.dng,1.dng,,")
    )
    touch(b, "b.dng")
    with pytest.raises(CaptureError, match="second 'lightbox_A' of camera B"):
        plan_ingest(b, s, IngestOptions(by="csv", csv=file))


# --- placing


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    b = touch(tmp_path / "b", "1.NEF", "2.dng", "static.dng", "lightbox.dng", "1.json")
    return b, touch(tmp_path / "s", "1.dng", "2.dng", "static.dng")


LAID_OUT = {
    "ingest.csv",
    "calibration/lightbox_B.dng",
    *(
        f"scenes/scene_00/{name}"
        for name in ("0000_B.nef", "0000_B.json", "0000_S.dng", "0001_B.dng", "0001_S.dng")
    ),
    *(f"scenes/scene_00/static_{camera}.dng" for camera in "BS"),
}


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def snapshot(*folders: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("how", "counted"), [("link", "linked"), ("symlink", "symlinked"), ("copy", "copied")])
def test_placing_and_placing_again(tmp_path: Path, folders: tuple[Path, Path], how, counted: str):
    before = snapshot(*folders)
    plan = plan_ingest(*folders, IngestOptions())
    out = tmp_path / "new" / "session"
    placed = place(plan, out, how)
    assert getattr(placed, counted) == 7 and placed.skipped == 0
    assert tree(out) == LAID_OUT
    scene = out / "scenes" / "scene_00"
    assert (scene / "0000_B.nef").read_text() == "b/1.NEF"
    assert (scene / "0000_B.nef").stat().st_mtime_ns == (folders[0] / "1.NEF").stat().st_mtime_ns
    assert (scene / "0000_B.nef").is_symlink() == (how == "symlink")
    assert not (scene / "0000_B.json").is_symlink()
    # editing a sidecar in the session leaves the source alone, and is kept
    (scene / "0000_B.json").write_text("{}")
    after = snapshot(out)
    again = place(plan_ingest(*folders, IngestOptions()), out, how)
    assert (again.skipped, again.linked, again.symlinked, again.copied) == (7, 0, 0, 0)
    assert snapshot(out) == after
    # what is missing is made again, what is different is not touched
    (scene / "0001_S.dng").unlink()
    assert place(plan, out, how).skipped == 6
    (scene / "0001_S.dng").unlink()
    (scene / "0001_S.dng").write_text("s/3.dng")
    (scene / "0001_B.dng").unlink()
    with pytest.raises(CaptureError, match="differs from"):
        place(plan, out, how)
    assert not (scene / "0001_B.dng").exists()
    assert snapshot(*folders) == before


def test_an_interrupted_run_continues(tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    plan = plan_ingest(*folders, IngestOptions())

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place(plan, tmp_path / "out", "copy", stop)
    assert tree(tmp_path / "out") < LAID_OUT
    (tmp_path / "out" / "scenes" / "scene_00" / "0001_B.dng.part").write_text("half")
    placed = place(plan, tmp_path / "out", "copy")
    assert placed.copied and placed.skipped
    assert tree(tmp_path / "out") == LAID_OUT


def test_what_cannot_be_linked_is_copied(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    placed = place(plan_ingest(*folders, IngestOptions()), tmp_path / "out")
    assert (placed.linked, placed.copied) == (0, 7)
    assert tree(tmp_path / "out") == LAID_OUT


@pytest.mark.parametrize("linkable", [True, False])
def test_a_full_disk_is_seen_before_the_first_copy(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, linkable: bool
):
    plan = plan_ingest(*folders, IngestOptions())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20))
    with pytest.raises(ReloError, match="No space left"):
        place(plan, tmp_path / "out", "copy")
    assert not (tmp_path / "out").exists()
    if linkable:
        assert place(plan, tmp_path / "out", "link").linked == 7
    else:
        monkeypatch.setattr("relo.capture.ingest.placing._links", lambda source, probe: False)
        with pytest.raises(ReloError, match="No space left"):
            place(plan, tmp_path / "out", "link")


def test_a_foreign_folder_is_left_alone(tmp_path: Path, folders: tuple[Path, Path]):
    plan = plan_ingest(*folders, IngestOptions())
    other = touch(tmp_path / "other", "thesis.docx")
    with pytest.raises(CaptureError, match="is not empty and no ingest"):
        place(plan, other)
    assert tree(other) == {"thesis.docx"}
    with pytest.raises(CaptureError, match="is no folder"):
        place(plan, other / "thesis.docx")
    place(plan, tmp_path / "out")
    touch(folders[0], "3.dng")
    touch(folders[1], "3.dng")
    with pytest.raises(CaptureError, match="holds another ingest"):
        place(plan_ingest(*folders, IngestOptions()), tmp_path / "out")
    for out, words in ((folders[0], "is the camera's folder"), (folders[1] / "x", "lies within")):
        with pytest.raises(CaptureError, match=words):
            refuse_overlap(out, *folders)
    refuse_overlap(tmp_path / "elsewhere", *folders)


def test_sources_that_are_symbolic_links(tmp_path: Path, folders: tuple[Path, Path]):
    cards = tmp_path / "cards"
    for folder in folders:
        (cards / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (cards / folder.name / file.name).symlink_to(file)
    place(plan_ingest(cards / "b", cards / "s", IngestOptions()), tmp_path / "out")
    shutil.rmtree(cards)
    target = tmp_path / "out" / "scenes" / "scene_00" / "0001_S.dng"
    assert not target.is_symlink() and target.read_text() == "s/2.dng"
