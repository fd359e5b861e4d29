"""The public ReLoBlur layout: `<base>/dataset/{train,test}/sNN/MM/NN_blur.png` and `NN_sharp.png`.

Published are train and test; val is understood, too.

What relo makes of it lies beside `dataset`, in folders of the same tree: `<base>/masks/train/sNN/MM/NN.png`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from relo.capture.session import Problem
from relo.errors import ShardError
from relo.images import READABLE, ImageError, read_image
from relo.shards.layouts.files import Found, LayoutPair, image_files, only_file

__all__ = [
    "LayoutPair",
    "base_folder",
    "find_all",
    "find_pairs",
    "frame_paths",
    "is_layout",
    "mask_path",
    "read_image",
    "read_pair",
    "short_path",
]

SPLITS = ("train", "val", "test")
_DATASET = "dataset"
_ROLES = ("blur", "sharp")
_BESIDE = {"mask": "masks", "short": "short"}


def is_layout(root: Path) -> bool:
    """Whether `root` looks like the base, the folder `dataset`, or one of its splits."""
    return bool(_splits(root))


def base_folder(root: Path) -> Path:
    """Folder that masks and short exposures go beside the frames in: what holds the folder `dataset`."""
    if _holds_splits(root / _DATASET):
        return root
    folder = root.resolve()
    if not _holds_splits(folder) and folder.name in SPLITS:
        folder = folder.parent
    if folder.name == _DATASET:
        return folder.parent
    return root if folder == root.resolve() else folder


def find_pairs(root: str | Path) -> tuple[list[LayoutPair], list[Problem]]:
    """Find every pair by its files' names.

    Parameters
    ----------
    root : path
        The base (which holds `dataset`), the folder `dataset` itself or any that holds `train` or `test`, or one of
        these two.

    Returns
    -------
    pairs : list of LayoutPair
        Sorted by split, scene and id.
    problems : list of Problem
        Frames without partner, and names that two files share.

    Raises
    ------
    ShardError
        `root` is no such folder, or no frame is in it.
    """
    root = Path(root)
    splits = _splits(root)
    if not splits:
        reason = "is not laid out like ReLoBlur" if root.is_dir() else "is no folder"
        advice = "Give the folder that holds dataset/train/s01/01/00_blur.png, 00_sharp.png and so on."
        raise ShardError(reason, file=root, advice=advice)
    pairs: list[LayoutPair] = []
    problems: list[Problem] = []
    for split in splits:
        for folder in sorted(path for path in split.glob("*/*") if path.is_dir()):
            _pairs_of(folder, split.name, pairs, problems)
    if not pairs and not problems:
        advice = "Check the names of folders and files."
        raise ShardError("holds no frame named like s01/01/00_blur.png", file=splits[0], advice=advice)
    return pairs, problems


def find_all(root: Path, masks: Path | None = None) -> Found:
    """Find every pair, with its mask and short exposure where the layout has them.

    Parameters
    ----------
    root : Path
        As in `find_pairs`.
    masks : Path, optional
        Folder with `train/sNN/MM/NN.png`, or that holds such a folder `masks`; the folder `masks` beside `dataset`
        if not given. Of v1 some are missing (train/s04/00/00.png) or have 0 bytes: such pairs are problems.
    """
    pairs, problems = find_pairs(root)
    base = base_folder(root)
    if masks is not None:
        masks = masks / "masks" if (masks / "masks").is_dir() else masks
        if not masks.is_dir():
            raise ShardError("is no folder", file=masks, advice="Give the folder that holds the masks.")
    elif (base / "masks").is_dir():
        masks = base / "masks"
    found = Found(problems=problems, masks=masks)
    mask_files = {} if masks is None else image_files(masks)
    short_files = image_files(base / "short")
    for pair in pairs:
        key = f"{pair.split}/{pair.scene}/{pair.id}"
        mask = only_file(mask_files, key, found, pair.scene, pair.id, "mask")
        short = only_file(short_files, key, found, pair.scene, pair.id, "short exposure")
        if len(mask_files.get(key, [])) > 1 or len(short_files.get(key, [])) > 1:
            continue
        if masks is not None and mask is None:
            advice = "Copy it there; 'relo masks' makes masks anew."
            found.leave_out(masks / f"{key}.png", "mask is missing", advice, pair.scene, pair.id)
            continue
        found.pairs.append(replace(pair, mask=mask, short=short))
    return found


def frame_paths(split: str, folder: str, name: str) -> dict[str, Path]:
    """Where the images of a pair go below a base: "blur", "sharp", "mask" and "short"."""
    frames = Path(_DATASET, split, folder)
    paths = {role: frames / f"{name}_{role}.png" for role in _ROLES}
    return paths | {role: Path(kind, split, folder, f"{name}.png") for role, kind in _BESIDE.items()}


def mask_path(pair: LayoutPair, out: Path) -> Path:
    """Where the mask of `pair` goes below `out`: `masks/train/sNN/MM/NN.png`."""
    return _beside("masks", pair, out)


def short_path(pair: LayoutPair, out: Path) -> Path:
    """Where the short exposure of `pair` goes below `out`: `short/train/sNN/MM/NN.png`."""
    return _beside("short", pair, out)


def read_pair(pair: LayoutPair) -> tuple[np.ndarray, np.ndarray]:
    """Read the blurred and the sharp frame.

    Returns
    -------
    blur, sharp : (H, W, 3) uint8 or uint16 arrays of the same shape and dtype
        RGB, as the files hold them.

    Raises
    ------
    ImageError
        A file cannot be decoded, or the two differ in size or depth.
    """
    blur, sharp = read_image(pair.blur), read_image(pair.sharp)
    if blur.shape != sharp.shape or blur.dtype != sharp.dtype:
        raise ImageError(
            f"is {_described(sharp)}, its partner {pair.blur.name} is {_described(blur)}",
            file=pair.sharp,
            advice="Copy both again, or take the pair out.",
        )
    return blur, sharp


def _described(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} of {8 * image.dtype.itemsize} bits"


def _beside(kind: str, pair: LayoutPair, out: Path) -> Path:
    return out / kind / pair.split / pair.scene / f"{pair.id}.png"


def _holds_splits(folder: Path) -> bool:
    return any((folder / split).is_dir() for split in SPLITS)


def _splits(root: Path) -> list[Path]:
    """Split folders that `root` means; empty if it is laid out differently."""
    for folder in (root / _DATASET, root):
        if _holds_splits(folder):
            return [folder / split for split in SPLITS if (folder / split).is_dir()]
    # Resolved, so that "." in a split's folder is known by its name.
    return [root.resolve()] if root.is_dir() and root.resolve().name in SPLITS else []


def _pairs_of(folder: Path, split: str, pairs: list[LayoutPair], problems: list[Problem]) -> None:
    """Sort the frames of one camera position into `pairs` and `problems`."""
    scene = f"{folder.parent.name}/{folder.name}"
    frames: dict[str, dict[str, Path]] = {}
    doubled: set[str] = set()
    for path in sorted(folder.iterdir()):
        name, _, role = path.stem.rpartition("_")
        if not name or role not in _ROLES or path.suffix.lower() not in READABLE:
            continue
        if name.startswith(".") or not path.is_file():  # the former are macOS's notes on files
            continue
        if role in frames.setdefault(name, {}):
            advice = f"Keep it or {frames[name][role].name}."
            problems.append(Problem(path, "is a second file for the same frame", advice, scene, name, "layout"))
            doubled.add(name)
        frames[name][role] = path
    for name, found in sorted(frames.items()):
        if name in doubled:
            continue
        if len(found) == len(_ROLES):
            pairs.append(LayoutPair(split, scene, name, found["blur"], found["sharp"]))
            continue
        ((role, path),) = found.items()
        partner = f"{name}_{'sharp' if role == 'blur' else 'blur'}{path.suffix}"
        advice = "Add it, or take this one out."
        problems.append(Problem(path, f"has no partner {partner}", advice, scene, name, "layout"))
