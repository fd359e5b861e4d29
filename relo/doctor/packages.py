"""Versions of what is installed, read from the packages' metadata: nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

from relo import __version__
from relo.doctor.finding import Finding

OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
OPENCV_ADVICE = (
    f"Run  pip uninstall -y {' '.join(OPENCV)}  and then  pip install -c constraints.txt opencv-contrib-python"
)
_OPTIONAL = ("lightning", "tensorboard", "onnx", "onnxruntime", "torchvision")


def installed_versions() -> dict[str, str]:
    """Installed distributions by their normalised name; nothing is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(_normalised(name), distribution.version)
    return found


def requirements() -> dict[str, str]:
    """Lowest version that relo needs of each core dependency, "" for any; empty if relo is not installed."""
    try:
        lines = metadata.requires("relo") or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = (
        re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", line) for line in lines if "extra ==" not in line
    )
    return {_normalised(match[1]): match[2] or "" for match in parsed if match}


def requirement_findings(versions: Mapping[str, str]) -> list[Finding]:
    """Core dependencies that are missing or too old; torch may be missing where nothing is trained."""
    needed = requirements()
    if not needed:
        return [Finding("relo is not installed as a package", "Run  pip install -c constraints.txt -e .")]
    findings = []
    for name, lowest in needed.items():
        found = versions.get(name)
        advice = f"Run  pip install -c constraints.txt '{name}{f'>={lowest}' if lowest else ''}'"
        if found is None and name not in ("torch", *OPENCV):
            findings.append(Finding(f"{name} is not installed", advice))
        elif found is not None and lowest and _numbers(found) < _numbers(lowest):
            findings.append(Finding(f"{name} {found} is older than {lowest}", advice))
    return findings


def opencv_findings(versions: Mapping[str, str]) -> list[Finding]:
    """Several OpenCV distributions overwrite each other's files; those without contrib lack modules."""
    found = [name for name in OPENCV if name in versions]
    if len(found) > 1:
        both = " and ".join(f"{name} {versions[name]}" for name in found)
        return [Finding(f"{both} are installed and overwrite each other's cv2", OPENCV_ADVICE)]
    if not found or "contrib" not in found[0]:
        what = f"{found[0]} is" if found else "no OpenCV is"
        return [Finding(f"{what} installed, relo needs opencv-contrib-python", OPENCV_ADVICE)]
    return []


def package_facts(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions of relo, of its dependencies and of what it can make use of."""
    names = ["relo", *sorted(requirements()), *_OPTIONAL]
    names += [name for name in OPENCV if name in versions and name not in names]
    return {name: versions.get(name, __version__ if name == "relo" else "not installed") for name in names}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
