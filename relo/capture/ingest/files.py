"""What lies in a camera's folder: its RAW files, and what their names say of camera, scene and role."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal, get_args

from relo.capture.raw_reader import RAW_SUFFIXES
from relo.capture.session import Camera
from relo.errors import CaptureError

Role = Literal["pair", "static", "whiteboard", "lightbox"]
Kind = Literal["unmatched", "ambiguous", "unreadable"]
ROLES: tuple[Role, ...] = get_args(Role)
REFERENCES: tuple[Role, ...] = ROLES[1:]

_MARKERS: dict[Camera, str] = {"B": "b|blur|cam_?b", "S": "s|sharp|cam_?s"}
_SEPARATOR = r"[_\-. ]+"

# Folders that cameras make by themselves (DCF: 100 to 999 and five characters): never a scene.
_CAMERA_FOLDER = re.compile(r"DCIM|[1-9]\d\d\w{5}", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """One RAW file of a camera.

    Attributes
    ----------
    path : Path
        Absolute.
    camera : {"B", "S"}
    key : str
        Stem without the camera's marker: what both files of a pair are called.
    scene : str
        From the subfolder; empty at the top.
    role : {"pair", "static", "whiteboard", "lightbox"}
    """

    path: Path
    camera: Camera
    key: str
    scene: str = ""
    role: Role = "pair"


@dataclass(frozen=True)
class LeftOut:
    """A file that goes nowhere, and why."""

    file: Path
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class RoleRule:
    """How names tell the roles: by the role's own word, or by the patterns given instead for a role."""

    globs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def roles(self, relative: PurePath) -> list[Role]:
        """Every role that the path of a file, relative to its camera's folder, speaks for."""
        return [role for role in REFERENCES if self._speaks_for(role, relative)]

    def _speaks_for(self, role: Role, relative: PurePath) -> bool:
        globs = self.globs.get(role)
        if globs:
            texts = [text.lower() for text in (relative.name, relative.stem, relative.as_posix())]
            return any(fnmatchcase(text, glob.lower()) for glob in globs for text in texts)
        if re.search(rf"(?<![^\W\d_]){role}(?![^\W\d_])", relative.stem, re.IGNORECASE):
            return True
        return any(_is_reference_folder(part, role) for part in relative.parts[:-1])


def _is_reference_folder(name: str, role: str) -> bool:
    """Whether a folder is named by the role and nothing else: a scene 'static_objects' is none."""
    return re.fullmatch(rf"{role}s?[\W\d_]*[bs]?", name, re.IGNORECASE) is not None


def without_marker(stem: str, camera: Camera) -> str:
    """Stem without one marker of `camera` at its end or start: IMG_0001_B, B_0001, 0001-blur, camB_0001."""
    marker = _MARKERS[camera]
    for pattern in (rf"(?P<key>.+?){_SEPARATOR}(?:{marker})", rf"(?:{marker}){_SEPARATOR}(?P<key>.+)"):
        match = re.fullmatch(pattern, stem, re.IGNORECASE)
        if match:
            return match["key"]
    return stem


def is_raw_name(path: PurePath) -> bool:
    """Whether relo takes a file of this name for a RAW file."""
    return path.suffix.lower() in RAW_SUFFIXES and not path.name.startswith(".")


def list_files(folder: Path, camera: Camera, rule: RoleRule) -> tuple[list[SourceFile], list[LeftOut]]:
    """RAW files of a camera's folder and of its subfolders, in the order of their names.

    Other files (JPEG twins, film, notes) and hidden ones are passed over.

    Raises
    ------
    CaptureError
        A folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise CaptureError(
            f"cannot be listed ({error.strerror})", file=error.filename, advice="Check its rights."
        ) from error

    found: list[SourceFile] = []
    left_out: list[LeftOut] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not is_raw_name(path) or not path.is_file():
                continue
            if not _can_be_written(str(path)):
                shown = Path(ascii(str(path))[1:-1])
                left_out.append(LeftOut(shown, "unreadable", "its name is no UTF-8 text of one line; rename it"))
                continue
            file = describe(path, path.relative_to(folder), camera, rule)
            if isinstance(file, LeftOut):
                left_out.append(file)
            else:
                found.append(file)
    return found, left_out


def _can_be_written(text: str) -> bool:
    """Whether a name fits into ingest.csv: surrogates stand for bytes that are no UTF-8."""
    return not any(letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff" for letter in text)


def describe(path: Path, relative: PurePath, camera: Camera, rule: RoleRule) -> SourceFile | LeftOut:
    """What the name of one file says; left out where it speaks for two roles."""
    roles = rule.roles(relative)
    if len(roles) > 1:
        return LeftOut(path, "ambiguous", f"its name says {' and '.join(roles)}")
    scene = "_".join(
        part
        for part in relative.parts[:-1]
        if not _CAMERA_FOLDER.fullmatch(part)
        and not any(_is_reference_folder(part, role) for role in REFERENCES if not rule.globs.get(role))
    )
    return SourceFile(path, camera, without_marker(path.stem, camera), scene, roles[0] if roles else "pair")


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts img_9 before img_10."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), part) if index % 2 else (1, 0, part) for index, part in enumerate(parts) if part]
