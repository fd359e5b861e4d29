"""Names of scenes and pairs: subfolders, pauses and the CSV make scenes, numbers or stems make ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from relo.capture.ingest.files import ROLES, Role, SourceFile, natural
from relo.capture.ingest.table import SCENE_REFERENCES, Entry
from relo.capture.session import CAMERAS
from relo.errors import CaptureError

_DEFAULT = "scene"


@dataclass(frozen=True)
class Match:
    """A pair that has no place yet.

    Attributes
    ----------
    blur, sharp : SourceFile
    scene : str
        As the subfolder or the CSV says; empty: none does.
    role : {"pair", "static", "whiteboard"}
    id : str or None
        As the CSV says.
    time : int or None
        Of camera B's file [ns].
    """

    blur: SourceFile
    sharp: SourceFile
    scene: str
    role: Role
    id: str | None = None
    time: int | None = None


def name_scenes(
    matches: Sequence[Match], scene: str | None, gap_ns: int | None, *, keep_names: bool
) -> list[Entry]:
    """Give every match its scene and id: by time where times are known, else in the order given.

    Parameters
    ----------
    scene : str or None
        Name for matches of no scene.
    gap_ns : int or None
        Split scenes where camera B paused for longer [ns]; needs times.

    Raises
    ------
    CaptureError
        Two names would be one, or a pair would be called like a reference.
    """
    scenes: dict[str, list[Match]] = defaultdict(list)
    for name, group in _split(matches, scene, gap_ns):
        scenes[name] += group
    _refuse_twins(scenes)
    entries: list[Entry] = []
    for name in sorted(scenes, key=lambda name: (natural(name), name)):
        named: dict[str, Entry] = {}
        for role in (*ROLES[1:], ROLES[0]):
            group = [match for match in scenes[name] if match.role == role]
            stems = [match.blur.key if keep_names else None for match in group]
            for match, pair_id in zip(group, _ids(role, [match.id for match in group], stems), strict=True):
                entry = Entry(name, pair_id, role, match.blur.path, match.sharp.path)
                twin = named.setdefault(pair_id.casefold(), entry)
                if twin is not entry:
                    raise CaptureError(
                        f"and {match.blur.path} would both be pair '{pair_id}' of scene '{name}'",
                        file=twin.blur,
                        advice="Give them other ids in a CSV, or leave out --keep-names.",
                    )
                if role == "pair" and pair_id.startswith(SCENE_REFERENCES):
                    advice = "Leave out --keep-names, or give another id in a CSV."
                    raise CaptureError(
                        f"would be taken for a reference as '{pair_id}'", file=entry.blur, advice=advice
                    )
                entries.append(entry)
    return entries


def name_lightbox(frames: Sequence[tuple[SourceFile, str | None]], *, keep_names: bool) -> list[Entry]:
    """Give each camera's lightbox frames (file, id from the CSV) their ids.

    Raises
    ------
    CaptureError
        Two frames of a camera would have one name.
    """
    entries: list[Entry] = []
    for camera in CAMERAS:
        own = [(file, given) for file, given in frames if file.camera == camera]
        stems = [file.key if keep_names else None for file, _ in own]
        ids = _ids("lightbox", [given for _, given in own], stems)
        for position, ((file, _), frame_id) in enumerate(zip(own, ids, strict=True)):
            if frame_id.casefold() in {name.casefold() for name in ids[:position]}:
                advice = "Give its frames different ids."
                raise CaptureError(f"is a second '{frame_id}' of camera {camera}", file=file.path, advice=advice)
            blur, sharp = (file.path, None) if camera == "B" else (None, file.path)
            entries.append(Entry("", frame_id, "lightbox", blur, sharp))
    return entries


def _split(matches: Iterable[Match], scene: str | None, gap_ns: int | None) -> Iterator[tuple[str, list[Match]]]:
    groups: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.scene].append(match)
    for name, group in groups.items():
        if all(match.time is not None for match in group):
            group = sorted(group, key=lambda match: (match.time or 0, match.blur.path))
        parts = [group] if gap_ns is None else _at_pauses(group, gap_ns)
        whole = name or scene or f"{_DEFAULT}_00"
        if len(parts) == 1:
            yield whole, group
            continue
        width = max(2, len(str(len(parts) - 1)))
        for number, part in enumerate(parts):
            yield f"{name or scene or _DEFAULT}_{number:0{width}d}", part


def _at_pauses(group: list[Match], gap_ns: int) -> list[list[Match]]:
    parts = [[group[0]]]
    for before, match in pairwise(group):
        if (match.time or 0) - (before.time or 0) > gap_ns:
            parts.append([])
        parts[-1].append(match)
    return parts


def _refuse_twins(names: Iterable[str]) -> None:
    """Two names that differ in case only are one folder on some file systems."""
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            advice = "Call them differently."
            raise CaptureError(
                f"the scenes '{twin}' and '{name}' differ in upper and lower case only", advice=advice
            )


def _ids(role: Role, given: Sequence[str | None], stems: Sequence[str | None]) -> list[str]:
    """Ids of one scene's pairs of one role: as given, else the stem, else a number nobody has."""
    wanted = [own or stem for own, stem in zip(given, stems, strict=True)]
    names = [_as_reference(role, name) if name else None for name in wanted]
    taken = {name.casefold() for name in names if name}
    missing = sum(name is None for name in names)
    if role != "pair" and len(names) == missing == 1:
        return [role]
    width = max(4 if role == "pair" else 2, len(str(len(names) - 1)))
    prefix = "" if role == "pair" else f"{role}_"
    free = (name for number in count() if (name := f"{prefix}{number:0{width}d}") not in taken)
    return [name or next(free) for name in names]


def _as_reference(role: Role, name: str) -> str:
    """`name` with the role in front, in the spelling that sessions know."""
    if role == "pair":
        return name
    return role + name[len(role) :] if name.lower().startswith(role) else f"{role}_{name}"
