"""Session folders: what pairs with what, what is a problem, what is ignored."""

from pathlib import Path

import pytest

from relo.capture.dng import write_dng
from relo.capture.session import open_session
from relo.errors import CaptureError, ConfigError


def _touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_pairs_are_matched_by_name(tmp_path):
    # S has one file more at the front: by position every pair would be wrong.
    _touch(tmp_path / "scenes" / "a", "0001_B.dng", "0002_B.dng", "0000_S.dng", "0001_S.nef", "0002_S.dng",
           "static_B.dng", "static_S.dng", "static2_B.dng", "static2_S.dng", "whiteboard_B.dng",
           "whiteboard_S.dng")  # fmt: skip
    (scene,) = open_session(tmp_path).scenes
    assert [(pair.id, pair.blur.name, pair.sharp.name) for pair in scene.pairs] == [
        ("0001", "0001_B.dng", "0001_S.nef"),
        ("0002", "0002_B.dng", "0002_S.dng"),
    ]
    assert [pair.id for pair in scene.static] == ["static", "static2"]
    assert [pair.id for pair in scene.whiteboard] == ["whiteboard"]
    (problem,) = scene.problems
    assert (problem.file.name, problem.pair, problem.scene) == ("0000_S.dng", "0000", "a")
    assert "0000_B" in problem.reason
    assert problem.advice


def test_every_partnerless_reference_is_a_problem(tmp_path):
    _touch(tmp_path / "scenes" / "a", "0000_B.dng", "0000_S.dng", "static_B.dng", "whiteboard_S.dng")
    (scene,) = open_session(tmp_path).scenes
    assert scene.static == scene.whiteboard == ()
    assert {problem.pair for problem in scene.problems} == {"static", "whiteboard"}


def test_two_files_for_one_camera_are_no_pair(tmp_path):
    _touch(tmp_path / "scenes" / "a", "0000_B.dng", "0000_B.NEF", "0000_S.dng", "0001_B.dng", "0001_S.dng")
    (scene,) = open_session(tmp_path).scenes
    assert [pair.id for pair in scene.pairs] == ["0001"]
    (problem,) = scene.problems
    assert problem.pair == "0000"
    assert {problem.file.name, problem.reason.split(": ")[1]} == {"0000_B.dng", "0000_B.NEF"}


def test_names_of_no_camera_and_files_of_other_kinds(tmp_path):
    folder = tmp_path / "scenes" / "a"
    _touch(folder, "0000_B.dng", "0000_S.dng", "0000_B.json", "DSC_4711.nef", "0001_b.dng", "_B.dng", "notes.txt",
           "0002_B.dng.part", ".DS_Store", "._0000_B.dng")  # fmt: skip
    (folder / "0003_B.dng").mkdir()
    (scene,) = open_session(tmp_path).scenes
    assert [pair.id for pair in scene.pairs] == ["0000"]
    assert {problem.file.name for problem in scene.problems} == {"DSC_4711.nef", "0001_b.dng", "_B.dng"}
    assert {path.name for path in scene.ignored} == {"notes.txt", "0002_B.dng.part"}


def test_scenes_and_ids_are_sorted_and_hidden_folders_left_out(tmp_path):
    for scene in ("b", "a", ".trash", "c d"):
        _touch(tmp_path / "scenes" / scene, "10_B.dng", "10_S.dng", "9_B.dng", "9_S.dng", "x_1_B.dng", "x_1_S.dng")
    session = open_session(str(tmp_path))
    assert [scene.name for scene in session.scenes] == ["a", "b", "c d"]
    assert [pair.id for pair in session.scenes[0].pairs] == ["10", "9", "x_1"]


def test_calibration_frames(tmp_path):
    _touch(tmp_path / "scenes" / "a", "0000_B.dng", "0000_S.dng")
    session = open_session(tmp_path)
    assert session.lightbox == {"B": (), "S": ()}
    _touch(tmp_path / "calibration", "lightbox_B.dng", "lightbox2_B.dng", "lightbox_S.nef", "lightbox_S.json",
           "dark_B.dng")  # fmt: skip
    session = open_session(tmp_path)
    assert {camera: {path.name for path in paths} for camera, paths in session.lightbox.items()} == {
        "B": {"lightbox_B.dng", "lightbox2_B.dng"},
        "S": {"lightbox_S.nef"},
    }


def test_what_is_no_session(tmp_path):
    for path, message in ((tmp_path / "none", "is no folder"), (tmp_path, "holds no scene")):
        with pytest.raises(CaptureError, match=message) as caught:
            open_session(path)
        assert caught.value.file == path
        assert caught.value.advice
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "readme.txt").touch()
    with pytest.raises(CaptureError, match="holds no scene"):
        open_session(tmp_path)


def test_session_yaml_is_checked(tmp_path):
    _touch(tmp_path / "scenes" / "a", "0000_B.dng", "0000_S.dng")
    file = tmp_path / "session.yaml"
    file.write_text("cameras:\n  B: {exposure: 0.02}\n")
    with pytest.raises(ConfigError, match=r"session\.yaml: unknown key 'cameras.B.exposure' \(known here: bits"):
        open_session(tmp_path)
    file.write_text("cameras:\n  C: {}\n")
    with pytest.raises(ConfigError, match=r"known here: B, S"):
        open_session(tmp_path)
    for line in ("white_balance: [2, 0, 1]", "cameras: {S: {white_balance: [-1, 1, 1]}}"):
        file.write_text(line)
        with pytest.raises(ConfigError, match=r"white_balance\.\d': .*greater than 0"):
            open_session(tmp_path)
    file.write_text("rig: roof\nwhite_balance: [2, 1, 1.5]\ncameras:\n  B: {exposure_s: 0.02, mirrored: true}\n")
    settings = open_session(tmp_path).settings
    assert (settings.rig, settings.white_balance) == ("roof", (2.0, 1.0, 1.5))
    assert settings.cameras["B"].mirrored
    assert not settings.cameras["S"].mirrored


def _session_of(tmp_path: Path, blur, sharp, yaml: str = ""):
    folder = tmp_path / "scenes" / "a"
    write_dng(folder / "0000_B.dng", blur)
    write_dng(folder / "0000_S.dng", sharp)
    (tmp_path / "session.yaml").write_text(yaml)
    session = open_session(tmp_path)
    return session, session.scenes[0].pairs[0]


def test_a_pair_is_read_with_the_settings_of_its_cameras(tmp_path, make_frame):
    blur, sharp = make_frame(seed=1), make_frame(seed=2)
    yaml = "cameras: {B: {exposure_s: 0.5, mirrored: true}, S: {white: 9000}}"
    session, pair = _session_of(tmp_path, blur, sharp, yaml)
    first, second = session.read_pair(pair)
    assert (first.camera, second.camera) == ("B", "S")
    assert (first.mosaic == blur.mosaic[:, ::-1]).all()
    assert (second.mosaic == sharp.mosaic).all()
    assert (first.exposure_s, first.white, second.white) == (0.5, 16383.0, 9000.0)
    # The mirrored frame's phase differs, but what stands in the two files agrees.
    assert (first.pattern, second.pattern) == ("GRBG", "RGGB")
    assert session.stored_pattern(first, "B") == session.stored_pattern(second, "S") == "RGGB"


@pytest.mark.parametrize("width", [40, 41])
def test_different_patterns_are_refused(tmp_path, make_frame, width):
    frames = make_frame((30, width)), make_frame((30, width), pattern="GRBG")
    session, pair = _session_of(tmp_path, *frames, "cameras: {B: {mirrored: true}}")
    with pytest.raises(CaptureError, match=r"RGGB, 0000_S\.dng has GRBG") as caught:
        session.read_pair(pair)
    assert caught.value.file == pair.blur


def test_different_sizes_are_refused(tmp_path, make_frame):
    session, pair = _session_of(tmp_path, make_frame((30, 40)), make_frame((32, 40)))
    with pytest.raises(CaptureError, match=r"is 40x30 pixels, 0000_S\.dng is 40x32"):
        session.read_pair(pair)
    with pytest.raises(CaptureError, match="reference is 40x30") as caught:
        session.read_pair(pair, (30, 40))
    assert caught.value.file == pair.sharp
