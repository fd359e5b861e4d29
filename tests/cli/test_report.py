from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from relo.cli.main import main
from relo.cli.report import command


def test_writes_the_page(make_dataset):
    root = make_dataset(quarantine=[{"scene": "a", "reason": "x"}])
    result = CliRunner().invoke(command, [str(root)])
    assert result.exit_code == 0
    assert "done 3, skipped 0, quarantined 1, failed 0" in result.stdout
    assert f"output: {root / 'report.html'}" in result.stdout
    assert (root / "report.html").is_file()


def test_json(make_dataset):
    root = make_dataset()
    answer = json.loads(CliRunner().invoke(command, [str(root), "--json"]).stdout)
    assert answer["out"] == str(root / "report.html")
    assert answer["bytes"] == (root / "report.html").stat().st_size


def test_wrong_folder_gives_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as leave:
        main(["report", str(tmp_path)])
    assert leave.value.code == 2
    assert "relo process" in capsys.readouterr().err
