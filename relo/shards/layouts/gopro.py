"""The GoPro dataset (Nah, Kim and Lee, CVPR 2017), in both forms in which it goes round.

As published: `{train,test}/GOPR0372_07_00/{blur,blur_gamma,sharp}/000047.png`; `blur` is the mean of linearised
frames, `blur_gamma` that of frames as the camera gave them. Flattened, as MIMO-UNet (`blur`, `sharp`) and NAFNet
(`input`, `target`) read it: `{train,test}/blur/GOPR0372_07_00_000047.png`. A scene is a sequence. There are no
masks: the whole frame is blurred.
"""

from __future__ import annotations

import re
from pathlib import Path

from relo.errors import ConfigError, ShardError
from relo.shards.layouts.files import Found, LayoutPair, image_files, matched, refuse_empty, split_folders

SPLITS = ("train", "test")
_FLAT = (("blur", "sharp"), ("input", "target"))
_FLAT_GAMMA = (("blur_gamma", "sharp"),)
# The sequence that preprocessing has put before the number of the frame, with "_" or "-".
_NAME = re.compile(r"(GO\w*?\d+_\d+_\d+)[_-](.+)")
_EXPECTED = "train/GOPR0372_07_00/{blur,sharp}/000047.png or train/{blur,sharp}/GOPR0372_07_00_000047.png"


def find_all(root: Path, *, gamma: bool = False) -> Found:
    """Find every pair of either form.

    Parameters
    ----------
    root : Path
        Holds `train` or `test`, or is one of them.
    gamma : bool
        Take the frames of `blur_gamma` for the blurred ones.

    Raises
    ------
    ShardError
        `root` is no such folder.
    """
    splits = split_folders(root, SPLITS)
    if not splits:
        raise ShardError("holds neither train nor test", file=root, advice=f"Expected {_EXPECTED}.")
    found = Found()
    for split, folder in splits:
        flat = [names for names in (_FLAT_GAMMA if gamma else _FLAT) if all((folder / n).is_dir() for n in names)]
        if flat:
            _flattened(found, split, folder, *flat[0])
        else:
            _sequences(found, split, folder, "blur_gamma" if gamma else "blur")
    if gamma and not found.pairs:
        raise ConfigError("has no frames in blur_gamma", file=root, advice="Leave --gamma out.")
    refuse_empty(found, root, _EXPECTED)
    return found


def _sequences(found: Found, split: str, folder: Path, blur: str) -> None:
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {"blur": image_files(scene / blur), "sharp": image_files(scene / "sharp")}
        for key in dict.fromkeys([*files["blur"], *files["sharp"]]):
            both = matched(files, key, found, scene.name, key)
            if both is not None:
                found.pairs.append(LayoutPair(split, scene.name, key, *both))


def _flattened(found: Found, split: str, folder: Path, blur: str, sharp: str) -> None:
    files = {"blur": image_files(folder / blur), "sharp": image_files(folder / sharp)}
    for key in dict.fromkeys([*files["blur"], *files["sharp"]]):
        parts = _NAME.fullmatch(key)
        # Frames of which nobody knows the sequence stay together, so that no sequence is torn apart later.
        scene, name = (parts[1], parts[2]) if parts else (split, key)
        both = matched(files, key, found, scene, name)
        if both is not None:
            found.pairs.append(LayoutPair(split, scene, name, *both))
