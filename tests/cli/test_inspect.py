from __future__ import annotations

import json

import cv2
import pytest
from click.testing import CliRunner

from relo.cli.inspect import command
from relo.cli.main import main


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_table_and_totals(make_dataset):
    root = make_dataset([{"scene": "desk", "flags": {0: "misaligned"}}, {"scene": "door", "split": "test"}])
    result = run(root)
    assert result.exit_code == 0
    assert "desk" in result.stdout and "64x48" in result.stdout
    assert "pairs     6 (test 3, train 3)" in result.stdout
    assert "misaligned 1" in result.stdout
    assert "done 6, skipped 0, quarantined 0, failed 0" in result.stdout
    assert f"next:   relo inspect {root} --verify" in result.stdout


def test_json_is_one_object(make_dataset):
    result = run(make_dataset([{"numbers": False}], []), "--json")
    answer = json.loads(result.stdout)
    assert answer["pairs"] == 3
    assert answer["shards"][0]["file"] == "shard-000.h5"
    assert answer["damage"] == [] and answer["verified"] is False
    assert set(answer["coverage"]) == {"mean", "min", "max"}


def test_verify_good(make_dataset):
    result = run(make_dataset(), "--verify")
    assert result.exit_code == 0
    assert "every image can be decoded" in result.stdout


def test_verify_damaged_gives_3(make_dataset):
    root = make_dataset()
    path = root / "shard-000.h5"
    path.write_bytes(path.read_bytes()[:4000])
    result = run(root, "--verify", "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["failed"] == 1
    assert answer["damage"][0]["file"] == "shard-000.h5"


def test_sheet(make_dataset, tmp_path):
    sheet = tmp_path / "out" / "sheet.png"
    result = run(make_dataset(), "--sheet", sheet)
    assert result.exit_code == 0
    assert f"output: {sheet}" in result.stdout
    assert cv2.imread(str(sheet)) is not None


def test_wrong_folder_gives_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as leave:
        main(["inspect", str(tmp_path)])
    assert leave.value.code == 2
    assert "dataset.json" in capsys.readouterr().err


def test_program_passes_3_on(make_dataset, capsys):
    root = make_dataset()
    (root / "shard-000.h5").write_bytes(b"no HDF5")
    with pytest.raises(SystemExit) as leave:
        main(["inspect", str(root)])
    assert leave.value.code == 3
    assert "shard-000.h5" in capsys.readouterr().out
