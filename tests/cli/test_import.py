"""`relo import`, `relo export` and `relo shards` as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from support.layouts import content, reloblur, two_folders
from support.program import command, environment, relo

from relo.shards import open_dataset
from relo.shards.reader import close_files


@pytest.fixture(autouse=True)
def closed():
    yield
    close_files()


def test_import_export_and_back(tmp_path):
    src, out, png, back = (tmp_path / name for name in ("src", "out", "png", "back"))
    reloblur(src)
    answer = relo(
        "import", "reloblur", src, out, "--mask-version", "v1", "--license", "CC BY 4.0", "--split", "val=0.5"
    )
    assert answer.code == 0 and answer.out.splitlines()[0] == "done 7, skipped 0, quarantined 0, failed 0"
    assert f"next:   relo inspect {out}" in answer.out
    assert open_dataset(out).splits == ["test", "train", "val"]
    answer = relo("import", "reloblur", src, out, "--mask-version", "v1", "--split", "val=0.5", "--json")
    assert answer.code == 0
    assert {key: answer.json[key] for key in ("done", "skipped", "mask_version", "layout")} == {
        "done": 0, "skipped": 7, "mask_version": "v1", "layout": "reloblur",
    }  # fmt: skip
    answer = relo("export", "reloblur", out, png)
    assert (answer.code, answer.out.splitlines()[0]) == (0, "done 7, skipped 0, quarantined 0, failed 0")
    assert f"next:   relo import reloblur {png} SHARDS" in answer.out
    answer = relo("import", "reloblur", png, back, "--json")
    assert (answer.json["done"], answer.json["mask_version"]) == (7, "v1")
    for one, two in zip(open_dataset(out), open_dataset(back), strict=True):
        assert (one.split, one.scene, one.id) == (two.split, two.scene, two.id)
        assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("blur", "sharp", "mask"))


def test_what_was_left_out_is_said(tmp_path):
    src, out = reloblur(tmp_path / "src"), tmp_path / "out"
    (src / "masks/train/s01/00/00.png").write_bytes(b"")
    answer = relo("import", "reloblur", src, out, "--mask-version", "v1")
    assert answer.code == 3
    assert "quarantined: s01/00/00: masks/train/s01/00/00.png: mask is empty (0 bytes). Download" in answer.err
    assert "quarantined 1" in answer.out
    assert relo("import", "reloblur", src, out, "--mask-version", "v1", "--json").code == 3
    assert relo("import", "reloblur", src, out).error("masks.version: v1 -> unknown", "--overwrite")


def test_pairs_without_masks_go_on_with_masks(tmp_path):
    src = two_folders(tmp_path / "my photos", ["a", "b"], ("input", "target"))
    answer = relo("import", "pairs", src, tmp_path / "my shards", "--blur", "input", "--sharp", "target")
    assert answer.code == 0 and "every pixel counts as blurred" in answer.err
    assert f"next:   relo masks '{tmp_path / 'my shards'}'" in answer.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "nope", "a", "b"), "'nope' is not one of"),
        (("import", "gopro", "a", "b", "--mask-threshold", "255"), "255"),
        (("import", "gopro", "a", "b", "--split", "test"), "expected NAME=SCENE"),
        (("import", "gopro", "a", "b"), "a: is no folder"),
        (("export", "gopro", "a", "b"), "'gopro' is not one of"),
        (("export", "pairs", "a", "b", "--pairs", "3"), "knows no --pairs"),
        (("export", "pairs", "a", "b"), "a: does not exist"),
        (("shards", "merge", "a", "b"), "two or more"),
        (("shards", "drop", "a", "b", "--list", "none.txt"), "none.txt: cannot be read"),
        (("shards", "reshard", "a", "b"), "--pairs"),
        (("shards", "split", "a", "b"), "--split"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    answer = relo(*arguments)
    assert (answer.code, answer.out) == (2, ""), answer
    assert words in answer.err and "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_shards(make_dataset, tmp_path):
    first = make_dataset([{"scene": "desk", "flags": {0: "gain"}}, {"scene": "door"}], name="first")
    second = make_dataset([{"scene": "desk", "seed": 4}], name="second")
    both, split, good, packed = (tmp_path / name for name in ("both", "split", "good", "packed"))
    assert relo("shards", "merge", first, second, both).error("--prefix")
    answer = relo("shards", "merge", first, second, both, "--prefix", "", "--prefix", "b/", "--json")
    assert answer.json["done"] == 9 and sorted(answer.json["shards"]) == [
        "b_desk-000.h5", "shard-000.h5", "shard-001.h5",
    ]  # fmt: skip
    answer = relo("shards", "split", both, split, "--split", "test=b/desk")
    assert answer.code == 0 and answer.out.startswith("done 9, ")
    (tmp_path / "list.txt").write_text("# bad light\nb/desk/0002\n\n")
    answer = relo("shards", "drop", split, good, "--flag", "gain", "--list", tmp_path / "list.txt")
    assert "dropped 2, listed in quarantine.jsonl" in answer.out and f"relo inspect {good} --verify" in answer.out
    answer = relo("shards", "reshard", good, packed, "--pairs", 2, "--license", "CC0", "--json")
    assert answer.json["done"] == 7 and len(answer.json["shards"]) == 4
    assert relo("inspect", packed, "--verify").code == 0
    assert json.loads((packed / "dataset.json").read_text())["licence"] == "CC0"
    answer = relo("shards", "reshard", good, packed, "--pairs", 2, "--license", "CC0")
    assert "everything was done before" in answer.out
    assert relo("report", packed).code == 0


@pytest.mark.parametrize("verb", ["merge", "split", "drop", "reshard"])
def test_every_command_explains_itself(verb):
    answer = relo("shards", verb, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: relo shards {verb} ")
    assert f"Example:  relo shards {verb}" in answer.out and "--json" in answer.out


def test_killed_and_again(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    reloblur(src, {f"train/s{k:02d}/00": 4 for k in range(8)}, size=(359, 538))
    process = subprocess.Popen(
        command("import", "reloblur", src, out),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.h5")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert relo("import", "reloblur", src, out).code == 0
    assert relo("import", "reloblur", src, tmp_path / "once").code == 0
    assert content(out) == content(tmp_path / "once")
