"""What the user decides about an ingest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relo.capture.ingest.files import RoleRule
from relo.capture.ingest.timestamps import SECOND


@dataclass(frozen=True)
class IngestOptions:
    """How files are paired, split and named.

    Attributes
    ----------
    by : {"name", "time", "csv"}
    csv : Path or None
        For `by="csv"`.
    tolerance_ns, offset_ns : int, int or None
        For `by="time"` [ns]; no offset: found.
    time_from : {"exif", "mtime"}
    gap_ns : int or None
        A longer pause between two exposures of camera B starts a new scene [ns].
    scene : str or None
        One name for everything, whatever the subfolders.
    keep_names : bool
        Pairs are called as camera B's files, not numbered.
    rule : RoleRule
    """

    by: Literal["name", "time", "csv"] = "name"
    csv: Path | None = None
    tolerance_ns: int = SECOND // 2
    offset_ns: int | None = None
    time_from: Literal["exif", "mtime"] = "exif"
    gap_ns: int | None = None
    scene: str | None = None
    keep_names: bool = False
    rule: RoleRule = field(default_factory=RoleRule)
