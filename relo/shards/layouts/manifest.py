"""`relo-export.json`: what a folder that relo has exported cannot say by its names alone.

Names of scenes and pairs that do not fit the layout, the masks' version, the licence; and which dataset the folder
was made from, so that a run that was stopped continues and no other one writes into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relo.errors import ShardError
from relo.shards.layouts.files import LayoutPair

MANIFEST = "relo-export.json"
FORMAT = "relo-export"

# No separators, nothing that Windows or a glob reads otherwise, not hidden.
_PLAIN = re.compile(r"[^/\\\0-\x1f:*?\"<>|\[\]. ](?:[^/\\\0-\x1f:*?\"<>|\[\]]*[^/\\\0-\x1f:*?\"<>|\[\]. ])?")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`; empty where there is none.

    Raises
    ------
    ShardError
        It is damaged, or another table of that name.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] == FORMAT and all(isinstance(manifest[key], dict) for key in ("scenes", "ids")):
            return dict(manifest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        advice = "Remove it: scenes are then called as their folders."
        raise ShardError("is damaged", file=path, advice=advice) from error
    raise ShardError("is no table of relo's", file=path, advice="Give another folder.")


def renamed(pair: LayoutPair, manifest: Mapping[str, Any]) -> LayoutPair:
    """`pair` under the names that it had in the dataset it was exported from."""
    name = manifest.get("ids", {}).get(f"{pair.scene}/{pair.id}", pair.id)
    return replace(pair, scene=manifest.get("scenes", {}).get(pair.scene, pair.scene), id=name)


def scene_folders(scenes: Iterable[str], levels: int | None) -> dict[str, str]:
    """Folder of each scene, `levels` deep or of any depth: its own name where it fits.

    "desk" on two levels is "desk/00", "a/b/c" is "a_b_c/00"; the next number where that folder is another's.
    """
    folders: dict[str, str] = {}
    rest = []
    for scene in sorted(set(scenes)):
        parts = scene.split("/")
        if all(map(_fits, parts)) and (levels is None or len(parts) == levels):
            folders[scene] = scene
        else:
            rest.append(scene)
    taken = {folder.lower() for folder in folders.values()}
    for scene in rest:
        stem = file_name(scene.replace("/", "_"))
        number = 0
        while f"{stem}/{number:02d}".lower() in taken:
            number += 1
        folders[scene] = f"{stem}/{number:02d}"
        taken.add(folders[scene].lower())
    return folders


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Name of a file for each name: itself where it fits, else changed and numbered."""
    names = list(names)
    files = {name: name for name in names if _fits(name)}
    taken = {name.lower() for name in files}
    for name in names:
        if name not in files:
            stem, number = file_name(name), 0
            while f"{stem}-{number}".lower() in taken:
                number += 1
            files[name] = f"{stem}-{number}"
            taken.add(files[name].lower())
    return files


def file_name(name: str) -> str:
    """Letters, digits, "_" and "-" of a name; what else there is becomes "_"."""
    return re.sub(r"[^\w-]+", "_", name)[:80] or "_"


def _fits(part: str) -> bool:
    return len(part.encode()) <= 200 and _PLAIN.fullmatch(part) is not None
