"""The run folder of a guide: where a resumed run begins, and which lines of its metrics stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relo.atomic import write_text
from relo.errors import TrainingError
from relo.training.checkpoint import FILE_NAME
from relo.training.diffusion.state import FILE as STATE
from relo.training.diffusion.state import read_record


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
    state = out / STATE
    if resume and not state.is_file() and (out / FILE_NAME).exists():
        raise TrainingError(
            f"holds weights, but no {STATE} to resume from",
            file=out,
            advice="Put it back, or give another folder (-o).",
        )
    if not resume or not state.is_file():
        if state.exists() or (out / FILE_NAME).exists():
            raise TrainingError(
                "holds a training run already",
                file=out,
                advice="Continue it with --resume, or give another folder (-o).",
            )
        return 0
    step, before = read_record(state)
    settings, earlier = about["settings"], before.get("settings", {})
    changed = [key for key in settings if settings[key] != earlier.get(key)]
    if changed:
        raise TrainingError(
            f"was trained with another {', '.join(changed)}",
            file=out,
            advice="Resume with the settings in its recipe.yaml, or give another folder (-o).",
        )
    if before.get("fingerprint") != about["fingerprint"]:
        raise TrainingError(
            "was trained on another dataset", file=out, advice="Give the same dataset, or another folder (-o)."
        )
    return step


def keep_lines(metrics: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last saved state."""
    kept = []
    for text in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
        try:
            if json.loads(text)["step"] > step:
                break
        except (ValueError, TypeError, KeyError):  # half a line
            break
        kept.append(text + "\n")
    write_text(metrics, "".join(kept))
