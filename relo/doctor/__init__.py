"""What an installation is like: versions, known traps, cores, disk, GPU. For `relo doctor`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from relo.doctor.finding import Finding
from relo.doctor.packages import installed_versions, opencv_findings, package_facts, requirement_findings
from relo.doctor.probes import PROBES, run_probe
from relo.doctor.system import disk_facts, system_facts
from relo.doctor.verdicts import VERDICTS

__all__ = ["Diagnosis", "Finding", "diagnose"]

# Looked at only where they are installed: relo works without them.
_OPTIONAL = ("torch", "torchvision", "pyflow")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    facts : dict of section -> dict of name -> text
        Sections "system", "packages" and "checks".
    findings : tuple of Finding
        Empty if nothing is wrong.
    """

    facts: dict[str, dict[str, str]]
    findings: tuple[Finding, ...]


def diagnose() -> Diagnosis:
    """Look at everything; takes the few seconds that torch needs to be imported."""
    versions = installed_versions()
    findings = [*requirement_findings(versions), *opencv_findings(versions)]
    names = [name for name in PROBES if name not in _OPTIONAL or name in versions]
    with ThreadPoolExecutor(max_workers=min(len(names), os.cpu_count() or 1)) as pool:
        answers = dict(zip(names, pool.map(run_probe, names), strict=True))
    checks = {}
    for name, answer in answers.items():
        checks[name], found = VERDICTS[name](answer)
        findings += found
    if "torch" not in answers:
        checks["torch"] = "not installed; training and restoring need it"
    disks, found = disk_facts()
    return Diagnosis(
        {"system": system_facts() | disks, "packages": package_facts(versions), "checks": checks},
        (*findings, *found),
    )
