from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import rawpy
from support.program import relo

SMALL = ("--scenes", 1, "--pairs", 1, "--size", "96x80")


def test_a_session_of_real_files(tmp_path: Path):
    out = tmp_path / "new" / "s"
    answer = relo("simulate", out, *SMALL, "--bits", 12, "--pattern", "GRBG", "--seed", 4)
    assert answer.code == 0, answer
    assert "done 1, skipped 0, quarantined 0, failed 0" in answer.out
    assert f"next:   relo process {out}" in answer.out
    assert {path.name for path in out.iterdir()} == {"calibration", "scenes", "session.yaml", "truth.h5"}
    with rawpy.imread(str(out / "scenes" / "scene_00" / "0000_B.dng")) as raw:
        assert raw.raw_image_visible.shape == (80, 96)
        assert raw.white_level == 4095
        assert raw.raw_pattern.ravel().tolist() == [1, 0, 2, 3]
        picture = raw.postprocess(use_camera_wb=True)
    assert 5 < picture.mean() < 250
    assert relo("check", out).code == 0


def test_json(tmp_path: Path):
    answer = relo("simulate", tmp_path / "s", *SMALL, "--json").json
    assert (answer["done"], answer["out"]) == (1, str(tmp_path / "s"))


def test_options_win_over_settings_win_over_the_file(tmp_path: Path):
    file = tmp_path / "rig.yaml"
    file.write_text("pairs: 3\nscenes: 3\nwidth: 96\nheight: 80\nseed: 9\n")
    answer = relo(
        "simulate", tmp_path / "s", "--config", file, "--set", "scenes=2", "--set", "pairs=2", "--pairs", 1
    )
    assert answer.code == 0, answer
    assert sorted(path.name for path in (tmp_path / "s" / "scenes").iterdir()) == ["scene_00", "scene_01"]
    assert "seed 9" in (tmp_path / "s" / "session.yaml").read_text()
    assert "done 2" in answer.out


def test_options_win_over_a_preset(tmp_path: Path):
    assert relo("simulate", tmp_path / "s", "--preset", "bench", *SMALL, "--seed", 3).code == 0
    assert "seed 3" in (tmp_path / "s" / "session.yaml").read_text()
    with h5py.File(tmp_path / "s" / "truth.h5") as truth:
        assert json.loads(truth.attrs["config"])["short_delay"] == 0.5


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.docx").write_text("dear")
    relo("simulate", tmp_path / "s", *SMALL).error(tmp_path / "s", "is not empty")
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "thesis.docx"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "nonsense=1"), "unknown key 'nonsense'"),
        (("--set", "width=10"), "'width'"),
        (("--set", "t_short_s=1"), "must be below t_long_s"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--preset", "nowhere"), "Known: bench"),
        (("--preset", "bench", "--config", "nowhere.yaml"), "exclude each other"),
    ],
)
def test_wrong_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], words: str):
    monkeypatch.chdir(tmp_path)
    relo("simulate", "s", *options).error(words)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    relo("simulate", tmp_path / "file", *SMALL).error(tmp_path / "file")
    relo("simulate", tmp_path / "file" / "s", *SMALL).error(tmp_path / "file")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    relo("simulate", tmp_path / "s", *SMALL).error(tmp_path / "s", "No space left")
    assert list(tmp_path.iterdir()) == []
