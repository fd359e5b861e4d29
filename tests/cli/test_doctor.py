from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import relo.doctor
from relo.cli.doctor import command
from relo.doctor import Finding


@pytest.fixture
def answers(monkeypatch):
    """Answers of the probes as on a healthy machine without GPU; a test changes them."""
    good = {
        "cv2": {"version": "4.12.0", "missing": []},
        "hdf5": {"same": True, "hdf5": "1.14"},
        "colour-demosaicing": {"function": "f"},
        "numba": {"cache": "/somewhere"},
        "torch": {"version": "2.8", "cuda": None, "devices": [], "mps": False, "driver": False},
        "torchvision": {"version": "0.23"},
        "pyflow": {"optical_flow": True},
    }
    monkeypatch.setattr(relo.doctor, "run_probe", lambda name: good[name])
    monkeypatch.setattr(relo.doctor, "requirement_findings", lambda _: [])
    monkeypatch.setattr(relo.doctor, "opencv_findings", lambda _: [])
    monkeypatch.setattr(relo.doctor, "disk_facts", lambda: ({}, []))
    return good


def test_healthy(answers):
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert "Nothing is wrong" in result.stdout
    assert "python" in result.stdout and "numpy" in result.stdout


def test_a_trap_gives_3_and_advice(answers):
    answers["cv2"]["missing"] = ["bgsegm"]
    result = CliRunner().invoke(command)
    assert result.exit_code == 3
    assert "cv2.bgsegm" in result.stdout and "pip uninstall" in result.stdout


def test_json(answers, monkeypatch):
    monkeypatch.setattr(relo.doctor, "disk_facts", lambda: ({}, [Finding("disk is full", "Free some space.")]))
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["findings"] == [{"problem": "disk is full", "advice": "Free some space."}]
    assert set(answer["facts"]) == {"system", "packages", "checks"}


def test_on_this_machine():
    result = CliRunner().invoke(command, ["--json"])
    checks = json.loads(result.stdout)["facts"]["checks"]
    assert "Blosc filter writes and reads" in checks["hdf5"]
