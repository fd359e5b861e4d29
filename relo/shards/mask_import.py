"""Masks back from an image editor, or from a published folder of masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from relo import atomic
from relo.capture.session import Problem
from relo.errors import ConfigError, ReloError
from relo.images import READABLE
from relo.masks.external import MaskFileError, read_mask
from relo.masks.quality import mask_quality
from relo.progress import Progress
from relo.shards.mask_export import FORMAT, MANIFEST, OVERLAY_END, file_stem
from relo.shards.mask_stores import ImportedFrom, MaskPair, MaskStore, NewMask


@dataclass
class ImportResult:
    """What became of the files of a folder.

    Attributes
    ----------
    store : MaskStore
        As it is now.
    taken : list of str
        "scene/pair" of every mask that was replaced.
    unchanged : int
        Files that are as they were exported, or were imported before.
    problems : list of Problem
        Files that cannot be used, and pairs without one.
    notes : list of str
        How unusual files were understood.
    """

    store: MaskStore[Any]
    taken: list[str] = field(default_factory=list)
    unchanged: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_masks(
    store: MaskStore[Any],
    folder: Path,
    *,
    take_all: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImportResult:
    """Take masks from an export folder, or from a tree `<split>/sNN/MM/NN.png`.

    Of an export those files are taken that have changed since; of anything, no file twice.

    Parameters
    ----------
    store : MaskStore
    folder : Path
    take_all : bool
        Take every file.
    strict : bool
        Take nothing if any file is bad or missing.
    progress : callable (done, total, what), optional

    Raises
    ------
    ReloError
        `folder` holds no masks at all, or the store cannot be written.
    """
    tree = MaskTree.open(folder)
    result = ImportResult(store)
    wanted = list(_wanted(store, tree, take_all, result))
    if strict:
        for item in wanted:
            _new_mask(item, folder, result)
        if result.problems:
            return result
        result.notes.clear()
    if tree.strangers:
        first = tree.strangers[0].relative_to(folder).as_posix()
        result.notes.append(f"files that belong to no pair: {len(tree.strangers)}, the first is {first}")
    for done, item in enumerate(wanted, 1):
        new = _new_mask(item, folder, result)
        if new is not None:
            store.put(item.pair, new)
            result.taken.append(f"{item.pair.scene}/{item.pair.id}")
        if progress:
            progress(done, len(wanted), f"{item.pair.scene}/{item.pair.id}")
    if result.taken:
        result.store = store.commit(None, progress)
    return result


class MaskTree:
    """Image files of a folder, found by name whatever their ending.

    Parameters
    ----------
    folder : Path
        Holds the files.
    exported : mapping or None
        Of an export folder: file -> its entry in the manifest.

    Attributes
    ----------
    strangers : list of Path
        Files that were not asked for yet.
    """

    def __init__(self, folder: Path, exported: Mapping[str, Mapping[str, Any]] | None) -> None:
        self.folder = folder
        self.exported = exported
        self._files = {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in READABLE and not path.stem.endswith(OVERLAY_END) and path.is_file()
        }
        self._splits = sorted({PurePosixPath(name).parts[0] for name in self._files})
        self._asked: set[str] = set()

    @classmethod
    def open(cls, folder: Path) -> MaskTree:
        """Find out what `folder` is.

        Raises
        ------
        ReloError
            It holds no image, or its manifest is damaged.
        """
        if not folder.is_dir():
            raise ConfigError("is no folder", file=folder, advice="Give the folder that holds the masks.")
        exported = _exported(folder / MANIFEST)
        if exported is None and (folder / "masks").is_dir():
            folder = folder / "masks"
        tree = cls(folder, exported)
        if not tree._files and not exported:
            raise ConfigError("holds no image", file=folder, advice="Give the folder that holds the masks.")
        return tree

    @property
    def strangers(self) -> list[Path]:
        """Files that were not asked for yet."""
        return [path for name, path in self._files.items() if name not in self._asked]

    def find(self, pair: MaskPair) -> Path | None:
        """File with the mask of `pair`."""
        for name in self._names(pair):
            if name in self._files:
                self._asked.add(name)
                return self._files[name]
        return None

    def expected(self, pair: MaskPair) -> Path:
        """File that the mask of `pair` would be."""
        return self.folder / f"{self._names(pair)[0]}.png"

    def _names(self, pair: MaskPair) -> list[str]:
        edited = f"{file_stem(pair)}_mask"
        if self.exported is not None:
            return [edited]
        published = f"{_published_scene(pair.scene)}/{pair.id}"
        splits = [pair.split, *(split for split in self._splits if split != pair.split)]
        return [*(f"{split}/{published}" for split in splits), published, edited]


class _Wanted(NamedTuple):
    """A file to be taken."""

    pair: Any
    path: Path
    sha256: str


def _wanted(store: MaskStore[Any], tree: MaskTree, take_all: bool, result: ImportResult) -> Iterator[_Wanted]:
    """Files to be taken; the others are counted or told."""
    files = {pair: tree.find(pair) for pair in store.pairs}
    present = {(pair.split, pair.scene) for pair, path in files.items() if path is not None}
    absent: set[tuple[str, str]] = set()
    for pair, path in files.items():
        if path is None:
            scene = pair.split, pair.scene
            if scene in present or tree.exported is not None:
                if tree.exported is None or f"{file_stem(pair)}_mask.png" in tree.exported:
                    missing = MaskFileError(
                        "is missing", advice="Copy it there; until then the pair keeps its mask."
                    )
                    problem = Problem.from_error(missing, tree.expected(pair), pair.scene, pair.id, "import")
                    result.problems.append(problem)
            elif scene not in absent:  # once a scene: a published part may hold one split only
                absent.add(scene)
                missing = MaskFileError("is missing: no mask of this scene", advice="Its pairs keep their masks.")
                problem = Problem.from_error(missing, tree.expected(pair).parent, pair.scene, stage="import")
                result.problems.append(problem)
            continue
        sha256 = atomic.file_sha256(path)
        exported = (tree.exported or {}).get(path.relative_to(tree.folder).as_posix(), {})
        before = store.imported(pair)
        same = sha256 in (exported.get("sha256"), None if before is None else before.sha256)
        if same and not take_all:
            result.unchanged += 1
        else:
            yield _Wanted(pair, path, sha256)


def _new_mask(item: _Wanted, folder: Path, result: ImportResult) -> NewMask | None:
    """Read a file; None and an entry in `result.problems` where it cannot be used."""
    pair, path = item.pair, item.path
    try:
        found = read_mask(path, pair.size)
        valid = pair.valid
    except ReloError as error:
        result.problems.append(Problem.from_error(error, path, pair.scene, pair.id, "import"))
        return None
    mask = np.where(valid > 0, found.mask, 0).astype(np.uint8)
    notes = list(found.notes)
    outside = int(np.count_nonzero(found.mask) - np.count_nonzero(mask))
    if outside:
        notes.append(f"{outside} pixels that not both cameras see were left out")
    name = path.relative_to(folder).as_posix()
    result.notes += [f"{name}: {note}" for note in notes]
    origin = ImportedFrom(folder.resolve().name, name, item.sha256)
    return NewMask(mask, mask_quality(mask, valid), origin)


def _exported(path: Path) -> dict[str, dict[str, Any]] | None:
    """Entries of an export's manifest; None where there is none, or another table of that name."""
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return dict(manifest["masks"]) if manifest["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReloError(
            "is damaged", file=path, advice="Remove it: every mask in the folder is then taken for changed."
        ) from error


def _published_scene(scene: str) -> str:
    """`s01/00` for "s01/00", "s01_00" and "s01-00"; other names as they are."""
    found = re.fullmatch(r"(s\d+)[/_-](\d+)", scene)
    return f"{found[1]}/{found[2]}" if found else scene
