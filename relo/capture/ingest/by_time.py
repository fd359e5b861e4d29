"""Pairs by time, and times for scenes: reads what the clocks said and tells what they disagree about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from relo.capture.ingest.clock import ClockOffset, find_offset, measure
from relo.capture.ingest.files import LeftOut, SourceFile
from relo.capture.ingest.gather import Found
from relo.capture.ingest.matching import match_times
from relo.capture.ingest.naming import Match
from relo.capture.ingest.options import IngestOptions
from relo.capture.ingest.timestamps import SECOND, CaptureTime, comparable, exif_time, file_time
from relo.capture.session import CAMERAS, Camera
from relo.errors import CaptureError
from relo.progress import Progress


def pair_by_time(
    files: dict[Camera, list[SourceFile]], found: Found, options: IngestOptions, progress: Progress | None
) -> None:
    """Add the pairs of `files` that were taken at one time, in the order of time.

    Raises
    ------
    CaptureError
        No file of a camera has a time, or the clock offset cannot be told.
    """
    times, unreadable = _read_times([*files["B"], *files["S"]], options, progress)
    found.left_out += unreadable
    for camera, listed in files.items():
        files[camera] = [file for file in listed if file.path in times]
        if not listed:
            return
        if not files[camera]:
            example = next(item for item in unreadable if item.file == listed[0].path)
            raise CaptureError(
                f"none of the {len(listed)} files of camera {camera} has a time, for example {example}"
            )
    tolerance = options.tolerance_ns
    b, s = ([times[file.path] for file in files[camera]] for camera in CAMERAS)
    clock_b, clock_s = (np.sort(np.array(clock, np.int64)) for clock in (b, s))
    if options.offset_ns is None:
        found.offset = find_offset(clock_b, clock_s, tolerance)
    else:
        found.offset = measure(clock_b, clock_s, options.offset_ns, tolerance, given=True)
    pairs, left_out = match_times(files["B"], files["S"], b, s, found.offset.offset_ns, tolerance)
    found.left_out += left_out
    for blur, sharp in pairs:
        reason = _contradiction(blur, sharp)
        if reason:
            found.left_out += [LeftOut(file.path, "ambiguous", reason) for file in (blur, sharp)]
            continue
        role = sharp.role if blur.role == "pair" else blur.role
        found.matches.append(Match(blur, sharp, blur.scene or sharp.scene, role, time=times[blur.path]))
    found.warnings += _clock_warnings(found.offset, tolerance, any(item.kind == "ambiguous" for item in left_out))


def _contradiction(blur: SourceFile, sharp: SourceFile) -> str:
    """What the names of two files taken at one time disagree about."""
    names = f"{blur.path.name} and {sharp.path.name} were taken at one time, but"
    if blur.scene and sharp.scene and blur.scene.casefold() != sharp.scene.casefold():
        return f"{names} lie in the folders '{blur.scene}' and '{sharp.scene}'"
    if "pair" not in (blur.role, sharp.role) and blur.role != sharp.role:
        return f"{names} their names say {blur.role} and {sharp.role}"
    return ""


def _clock_warnings(clock: ClockOffset, tolerance: int, ambiguous: bool) -> Iterable[str]:
    if ambiguous and clock.pairs and clock.largest_ns < tolerance // 4:
        enough = max(2 * clock.largest_ns, SECOND // 1000) / SECOND
        yield f"the pairs found agree within {clock.largest_ns / SECOND:.3f} s: try --tolerance {enough:.3f}"
    if abs(clock.drift_ns) > tolerance // 2:
        gains = "gains" if clock.drift_ns > 0 else "loses"
        yield (
            f"camera S's clock {gains} {abs(clock.drift_ns) / SECOND:.3f} s on camera B's from first to last "
            "pair; ingest parts of the recording, or raise --tolerance, if pairs are missing"
        )


def _read_times(
    files: Sequence[SourceFile], options: IngestOptions, progress: Progress | None
) -> tuple[dict[Path, int], list[LeftOut]]:
    """Times [ns] by file, and the files that have none."""
    read = exif_time if options.time_from == "exif" else file_time
    times: dict[Path, CaptureTime] = {}
    left_out: list[LeftOut] = []
    for done, file in enumerate(files, 1):
        try:
            times[file.path] = read(file.path)
        except CaptureError as error:
            left_out.append(LeftOut(file.path, "unreadable", f"{error.reason}. {error.advice}"))
        if progress:
            progress(done, len(files), file.path.name)
    return dict(zip(times, comparable(list(times.values())), strict=True)), left_out


def with_times(found: Found, options: IngestOptions, progress: Progress | None) -> Found:
    """Matches with camera B's times; one whose time cannot be read belongs to no scene and is left out.

    Raises
    ------
    CaptureError
        No pair has a time.
    """
    untimed = [match.blur for match in found.matches if match.time is None]
    times, left_out = _read_times(untimed, options, progress)
    unreadable = {item.file for item in left_out}
    for match in found.matches:
        if match.blur.path in unreadable:
            left_out.append(
                LeftOut(match.sharp.path, "unreadable", f"its partner {match.blur.path.name} has no time")
            )
    matches = [
        match if match.time is not None else replace(match, time=times[match.blur.path])
        for match in found.matches
        if match.blur.path not in unreadable
    ]
    if not matches:
        raise CaptureError(f"--gap needs times, and no file of camera B has one, for example {left_out[0]}")
    return replace(found, matches=matches, left_out=[*found.left_out, *left_out])
