"""Two folders of frames with equal names: `SRC/blur/0001.png` and `SRC/sharp/0001.png`.

Folders `mask` and `short` beside them are taken, too. Above `blur` there may be folders of a split (train, val,
test) and of scenes, below it folders of scenes: `SRC/train/blur/desk/0001.png` and `SRC/train/desk/blur/0001.png`
are the same pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from relo.errors import ShardError
from relo.shards.layouts.files import Found, LayoutPair, image_files, matched, only_file, refuse_empty

SPLITS = ("train", "val", "test")
_DEPTH = 4


def find_all(
    root: Path, *, blur: str = "blur", sharp: str = "sharp", masks: Path | None = None, scene: str = ""
) -> Found:
    """Find every pair; files belong together by their relative names without ending, never by position.

    Parameters
    ----------
    root : Path
    blur, sharp : str
        Names of the folders. Both may also be folders anywhere; `root` then only has masks and short exposures.
    masks : Path, optional
        Folder with the masks under the same names; `mask` beside `blur` if not given.
    scene : str
        Scene of frames that lie in no folder of a scene; their split, or "scene", if not given.

    Raises
    ------
    ShardError
        There is no such folder, or it holds no frame.
    """
    found = Found()
    if masks is not None and not masks.is_dir():
        raise ShardError("is no folder", file=masks, advice="Give the folder that holds the masks.")
    roles = _role_folders(root, blur, sharp)
    if not roles:
        advice = "Name its folders with --blur and --sharp."
        reason = f"holds no folders {blur} and {sharp}" if root.is_dir() else "is no folder"
        raise ShardError(reason, file=root, advice=advice)
    if masks is None:
        there = [folder for folder, _, _, _ in roles if (folder / "mask").is_dir()]
        found.masks = there[0] / "mask" if there else None
    else:
        found.masks = masks
    for folder, split, outer, frames in roles:
        above = folder.relative_to(root) if folder.is_relative_to(root) else Path()
        _collect(found, folder, split or "train", outer, frames, masks and masks / above, scene or split or "scene")
    refuse_empty(found, root, f"{blur}/NAME.png and {sharp}/NAME.png")
    return found


def frame_paths(split: str, folder: str, name: str) -> dict[str, Path]:
    """Where the images of a pair go below a base: "blur", "sharp", "mask" and "short"."""
    return {role: Path(split, role, folder, f"{name}.png") for role in ("blur", "sharp", "mask", "short")}


_Role = tuple[Path, str, tuple[str, ...], Mapping[str, Path]]


def _role_folders(root: Path, blur: str, sharp: str) -> list[_Role]:
    """(folder that holds both, split or "", folders of scenes above, both folders) of each place with frames."""
    names = {"blur": blur, "sharp": sharp}
    if any(len(PurePosixPath(name).parts) > 1 for name in names.values()):
        folders = {role: root / name if (root / name).is_dir() else Path(name) for role, name in names.items()}
        for folder in folders.values():
            if not folder.is_dir():
                raise ShardError("is no folder", file=folder, advice="Give the folder that holds the frames.")
        return [(root, "", (), folders)]
    found: list[_Role] = []

    def walk(folder: Path, split: str, scene: tuple[str, ...]) -> None:
        folders = {role: folder / name for role, name in names.items()}
        if all(path.is_dir() for path in folders.values()):
            found.append((folder, split, scene, folders))
        elif len(scene) < _DEPTH and folder.is_dir():
            for child in sorted(path for path in folder.iterdir() if path.is_dir()):
                known = not split and not scene and child.name in SPLITS
                walk(child, child.name if known else split, scene if known else (*scene, child.name))

    walk(root, "", ())
    folders = {role: Path(name) for role, name in names.items()}
    if not found and all(path.is_dir() for path in folders.values()):
        return [(root, "", (), folders)]
    return found


def _collect(
    found: Found,
    folder: Path,
    split: str,
    outer: tuple[str, ...],
    frames: Mapping[str, Path],
    masks: Path | None,
    default: str,
) -> None:
    """Sort the files of one place into pairs and problems."""
    files = {role: image_files(path) for role, path in frames.items()}
    mask_folder = masks or (folder / "mask" if found.masks is not None else None)
    mask_files = {} if mask_folder is None else image_files(mask_folder)
    short_files = image_files(folder / "short")
    for key in list(dict.fromkeys([*files["blur"], *files["sharp"]])):
        *inner, name = key.split("/")
        scene = "/".join([*outer, *inner]) or default
        both = matched(files, key, found, scene, name)
        mask = only_file(mask_files, key, found, scene, name, "mask")
        short = only_file(short_files, key, found, scene, name, "short exposure")
        if both is None or len(mask_files.get(key, [])) > 1 or len(short_files.get(key, [])) > 1:
            continue
        if mask_folder is not None and mask is None:
            advice = "Copy it there; 'relo masks' makes masks anew."
            found.leave_out(mask_folder / f"{key}.png", "mask is missing", advice, scene, name)
        else:
            found.pairs.append(LayoutPair(split, scene, name, *both, mask, short))
