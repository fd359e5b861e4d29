"""What an ingest would do: which files form which pair of which scene, under which name, and what is left out.

Nothing is written here. The same folders and options give the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from relo.capture.ingest.by_time import pair_by_time, with_times
from relo.capture.ingest.clock import ClockOffset
from relo.capture.ingest.files import LeftOut
from relo.capture.ingest.gather import from_folders, from_table, pair_by_name
from relo.capture.ingest.matching import other
from relo.capture.ingest.naming import name_lightbox, name_scenes
from relo.capture.ingest.options import IngestOptions
from relo.capture.ingest.table import Entry
from relo.capture.session import CAMERAS, Camera
from relo.errors import CaptureError
from relo.progress import Progress

_ADVICE = {
    "name": "Pair by --by time, or write a CSV.",
    "time": "Check --offset and --tolerance, or pair by name or CSV.",
    "csv": "Add lines for pairs.",
}


@dataclass(frozen=True)
class IngestPlan:
    """Every file's place, the files without one, and what deserves a look.

    Attributes
    ----------
    entries : tuple of Entry
        Lightbox frames, then scene by scene: static, whiteboard, pairs.
    left_out : tuple of LeftOut
    offset : ClockOffset or None
        Where times paired the files.
    warnings : tuple of str
    """

    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]
    offset: ClockOffset | None
    warnings: tuple[str, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Scene -> number of pairs, static and whiteboard pairs."""
        result: dict[str, dict[str, int]] = {}
        for entry in self.entries:
            if entry.role != "lightbox":
                scene = result.setdefault(entry.scene, {"pair": 0, "static": 0, "whiteboard": 0})
                scene[entry.role] += 1
        return result

    def lightbox(self) -> dict[Camera, int]:
        """Camera -> number of lightbox frames."""
        frames = [entry for entry in self.entries if entry.role == "lightbox"]
        return {"B": sum(entry.blur is not None for entry in frames), "S": sum(not entry.blur for entry in frames)}


def plan_ingest(
    dir_b: str | Path, dir_s: str | Path, options: IngestOptions, progress: Progress | None = None
) -> IngestPlan:
    """Plan a session from the folders of cameras B and S.

    Parameters
    ----------
    progress : callable (done, total, what), optional
        Told of each file whose time is read.

    Raises
    ------
    CaptureError
        A folder is missing or empty, the CSV is wrong, the clock offset cannot be told, or nothing fits.
    """
    folders: dict[Camera, Path] = {"B": _folder(dir_b), "S": _folder(dir_s)}
    if folders["B"] == folders["S"] and options.by == "time":
        advice = "Give each camera's own folder, or pair by name or CSV."
        raise CaptureError(
            "is the folder of both cameras, and times do not tell them apart", file=dir_b, advice=advice
        )
    for inner in CAMERAS:
        outer = other(inner)
        if folders[inner] != folders[outer] and folders[inner].is_relative_to(folders[outer]):
            advice = "Give two folders side by side."
            raise CaptureError(
                f"lies within the other camera's folder {folders[outer]}", file=folders[inner], advice=advice
            )
    if options.by == "csv":
        found = from_table(folders, options)
    else:
        files, found = from_folders(folders, options)
        if options.by == "name":
            pair_by_name(files, found)
        else:
            pair_by_time(files, found, options, progress)
    if not found.matches:
        example = f", for example {found.left_out[0]}" if found.left_out else ""
        raise CaptureError(f"no pair found among {found.files} RAW files{example}", advice=_ADVICE[options.by])
    if options.gap_ns is not None:
        found = with_times(found, options, progress)
    scenes = name_scenes(found.matches, options.scene, options.gap_ns, keep_names=options.keep_names)
    entries = (*name_lightbox(found.lightbox, keep_names=options.keep_names), *scenes)
    plan = IngestPlan(
        entries, tuple(sorted(found.left_out, key=lambda item: item.file)), found.offset, tuple(found.warnings)
    )
    return replace(plan, warnings=(*plan.warnings, *_missing_references(plan)))


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise CaptureError("is no folder", file=path, advice="Give the folder with one camera's RAW files.")
    return path.resolve()


def _missing_references(plan: IngestPlan) -> Iterable[str]:
    for scene, counts in plan.counts().items():
        if not counts["static"]:
            yield f"scene {scene} has no static pair; 'relo process' needs one"
    for camera, number in plan.lightbox().items():
        if not number:
            yield f"no lightbox frame of camera {camera}: add one, or process with --set colour.enabled=false"
