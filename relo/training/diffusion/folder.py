"""The run folder of a guide: whether a run may begin or go on in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relo.training.diffusion.state import FILE as STATE
from relo.training.diffusion.state import read_record
from relo.training.run.files import RECIPE, may_resume, require_same, require_same_dataset, require_unused


def start_of(out: Path, about: dict[str, Any], *, resume: bool) -> int:
    """Refuse a folder with another run, or with this one unless it shall be resumed.

    Parameters
    ----------
    out : Path
    about : dict
        `settings` and `fingerprint` of this run.
    resume : bool

    Returns
    -------
    int
        Steps that are done; 0 where there is nothing to resume.

    Raises
    ------
    TrainingError
        The folder holds a run that this one cannot go on from.
    """
    if not resume:
        require_unused(out, STATE)
        return 0
    if not may_resume(out, STATE):
        return 0
    step, before = read_record(out / STATE)
    require_same(out, about["settings"], before.get("settings", {}), f"its {RECIPE}")
    require_same_dataset(out, about["fingerprint"], before.get("fingerprint"))
    return step
