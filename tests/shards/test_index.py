"""The files beside the shards: written in one place, equal for equal datasets, readable by people."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.datasets import write_shard
from support.program import environment

from relo.capture.session import Problem
from relo.shards import open_dataset
from relo.shards.card import MARK, write_card
from relo.shards.index import quarantine_line, shard_entry, write_index
from relo.shards.inspect import verify_shards
from relo.shards.reader import close_files
from relo.shards.rewrite import rewrite_shards


@pytest.fixture(autouse=True)
def closed():
    yield
    close_files()


def make(root: Path, **more) -> bool:
    root.mkdir(exist_ok=True)
    entries = []
    for number, (scene, split) in enumerate([("desk", "train"), ("lamp", "train"), ("door", "test")]):
        path = root / f"{scene}-000.h5"
        if not path.is_file():
            write_shard(path, scene=scene, split=split, pairs=number + 1, short=number == 0)
        entries.append(shard_entry(path, scene, split, number + 1))
    given = {"config": {"a": 1}, "config_sha256": "cafe", "quarantine_lines": ['{"file": "x"}\n', '{"file": "y"}']}
    return write_index(root, entries, **given | more)


def test_index(tmp_path):
    assert make(tmp_path / "a", licence="CC BY 4.0", origin="a session")
    index = json.loads((tmp_path / "a/dataset.json").read_text())
    assert set(index) == {
        "format", "version", "relo_version", "config_sha256", "config", "quarantined", "shards",
        "licence", "origin",
    }  # fmt: skip
    assert set(index["shards"][0]) == {"file", "scene", "split", "pairs", "sha256", "schema_version"}
    assert (index["quarantined"], index["licence"], index["config"]) == (2, "CC BY 4.0", {"a": 1})
    assert (tmp_path / "a/quarantine.jsonl").read_text() == '{"file": "x"}\n{"file": "y"}\n'
    assert len(open_dataset(tmp_path / "a")) == 6 and verify_shards(tmp_path / "a") == []


def test_equal_datasets_have_equal_files(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name, licence="CC BY 4.0")
    for name in ("README.md", "dataset.json", "quarantine.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert not make(tmp_path / "a", licence="CC BY 4.0")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == times
    assert make(tmp_path / "a", licence="other")


def test_card(tmp_path):
    make(tmp_path, origin="a session")
    text = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "unknown" and "license_name" not in front
    for line in (
        "| scenes | 3 |", "| pairs | 6 |", "| frames | 64x48, 8 bits |", "| masks | computed, version 1 |",
        "| short exposures | no (2 shards); yes (1 shards) |", "| origin | a session |",
        "| config_sha256 | `cafe` |", "| train | 2 | 3 |", "| test | 1 | 3 |", "| left out | 2, ",
    ):  # fmt: skip
        assert line in text, line
    assert "licence | unknown" in text
    assert str(tmp_path) not in text and not re.search(r"\]\(/|file:", text)


def test_a_licence_of_any_wording_breaks_nothing(tmp_path):
    make(tmp_path, licence='My "own" | licence\nin two lines\\')
    text = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license_name"] == "My 'own' / licence in two lines/"
    assert "| licence | My 'own' / licence in two lines/ |" in text


def test_the_examples_of_the_card_run(tmp_path):
    make(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join([blocks[0], "first = sample.blur, sample.mask", blocks[1]]) + (
        "\nassert (first[0] == blur).all() and (first[1] == mask).all() and names[0] == sample.id"
        "\nassert (scene, split) == (sample.scene, sample.split)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_card_of_ones_own_stays(tmp_path):
    make(tmp_path)
    own = (tmp_path / "README.md").read_text().replace(MARK, "")
    (tmp_path / "README.md").write_text(own)
    make(tmp_path, licence="other")
    assert not write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == own


@pytest.mark.parametrize("new", [False, True])
def test_the_card_follows_when_shards_are_rewritten(tmp_path, new):
    make(tmp_path / "a")
    out = tmp_path / "b" if new else tmp_path / "a"

    def relabel(file, shard):
        file.attrs["mask_version"] = 2

    rewrite_shards(tmp_path / "a", out if new else None, relabel)
    assert "| masks | computed, version 2 |" in (out / "README.md").read_text()
    (tmp_path / "a/README.md").unlink()
    rewrite_shards(tmp_path / "a", None, relabel)
    assert not (tmp_path / "a/README.md").exists()


def test_a_dataset_without_shards(tmp_path):
    assert write_index(tmp_path, [], config={}, config_sha256="", quarantine_lines=[])
    assert "| pairs | 0 |" in (tmp_path / "README.md").read_text()


def test_lines_of_the_quarantine(tmp_path):
    problem = Problem(tmp_path / "a" / "b.png", "wet", "Dry it.", "desk", "0001", "read")
    assert json.loads(quarantine_line(problem, tmp_path)) == {
        "file": "a/b.png", "reason": "wet", "advice": "Dry it.", "scene": "desk", "pair": "0001", "stage": "read",
    }  # fmt: skip
    assert json.loads(quarantine_line(problem, tmp_path / "else"))["file"] == (tmp_path / "a/b.png").as_posix()
