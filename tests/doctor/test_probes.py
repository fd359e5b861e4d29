from __future__ import annotations

import json
import subprocess
import sys

import pytest

from relo.doctor import probes
from relo.doctor.probes import PROBES, print_probe, run_probe
from relo.doctor.verdicts import VERDICTS


@pytest.mark.parametrize("name", ["cv2", "hdf5", "numba"])
def test_probe_answers_from_a_child(name):
    text, findings = VERDICTS[name](run_probe(name))
    assert text and findings == []


def test_every_probe_has_a_verdict():
    assert set(PROBES) == set(VERDICTS)


def test_an_exception_is_an_answer(monkeypatch, capsys):
    monkeypatch.setitem(PROBES, "cv2", lambda: 1 / 0)
    print_probe("cv2")
    assert json.loads(capsys.readouterr().out)["error"].startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.abort()", "ended with code"),
        ("raise SystemExit('broken library')", "broken library"),
        ("print('noise'); print('[1]')", "ended with code"),
    ],
)
def test_a_crash_is_an_answer(monkeypatch, code, expected):
    true_run = subprocess.run
    monkeypatch.setattr(
        probes.subprocess, "run", lambda _, **options: true_run([sys.executable, "-c", code], **options)
    )
    assert expected in run_probe("cv2")["error"]


def test_a_hang_is_an_answer(monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(probes.subprocess, "run", hang)
    assert "no answer" in run_probe("torch")["error"]


TORCH = {"version": "2.8", "cuda": "12.8", "devices": [], "mps": False, "driver": False}


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("cv2", {"error": "ImportError: libGL"}, "libGL"),
        ("cv2", {"version": "5", "missing": ["optflow"]}, "cv2.optflow"),
        ("hdf5", {"error": "no filter"}, "no filter"),
        ("hdf5", {"same": False, "hdf5": "1"}, "other values"),
        ("colour-demosaicing", {"error": "x"}, "cannot be imported"),
        ("numba", {"error": "no locator"}, "no locator"),
        ("torch", {"error": "x"}, "cannot be imported"),
        ("torch", TORCH | {"driver": True}, "finds no GPU"),
        ("torch", TORCH | {"driver": True, "cuda": None}, "without CUDA"),
        ("torchvision", {"error": "operator torchvision::nms does not exist"}, "nms"),
        ("pyflow", {"optical_flow": False}, "unrelated"),
        ("pyflow", {"error": "SyntaxError"}, "unrelated"),
    ],
)
def test_traps_are_found_with_advice(name, answer, expected):
    _, (finding,) = VERDICTS[name](answer)
    assert expected in finding.problem
    assert finding.advice


def test_a_gpu_is_named():
    text, findings = VERDICTS["torch"](TORCH | {"devices": ["A GPU, 24 GB"], "driver": True})
    assert "A GPU, 24 GB" in text and findings == []


def test_the_home_folder_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text, _ = VERDICTS["numba"]({"cache": str(tmp_path / "cache")})
    assert "~/cache" in text and str(tmp_path) not in text
