from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from support.program import relo, relo_process

from relo.shards import open_dataset
from relo.shards.reader import close_files


@pytest.fixture(autouse=True)
def no_open_files():
    yield
    close_files()


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    """One scene, which is quicker."""
    copy = Path(shutil.copytree(small_session, tmp_path / "s"))
    shutil.rmtree(copy / "scenes" / "scene_01")
    return copy


def test_for_people(session: Path):
    answer = relo("process", session)
    out = session.with_name("s-shards")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        f"report: {out / 'report.html'}",
        "done 3, skipped 0, quarantined 0, failed 0",
        f"output: {out}",
        f"next:   relo train lbag-tiny {out}",
    ]


def test_json_is_one_object_and_nothing_else(session: Path):
    answer = relo_process("process", "s", "deep/out", "--json", cwd=session.parent)
    assert answer.code == 0
    result = answer.json
    assert {key: result[key] for key in ("done", "skipped", "quarantined", "failed", "out")} == {
        "done": 3, "skipped": 0, "quarantined": 0, "failed": 0, "out": "deep/out",
    }  # fmt: skip
    assert result["shards"] == ["scene_00-000.h5"]
    assert (session.parent / result["report"]).is_file()


def test_json_with_quarantined_pairs(session: Path):
    (session / "scenes" / "scene_00" / "0001_B.dng").unlink()
    answer = relo("process", session, "--json")
    assert answer.code == 3
    assert (answer.json["done"], answer.json["quarantined"]) == (2, 1)
    assert "0001_S.dng" in answer.err


def test_settings_come_from_file_then_set_then_options(session: Path, tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\nshards: {bits: 16, pairs: 9}\nshort: {enabled: false}\n")
    options = ("--config", file, "--set", "shards.pairs=2", "--seed", 7)
    assert relo("process", session, *options).code == 0
    shards = open_dataset(session.with_name("s-shards")).shards
    config = shards[0].attrs["config"]
    assert (config["seed"], config["shards"]) == (7, {"bits": 16, "pairs": 2})
    assert len(shards) == 2
    assert open_dataset(session.with_name("s-shards"))[0].short is None


def test_the_stored_settings_are_a_valid_config(session: Path, tmp_path: Path):
    assert relo("process", session, "--set", "masks.passes=2").code == 0
    stored = open_dataset(session.with_name("s-shards")).shards[0].attrs["config"]
    close_files()
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(stored))
    answer = relo("process", session, "--config", file, "--json")
    assert (answer.code, answer.json["done"], answer.json["skipped"]) == (0, 0, 3)


def test_splits(small_session: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert relo("process", small_session, out, "--split", "test=scene_01").code == 0
    assert {shard.scene: shard.split for shard in open_dataset(out).shards} == {
        "scene_00": "train", "scene_01": "test",
    }  # fmt: skip
    relo("process", small_session, out, "--split", "val=scene_01").error("split", "--overwrite")
    answer = relo("process", small_session, tmp_path / "half", "--split", "test=0.5")
    assert answer.code == 0
    assert sorted(open_dataset(tmp_path / "half").splits) == ["test", "train"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "test"), "NAME=SCENE"),
        (("--split", "test=attic"), "names scene 'attic', the session has: scene_00"),
        (("--split", "test=0.5"), "leaves none for training"),
        (("--set", "shards.bits=9"), "'shards.bits'"),
        (("--set", "shards=9"), "'shards'"),
        (("--set", "bits"), "stage.key=value"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_wrong_settings(session: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], words: str):
    monkeypatch.chdir(session.parent)
    relo("process", "s", *options).error(words)
    assert not session.with_name("s-shards").exists()


def test_the_report_is_made_again_where_it_is_lost(session: Path):
    assert relo("process", session).code == 0
    report = session.with_name("s-shards") / "report.html"
    report.unlink()
    answer = relo("process", session)
    assert "nothing to do" in answer.out
    assert report.is_file()


def test_the_output_is_no_input(session: Path, small_shards: Path):
    relo("process", small_shards).error("holds no scene")
