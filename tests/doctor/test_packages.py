from __future__ import annotations

import pytest

from relo.doctor import packages
from relo.doctor.packages import installed_versions, opencv_findings, requirement_findings, requirements

GOOD = {"opencv-contrib-python": "4.12.0.88"}


def test_requirements_are_the_core_ones():
    needed = requirements()
    assert needed["numpy"] == "2"
    assert "pytest" not in needed and "lightning" not in needed


def test_installed_versions_are_normalised():
    versions = installed_versions()
    assert "colour-demosaicing" in versions and "numpy" in versions


def test_one_opencv_with_contrib_is_right():
    assert opencv_findings(GOOD) == []
    assert opencv_findings({"opencv-contrib-python-headless": "4.12"}) == []


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"opencv-python": "4.12"}, "opencv-python is installed"),
        ({}, "no OpenCV is installed"),
        (GOOD | {"opencv-python-headless": "5.0"}, "overwrite each other's cv2"),
    ],
)
def test_opencv_traps(versions, expected):
    (finding,) = opencv_findings(versions)
    assert expected in finding.problem
    assert "pip uninstall" in finding.advice


def test_missing_and_old_dependencies(monkeypatch):
    monkeypatch.setattr(
        packages, "requirements", lambda: {"numpy": "2", "h5py": "3.11", "rich": "", "torch": "2.6"}
    )
    problems = [finding.problem for finding in requirement_findings({"numpy": "1.26.4", "rich": "13"})]
    assert problems == ["numpy 1.26.4 is older than 2", "h5py is not installed"]


@pytest.mark.parametrize("found", ["2.0.0", "2.13.0+cpu", "10.0", "2"])
def test_new_enough(monkeypatch, found):
    monkeypatch.setattr(packages, "requirements", lambda: {"torch": "2.0"})
    assert requirement_findings({"torch": found}) == []


def test_relo_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(packages, "requirements", dict)
    (finding,) = requirement_findings({})
    assert "not installed as a package" in finding.problem
