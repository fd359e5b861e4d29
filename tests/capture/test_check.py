"""`check_session` on a small simulated session, whole and damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from relo.capture import SimulationConfig, open_session, read_raw, simulate_session, write_dng
from relo.capture.check import SessionCheck, check_session


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SimulationConfig(width=161, height=123, scenes=2, pairs=2, seed=3)
    return simulate_session(tmp_path_factory.mktemp("check") / "session", config)


@pytest.fixture
def session(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "session"))


def check(path: Path) -> SessionCheck:
    return check_session(open_session(path))


def test_a_good_session_has_nothing_to_say(pristine):
    steps: list[tuple[int, int, str]] = []
    result = check_session(open_session(pristine), lambda *step: steps.append(step))
    assert result.pairs == result.good == {"scene_00": 2, "scene_01": 2}
    assert result.problems == []
    assert result.warnings == []
    # 2 lightbox frames, then static, whiteboard and two pairs a scene
    assert [done for done, _, _ in steps] == list(range(1, 11))
    assert {total for _, total, _ in steps} == {10}


def test_a_truncated_pair_stops_only_itself(session):
    victim = session / "scenes" / "scene_00" / "0001_S.dng"
    victim.write_bytes(victim.read_bytes()[:9000])
    result = check(session)
    assert result.pairs == {"scene_00": 2, "scene_01": 2}
    assert result.good == {"scene_00": 1, "scene_01": 2}
    (problem,) = result.problems
    assert (problem.file, problem.scene, problem.pair) == (victim, "scene_00", "0001")
    assert str(problem).startswith(str(victim))


def test_a_missing_partner_counts_as_a_pair_that_is_not_good(session):
    (session / "scenes" / "scene_00" / "0000_B.dng").unlink()
    result = check(session)
    assert result.pairs["scene_00"] == 2
    assert result.good["scene_00"] == 1


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_without_a_static_pair_nothing_is_good(session, damage):
    static = session / "scenes" / "scene_01" / "static_B.dng"
    if damage == "missing":
        static.unlink()
        (session / "scenes" / "scene_01" / "static_S.dng").unlink()
    else:
        static.write_bytes(static.read_bytes()[:5000])
    result = check(session)
    assert result.good == {"scene_00": 2, "scene_01": 0}
    assert [problem.file for problem in result.problems] == [static]


def test_a_damaged_whiteboard_pair_stops_no_pair(session):
    board = session / "scenes" / "scene_01" / "whiteboard_S.dng"
    board.write_bytes(b"")
    result = check(session)
    assert result.good == {"scene_00": 2, "scene_01": 2}
    assert [problem.file for problem in result.problems] == [board]


def test_a_missing_lightbox_frame_is_a_problem(session):
    (session / "calibration" / "lightbox_S.dng").unlink()
    (problem,) = check(session).problems
    assert problem.file.name == "lightbox_S.dng"
    assert "colour.enabled=false" in problem.advice


def test_another_size_than_the_static_pair(session, make_frame):
    folder = session / "scenes" / "scene_00"
    for camera in "BS":
        write_dng(folder / f"0001_{camera}.dng", make_frame((60, 80)))
    result = check(session)
    (problem,) = result.problems
    assert problem.pair == "0001"
    assert "80x60" in problem.reason
    assert "161x123" in problem.reason


def _rewrite(path: Path, change) -> None:
    frame = read_raw(path)
    mosaic = frame.mosaic.copy()
    change(mosaic)
    write_dng(path, type(frame)(**(vars(frame) | {"mosaic": mosaic})))


def test_saturation_is_a_warning(session):
    def clip(mosaic: np.ndarray) -> None:
        mosaic[:20] = 16383

    _rewrite(session / "scenes" / "scene_00" / "0000_B.dng", clip)
    _rewrite(session / "calibration" / "lightbox_B.dng", clip)
    result = check(session)
    assert result.problems == []
    assert len(result.warnings) == 2
    assert any("lightbox_B.dng: 16.3 %" in warning for warning in result.warnings)
    assert any("0000_B.dng: 16." in warning for warning in result.warnings)


def test_exposure_times_that_differ_or_are_missing(session):
    folder = session / "scenes" / "scene_00"
    (session / "session.yaml").unlink()
    frame = read_raw(folder / "0000_B.dng")
    write_dng(folder / "0000_B.dng", type(frame)(**(vars(frame) | {"exposure_s": 0.5})))
    frame = read_raw(folder / "0000_S.dng")
    write_dng(folder / "0000_S.dng", type(frame)(**(vars(frame) | {"exposure_s": None})))
    warnings = [warning for warning in check(session).warnings if "scene_00" in warning]
    assert len(warnings) == 2
    assert any("camera B uses 2 different exposure times" in warning for warning in warnings)
    assert any("camera S records no exposure time" in warning for warning in warnings)


def test_other_files_and_empty_scenes_are_mentioned(session):
    (session / "scenes" / "scene_00" / "notes.txt").write_text("windy")
    (session / "scenes" / "empty").mkdir()
    result = check(session)
    assert result.pairs["empty"] == 0
    assert any("notes.txt" in warning for warning in result.warnings)
    assert any("empty" in warning and "no pair" in warning for warning in result.warnings)
    assert [problem.scene for problem in result.problems] == ["empty"]
