"""The RealBlur dataset (Rim, Lee, Won and Cho, ECCV 2020): two renderings of the same pairs, J and R.

`RealBlur_J_train_list.txt` and `RealBlur_J_test_list.txt` name two files a line, the sharp and the blurred one:
`RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/gt/gt_1.png .../scene001/blur/blur_1.png`. Without lists the
folders say what there is, and every scene is in "train". Frames of one scene differ in size. There are no masks.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from relo.errors import ConfigError, ShardError
from relo.shards.layouts.files import Found, LayoutPair, image_files, matched, natural, refuse_empty

SPLITS = ("train", "test")
VARIANTS = ("J", "R")
_EXPECTED = "RealBlur_J_train_list.txt, or folders scene001/{gt,blur}"


def find_all(root: Path, *, variant: str = "") -> Found:
    """Find every pair.

    Parameters
    ----------
    root : Path
        Holds the lists and the folders `RealBlur-J…` and `RealBlur-R…`, or is one of these.
    variant : {"J", "R", ""}
        Which rendering: JPEG of the camera, or developed from RAW; the one that is there if not given.

    Raises
    ------
    ReloError
        `root` is no such folder; both renderings are there and none was chosen; a list is damaged.
    """
    if not root.is_dir():
        raise ShardError("is no folder", file=root, advice="Give the folder that holds the lists.")
    there = [name for name in VARIANTS if _lists(root, name) or _folder(root, name)]
    if not variant and len(there) > 1:
        # Trained on one and scored on the other gives 23 dB instead of 30 (Stripformer, issue 14).
        raise ConfigError("holds RealBlur-J and RealBlur-R", file=root, advice="Choose: --variant J or R.")
    if variant and there and variant not in there:
        raise ConfigError(f"holds no RealBlur-{variant}", file=root, advice=f"There is: {', '.join(there)}.")
    variant = variant or (there[0] if there else "")
    found = Found()
    lists = _lists(root, variant)
    if lists:
        for split, path in lists:
            _listed(found, root, split, path)
    else:
        _from_folders(found, _folder(root, variant) or root)
    found.pairs.sort(key=lambda pair: (pair.split, pair.scene, natural(pair.id)))
    refuse_empty(found, root, _EXPECTED)
    return found


def _lists(root: Path, variant: str) -> list[tuple[str, Path]]:
    paths = [(split, root / f"RealBlur_{variant}_{split}_list.txt") for split in SPLITS]
    return [(split, path) for split, path in paths if path.is_file()]


def _folder(root: Path, variant: str) -> Path | None:
    return min((path for path in root.glob(f"RealBlur-{variant}*") if variant and path.is_dir()), default=None)


def _listed(found: Found, root: Path, split: str, path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ShardError("cannot be read", file=path, advice="Download it again.") from error
    for number, line in enumerate(lines, 1):
        names = line.split()
        if not names:
            continue
        files = {PurePosixPath(name).parent.name: PurePosixPath(name) for name in names[:2]}
        inside = all(not name.is_absolute() and ".." not in name.parts for name in files.values())
        if set(files) != {"gt", "blur"} or not inside:
            reason = f"line {number} names no gt and blur file"
            found.leave_out(path, reason, "Download the list again.", "", f"line {number}")
            continue
        sharp, blur = files["gt"], files["blur"]
        scene, name = sharp.parent.parent.name, _number(sharp.stem)
        if (blur.parent.parent.name, _number(blur.stem)) != (scene, name):
            reason = f"line {number} pairs {blur} with {sharp}"
            found.leave_out(path, reason, "Download the list again.", scene, name)
            continue
        found.pairs.append(LayoutPair(split, scene, name, root / blur, root / sharp))


def _from_folders(found: Found, folder: Path) -> None:
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {
            role: {_number(name): paths for name, paths in image_files(scene / kind).items()}
            for role, kind in (("blur", "blur"), ("sharp", "gt"))
        }
        for name in dict.fromkeys([*files["blur"], *files["sharp"]]):
            both = matched(files, name, found, scene.name, name)
            if both is not None:
                found.pairs.append(LayoutPair("train", scene.name, name, *both))


def _number(stem: str) -> str:
    """`1` of `gt_1` and `blur_1`."""
    return stem.removeprefix("gt_").removeprefix("blur_")
