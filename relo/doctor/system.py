"""The machine: Python, cores, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from relo.doctor.finding import Finding

_LOW_DISK = 2e9


def system_facts() -> dict[str, str]:
    """Python, operating system, cores, memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()})",
        "system": platform.platform(),
        "cores": f"{os.cpu_count()}, {usable} usable",
    }
    try:
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    except (AttributeError, ValueError, OSError):
        facts["memory"] = "unknown"
    return facts


def disk_facts() -> tuple[dict[str, str], list[Finding]]:
    """Free disk where the program runs and where temporary files go."""
    facts, findings = {}, []
    for name, place in (("current folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free
        facts[f"disk, {name}"] = f"{free / 1e9:.1f} GB free"
        if free < _LOW_DISK:
            advice = "Free some space, or work in another folder."
            if name == "temporary folder":
                advice = "Free some space, or set TMPDIR to another folder."
            findings.append(Finding(f"the {name} has only {free / 1e9:.1f} GB free", advice))
    return facts, findings
