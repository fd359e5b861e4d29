"""Which file of camera B belongs to which of camera S, by name or by time. Never by position.

Both ways are one to one and leave out what they cannot tell: a file with two possible partners gets none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relo.capture.ingest.clock import candidates, partners
from relo.capture.ingest.files import LeftOut, SourceFile, without_marker
from relo.capture.ingest.timestamps import SECOND
from relo.capture.session import Camera
from relo.errors import CaptureError

_Key = tuple[str, ...]

# Partners named in a message about too many of them.
_NAMED = 3


class Matching(NamedTuple):
    """Pairs (file of B, file of S), and the files without."""

    pairs: list[tuple[SourceFile, SourceFile]]
    left_out: list[LeftOut]


def other(camera: Camera) -> Camera:
    """The other camera."""
    return "S" if camera == "B" else "B"


def match_names(blur: Sequence[SourceFile], sharp: Sequence[SourceFile]) -> Matching:
    """Match files of one scene, role and name, whatever their suffix and case.

    Names are compared without the camera's marker first, then what is left as it stands. Where only one of
    the cameras has subfolders, they do not count.

    Raises
    ------
    CaptureError
        The folders are swapped: B's names carry S's marker and the other way round.
    """
    scenes = all(any(file.scene for file in files) for files in (blur, sharp))

    def keys(files: Sequence[SourceFile], *, stem: bool) -> dict[_Key, list[SourceFile]]:
        groups: dict[_Key, list[SourceFile]] = defaultdict(list)
        for file in files:
            name = file.path.stem if stem else file.key
            groups[(file.scene.casefold() if scenes else "", file.role, name.casefold())].append(file)
        return groups

    pairs: list[tuple[SourceFile, SourceFile]] = []
    left_out: list[LeftOut] = []
    rest: dict[Camera, list[SourceFile]] = {"B": [], "S": []}
    groups: dict[Camera, dict[_Key, list[SourceFile]]] = {
        "B": keys(blur, stem=False),
        "S": keys(sharp, stem=False),
    }
    for key in sorted(groups["B"].keys() | groups["S"].keys()):
        found: dict[Camera, list[SourceFile]] = {"B": groups["B"].get(key, []), "S": groups["S"].get(key, [])}
        double = next((files for files in found.values() if len(files) > 1), None)
        if double is not None:
            reason = (
                f"'{double[0].key}' names {_names(double)} of camera {double[0].camera}; keep one RAW file a name"
            )
            left_out += [LeftOut(file.path, "ambiguous", reason) for files in found.values() for file in files]
        elif found["B"] and found["S"]:
            pairs.append((found["B"][0], found["S"][0]))
        else:
            for camera, files in found.items():
                rest[camera] += files
    equal = keys(rest["B"], stem=True), keys(rest["S"], stem=True)
    for key in sorted(equal[0].keys() & equal[1].keys()):
        # Two that differ by a marker only: the first pass would have paired them with something else.
        if len(equal[0][key]) == len(equal[1][key]) == 1:
            pairs.append((equal[0][key][0], equal[1][key][0]))
    paired = {file.path for pair in pairs for file in pair}
    if not pairs:
        _refuse_swapped(rest)
    for camera, files in rest.items():
        for file in files:
            if file.path not in paired:
                where = f" in '{file.scene}'" if scenes and file.scene else ""
                what = "file" if file.role == "pair" else f"{file.role} frame"
                reason = f"camera {other(camera)} has no {what} '{file.key}'{where}"
                left_out.append(LeftOut(file.path, "unmatched", reason))
    return Matching(pairs, left_out)


def _refuse_swapped(rest: dict[Camera, list[SourceFile]]) -> None:
    if all(
        files and all(without_marker(file.path.stem, other(camera)) != file.path.stem for file in files)
        for camera, files in rest.items()
    ):
        raise CaptureError(
            "the folders seem to be swapped: every name in DIR_B carries camera S's marker, and vice versa",
            advice="Give them the other way round.",
        )


def match_times(
    blur: Sequence[SourceFile],
    sharp: Sequence[SourceFile],
    blur_times: Sequence[int],
    sharp_times: Sequence[int],
    offset: int,
    tolerance: int,
) -> Matching:
    """Match each file with the only one of the other camera that was taken at its time.

    Parameters
    ----------
    blur, sharp : sequences of SourceFile
    blur_times, sharp_times : sequences of int
        Their times [ns], in the same order.
    offset, tolerance : int
        Clock S minus clock B, and the largest distance of a pair [ns].

    Returns
    -------
    Matching
        Pairs in the order of camera B's time.
    """
    blur, b = _by_time(blur, blur_times)
    sharp, s = _by_time(sharp, sharp_times)
    found = partners(b, s, offset, tolerance)
    pairs = [(blur[i], sharp[j]) for i, j in zip(found.blur.tolist(), found.sharp.tolist(), strict=True)]
    left_out = _why_not(blur, b, sharp, s, offset, tolerance, set(found.blur.tolist()))
    left_out += _why_not(sharp, s, blur, b, -offset, tolerance, set(found.sharp.tolist()))
    return Matching(pairs, left_out)


def _by_time(files: Sequence[SourceFile], times: Sequence[int]) -> tuple[list[SourceFile], np.ndarray]:
    order = sorted(range(len(files)), key=lambda index: (times[index], files[index].path))
    return [files[index] for index in order], np.array([times[index] for index in order], np.int64)


def _why_not(
    files: list[SourceFile],
    times: np.ndarray,
    others: list[SourceFile],
    other_times: np.ndarray,
    offset: int,
    tolerance: int,
    paired: set[int],
) -> list[LeftOut]:
    """Why each of `files` that is not `paired` has no partner."""
    first, end = candidates(times, other_times, offset, tolerance)
    left_out: list[LeftOut] = []
    limit = f"{tolerance / SECOND:g} s"
    for index, file in enumerate(files):
        if index in paired:
            continue
        near = range(int(first[index]), int(end[index]))
        expected = int(times[index]) + offset
        if not near:
            reason = f"camera {other(file.camera)} has no file within {limit}"
            around = [i for i in (near.start - 1, near.start) if 0 <= i < len(others)]
            if around:
                nearest = min(around, key=lambda i: abs(int(other_times[i]) - expected))
                distance = abs(int(other_times[nearest]) - expected) / SECOND
                reason += f"; the nearest, {others[nearest].path.name}, is {distance:.3f} s away"
            left_out.append(LeftOut(file.path, "unmatched", reason))
        elif len(near) == 1:
            reason = f"{others[near[0]].path.name} is within {limit} of other files of camera {file.camera} too"
            left_out.append(LeftOut(file.path, "ambiguous", reason))
        else:
            reason = f"{_names([others[i] for i in near])} of camera {other(file.camera)} are all within {limit}"
            left_out.append(LeftOut(file.path, "ambiguous", reason))
    return left_out


def _names(files: Sequence[SourceFile]) -> str:
    shown = ", ".join(file.path.name for file in files[:_NAMED])
    return shown if len(files) <= _NAMED else f"{shown} and {len(files) - _NAMED} more"
