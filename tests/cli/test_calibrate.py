"""`relo calibrate`: what it writes, and how `relo process` and `relo check` use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.program import relo

from relo.capture import open_session, read_raw, write_dng
from relo.images import read_image
from relo.postprocess.colour import fit_colour_cast
from relo.shards import open_dataset
from relo.shards.reader import close_files


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    yield Path(shutil.copytree(small_session, tmp_path / "s"))
    close_files()


def test_it_writes_the_calibration_and_a_picture(session: Path):
    answer = relo("calibrate", session)
    assert answer.code == 0, answer
    assert answer.out.splitlines()[-3:] == [
        "done 2, skipped 0, quarantined 0, failed 0",
        f"output: {session / 'calibration' / 'colour.json'}",
        f"next:   relo process {session}",
    ]
    stored = json.loads((session / "calibration" / "colour.json").read_text())
    assert stored["format"] == "relo-colour"
    assert stored["settings"]["degree"] == 3
    for camera in "BS":
        frame = read_raw(session / "calibration" / f"lightbox_{camera}.dng", camera=camera)
        assert stored["cameras"][camera]["coefficients"] == fit_colour_cast(frame).coefficients.tolist()
        assert (stored["cameras"][camera]["height"], stored["cameras"][camera]["width"]) == frame.shape
        assert list(stored["cameras"][camera]["sources"]) == [f"lightbox_{camera}.dng"]
    picture = read_image(session / "calibration" / "colour.png")
    before, _, after = np.array_split(picture, 3, axis=1)
    # The stretched frame before the correction is colourful, the one after it even at ten times the contrast grey.
    assert np.ptp(before[40:80, 20:-20].astype(int), axis=2).mean() > 20
    assert np.ptp(after[40:80, 20:-20].astype(int), axis=2).mean() < 60


def test_a_second_run_has_nothing_to_do_and_another_one_asks(session: Path):
    relo("calibrate", session)
    before = (session / "calibration" / "colour.json").read_bytes()
    assert "skipped 2" in relo("calibrate", session).out
    relo("calibrate", session, "--set", "colour.degree=5").error("holds another calibration", "--overwrite")
    assert (session / "calibration" / "colour.json").read_bytes() == before
    answer = relo("calibrate", session, "--set", "colour.degree=5", "--overwrite", "--json").json
    assert answer["cameras"]["S"]["degree"] == 5
    assert (
        len(json.loads((session / "calibration" / "colour.json").read_text())["cameras"]["B"]["coefficients"][0])
        == 21
    )


def test_process_uses_it_in_place_of_the_frames(session: Path):
    assert relo("process", session, session.with_name("frames")).code == 0
    relo("calibrate", session)
    for camera in "BS":
        (session / "calibration" / f"lightbox_{camera}.dng").unlink()
    assert relo("check", session).code == 0
    answer = relo("process", session, session.with_name("file"))
    assert answer.code == 0, answer
    first, second = (open_dataset(session.with_name(name)) for name in ("frames", "file"))
    for a, b in zip(first, second, strict=True):
        assert (a.blur == b.blur).all()
    assert "calibration/colour.json" in second.shards[0].attrs["sources"]
    assert "calibration/lightbox_B.dng" not in second.shards[0].attrs["sources"]
    assert (
        first.shards[0].file["calibration/colour_B"][()] == second.shards[0].file["calibration/colour_B"][()]
    ).all()


def test_a_calibration_that_is_out_of_date_is_no_silent_one(session: Path):
    relo("calibrate", session)
    path = session / "calibration" / "lightbox_S.dng"
    frame = read_raw(path)
    write_dng(path, type(frame)(**(vars(frame) | {"mosaic": np.maximum(frame.mosaic, 600)})))
    relo("process", session).error("colour.json", "lightbox_S.dng", "relo calibrate --overwrite")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read as JSON"),
        (lambda text: text.replace('"B"', '"C"'), "no calibration of camera B"),
        (lambda text: text.replace('"relo-colour"', '"other"'), "format"),
        (lambda text: text.replace('"version": 1', '"version": 1, "more": 2'), "unknown key"),
        (lambda text: text.replace('"coefficients": [', '"coefficients": [[1.0], ', 1), "coefficients"),
    ],
)
def test_a_damaged_calibration_is_named(session: Path, damage, words: str):
    relo("calibrate", session)
    path = session / "calibration" / "colour.json"
    path.write_text(damage(path.read_text()))
    relo("process", session).error("colour.json", words, "relo calibrate --overwrite")


def test_factors_that_are_not_positive_are_refused(session: Path):
    relo("calibrate", session)
    path = session / "calibration" / "colour.json"
    stored = json.loads(path.read_text())
    stored["cameras"]["B"]["coefficients"][1][-1] = -1.0
    path.write_text(json.dumps(stored))
    relo("process", session).error("camera B", "not positive")


def test_what_cannot_be_calibrated(session: Path, tmp_path: Path):
    relo("calibrate", tmp_path / "nothing").error("is no folder")
    relo("calibrate", session, "--set", "colour.enabled=false").error("nothing to calibrate")
    relo("calibrate", session, "--set", "colour.degree=6").error("colour.degree")
    (session / "calibration" / "lightbox_B.dng").unlink()
    relo("calibrate", session).error("lightbox_B.dng", "is missing")


def test_the_better_of_several_frames_is_used_and_the_other_named(session: Path):
    path = session / "calibration" / "lightbox_B.dng"
    frame = read_raw(path, camera="B")
    brighter = np.minimum(frame.mosaic.astype(np.float64) * 2.5, 16383).astype(np.uint16)
    write_dng(path.with_name("lightbox_2_B.dng"), type(frame)(**(vars(frame) | {"mosaic": brighter})))
    answer = relo("calibrate", session)
    assert answer.code == 0
    assert "over-exposed" in answer.err
    assert open_session(session).colour_file == session / "calibration" / "colour.json"
