from __future__ import annotations

import pytest
from support.program import relo

RIG = ("--pitch", 3.45, "--focal", 16, "--distance", 4, "--speed", 1.5)


def test_forwards():
    """40 px of 3.45 um are 34.36 mm in the scene, (4 m - 16 mm) / 16 mm times as much: 22.9 ms at 1.5 m/s."""
    answer = relo("plan", *RIG, "--blur", 40, "--tau", 0.05, "--json")
    assert answer.code == 0
    plan = answer.json
    assert plan["t_long_s"] == pytest.approx(0.022908)
    assert plan["t_short_s"] == pytest.approx(0.0011454)
    assert (plan["blur_px"], plan["sharp_px"]) == (pytest.approx(40), pytest.approx(2))
    assert (plan["done"], plan["failed"]) == (1, 0)
    assert all("mains" in warning for warning in plan["warnings"])


def test_backwards():
    plan = relo("plan", *RIG, "--t-long", 22.908, "--t-short", 1.1454, "--json").json
    assert (plan["blur_px"], plan["sharp_px"]) == (pytest.approx(40), pytest.approx(2))
    assert plan["tau"] == pytest.approx(0.05)


def test_for_people():
    answer = relo("plan", *RIG, "--blur", 40, "--tau", 0.05)
    assert answer.code == 0
    for words in ("22.91 ms", "1.145 ms", "40 px", "0.05 tau"):
        assert words in answer.out
    assert "published" not in answer.out


@pytest.mark.parametrize(
    ("blur", "tau", "words"), [(100, 0.05, "15-70 px"), (10, 0.05, "15-70 px"), (40, 0.5, "6 px")]
)
def test_the_papers_limits_are_warnings(blur: float, tau: float, words: str):
    answer = relo("plan", *RIG, "--blur", blur, "--tau", tau)
    assert answer.code == 0
    (line,) = [line for line in answer.out.splitlines() if "published" in line]
    assert line.startswith("warning: ")
    assert words in line


@pytest.mark.parametrize(
    "options", [("--blur", 40), ("--tau", 0.05), (), ("--blur", -1, "--tau", 0.05), ("--blur", 40, "--tau", 2)]
)
def test_too_little_or_impossible(options: tuple):
    answer = relo("plan", *RIG, *options)
    assert answer.code == 2
    assert "Error: " in answer.err
    assert "Traceback" not in answer.err


def test_a_rig_must_be_given():
    answer = relo("plan", "--blur", 40, "--tau", 0.05)
    assert answer.code == 2
    assert "--pitch" in answer.err
