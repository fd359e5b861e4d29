"""Pairs and lightbox frames, found in a CSV or by name, before they have a place in a session."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from relo.capture.ingest.clock import ClockOffset
from relo.capture.ingest.files import LeftOut, SourceFile, list_files, natural, without_marker
from relo.capture.ingest.matching import match_names
from relo.capture.ingest.naming import Match
from relo.capture.ingest.options import IngestOptions
from relo.capture.ingest.table import read_table
from relo.capture.session import CAMERAS, Camera
from relo.errors import CaptureError


@dataclass
class Found:
    """Pairs and frames before they have names."""

    matches: list[Match] = field(default_factory=list)
    lightbox: list[tuple[SourceFile, str | None]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    offset: ClockOffset | None = None
    warnings: list[str] = field(default_factory=list)
    files: int = 0


def from_table(folders: dict[Camera, Path], options: IngestOptions) -> Found:
    """Pairs as the CSV says them.

    Raises
    ------
    CaptureError
        The CSV is wrong, or names the scenes where an option does too.
    """
    assert options.csv is not None
    rows = read_table(options.csv, folders["B"], folders["S"], options.rule)
    if options.gap_ns is not None and rows[0].scene is not None:
        advice = "Leave out --gap, or the column."
        raise CaptureError("names the scenes, and so does --gap", file=options.csv, advice=advice)
    if options.scene is not None and rows[0].scene is not None:
        advice = "Leave out --scene, or the column."
        raise CaptureError("names the scenes, and so does --scene", file=options.csv, advice=advice)
    found = Found(files=sum((row.blur is not None) + (row.sharp is not None) for row in rows))
    used: set[Path] = set()
    for row in rows:
        sources = {
            camera: SourceFile(path, camera, without_marker(path.stem, camera), row.scene or "", row.role)
            for camera, path in zip(CAMERAS, (row.blur, row.sharp), strict=True)
            if path is not None
        }
        used |= {source.path.resolve() for source in sources.values()}
        if row.role == "lightbox":
            found.lightbox += [(source, row.id) for source in sources.values()]
        else:
            found.matches.append(Match(sources["B"], sources["S"], row.scene or "", row.role, row.id))
    for camera, folder in folders.items():
        rest = sum(file.path.resolve() not in used for file in list_files(folder, camera, options.rule)[0])
        if rest and not (camera == "S" and folder == folders["B"]):
            found.warnings.append(f"{folder}: {rest} RAW files stand in no line of {options.csv}")
    return found


def from_folders(
    folders: dict[Camera, Path], options: IngestOptions
) -> tuple[dict[Camera, list[SourceFile]], Found]:
    """Files to pair, by camera; lightbox frames and files of no use are in the second.

    Raises
    ------
    CaptureError
        A folder holds no RAW file.
    """
    found = Found()
    files: dict[Camera, list[SourceFile]] = {}
    for camera, folder in folders.items():
        files[camera], left_out = list_files(folder, camera, options.rule)
        if not files[camera] and not left_out:
            advice = "Give the folder with one camera's RAW files; see the suffixes in the documentation."
            raise CaptureError("holds no RAW file", file=folder, advice=advice)
        if folders["B"] != folders["S"] or camera == "B":
            found.left_out += left_out
    if folders["B"] == folders["S"]:
        found.left_out += _separate(files)
    for camera, listed in files.items():
        found.files += len(listed)
        found.lightbox += [(file, None) for file in sorted(listed, key=_by_path) if file.role == "lightbox"]
        files[camera] = [
            replace(file, scene="") if options.scene is not None else file
            for file in listed
            if file.role != "lightbox"
        ]
    return files, found


def _separate(files: dict[Camera, list[SourceFile]]) -> list[LeftOut]:
    """Keep of one folder's files for each camera those that carry its marker; the others are left out."""
    marked = {
        camera: {file.path for file in listed if file.key != file.path.stem} for camera, listed in files.items()
    }
    left_out = []
    for file in files["B"]:
        if (file.path in marked["B"]) == (file.path in marked["S"]):
            which = "both cameras' markers" if file.path in marked["B"] else "no camera's marker (_B or _S)"
            left_out.append(LeftOut(file.path, "ambiguous", f"carries {which}"))
    both = marked["B"] & marked["S"]
    for camera in CAMERAS:
        files[camera] = [file for file in files[camera] if file.path in marked[camera] - both]
    return left_out


def pair_by_name(files: dict[Camera, list[SourceFile]], found: Found) -> None:
    """Add the pairs of `files` that have one name, in natural order."""
    pairs, left_out = match_names(files["B"], files["S"])
    found.left_out += left_out
    pairs.sort(key=lambda pair: _by_path(pair[0]))
    found.matches = [Match(blur, sharp, blur.scene or sharp.scene, blur.role) for blur, sharp in pairs]


def _by_path(file: SourceFile) -> tuple[list[tuple[int, int, str]], str]:
    return natural(str(file.path)), str(file.path)
