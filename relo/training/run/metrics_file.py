"""metrics.jsonl of a run folder: one JSON object a line, the file a resumed run continues."""

from __future__ import annotations

import json
from pathlib import Path

from relo.atomic import write_text


def keep_lines_until(metrics: Path, step: int) -> None:
    """Drop the lines that a run without the interruption would not have.

    These are the lines from after step `step`, and those marked "closing", which only the end of the run has
    brought about. Nothing happens where there is no such file.
    """
    if not metrics.is_file():
        return
    kept = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            wanted = line["step"] <= step and not line.get("closing")
        # What a run that was killed was just writing, after its last checkpoint.
        except (ValueError, TypeError, KeyError):
            break
        if wanted:
            kept.append(text)
    write_text(metrics, "".join(line + "\n" for line in kept))
