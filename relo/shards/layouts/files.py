"""What every layout shares: pairs of files, image files by name, frames read with one reason for each fault."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relo.capture.session import Problem
from relo.errors import ShardError
from relo.images import PNG_SIGNATURE, READABLE, ImageError, read_image
from relo.masks.external import MaskFileError

STAGE = "layout"
ADD_PARTNER = "Add it, or take this one out."


@dataclass(frozen=True)
class LayoutPair:
    """A blurred frame and its sharp partner.

    Attributes
    ----------
    split : str
        "train", "test" or "val".
    scene : str
        What the layout's folders say; "sNN/MM", one camera position, in ReLoBlur.
    id : str
        The name within the scene.
    blur, sharp : Path
    mask, short : Path, optional
        Of the layout, where it has them.
    """

    split: str
    scene: str
    id: str
    blur: Path
    sharp: Path
    mask: Path | None = None
    short: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the pair."""
        return tuple(path for path in (self.blur, self.sharp, self.mask, self.short) if path is not None)


@dataclass
class Found:
    """What is in a folder of some layout.

    Attributes
    ----------
    pairs : list of LayoutPair
    problems : list of Problem
        Files that form no pair.
    masks : Path or None
        Folder of the masks; None where there are none.
    """

    pairs: list[LayoutPair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    masks: Path | None = None

    def leave_out(self, path: Path, reason: str, advice: str, scene: str, pair: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(path, reason, advice, scene, pair, STAGE))


def image_files(folder: Path) -> dict[str, list[Path]]:
    """Image files below `folder`, by their relative name without ending, `a/0001`, in natural order."""
    found: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in READABLE and not name.startswith("."):  # macOS's notes on files are hidden
                found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return {key: found[key] for key in sorted(found, key=natural)}


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts "2" before "10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def only_file(
    files: dict[str, list[Path]], key: str, found: Found, scene: str, pair: str, what: str = "frame"
) -> Path | None:
    """File of that name; None if there is none, or several, which is a problem."""
    paths = files.get(key, [])
    if len(paths) > 1:
        reason, advice = f"is a second file for the same {what}", f"Keep it or {paths[0].name}."
        found.leave_out(paths[1], reason, advice, scene, pair)
    return paths[0] if len(paths) == 1 else None


def matched(
    files: dict[str, dict[str, list[Path]]], key: str, found: Found, scene: str, pair: str
) -> tuple[Path, Path] | None:
    """Blurred and sharp file of that name, never of that position; None and a problem where one is missing."""
    blur, sharp = (only_file(files[role], key, found, scene, pair) for role in ("blur", "sharp"))
    if blur is not None and sharp is not None:
        return blur, sharp
    for path, other in ((blur, "sharp"), (sharp, "blur")):
        if path is not None and key not in files[other]:
            found.leave_out(path, f"has no {other} partner of the name {key}", ADD_PARTNER, scene, pair)
    return None


class FrameKind(NamedTuple):
    """What an image file holds, as its header says: size [px], bits a channel, and how colours are stored."""

    height: int
    width: int
    bits: int
    colours: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} of {self.bits} bits"


_PNG_COLOURS = {0: "grey", 2: "rgb", 3: "palette", 4: "alpha", 6: "alpha"}


def frame_kind(path: Path) -> FrameKind:
    """Look at an image file; of a PNG only the header is read.

    Raises
    ------
    ImageError
        The file is missing, empty or no image.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except FileNotFoundError as error:
        raise ImageError("is missing", file=path, advice="Copy it there, or take its partner out.") from error
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error
    if not head:
        raise ImageError("is empty (0 bytes)", file=path, advice="Download it again.")
    if head.startswith(PNG_SIGNATURE) and len(head) == 26 and head[25] in _PNG_COLOURS:
        width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        return FrameKind(height, width, max(8, head[24]), _PNG_COLOURS[head[25]])
    image = read_frame(path)
    return FrameKind(image.shape[0], image.shape[1], 8 * image.dtype.itemsize, _stored_colours(path))


def _stored_colours(path: Path) -> str:
    import cv2

    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or (image.ndim == 3 and image.shape[2] == 3):
        return "rgb"
    return "grey" if image.ndim == 2 else "alpha"


def read_frame(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 or uint16, RGB.

    Raises
    ------
    ImageError
        The file cannot be decoded.
    """
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageError(error.reason, file=path, advice=error.advice or "Download or save it again.") from error


class LayoutMask(NamedTuple):
    """A published mask: (H, W) uint8 of 0 and 255, and whether the file holds other values."""

    mask: np.ndarray
    grey: bool


def read_mask(path: Path, size: tuple[int, int], threshold: int) -> LayoutMask:
    """Read a published mask: a pixel counts as blurred where its 8-bit value lies above `threshold`.

    With 0 this is what the loader published with ReLoBlur does (its masks v1 hold grey levels between 0 and 255);
    `relo.masks.external.read_mask`, for masks that people draw, cuts grey levels in the middle.

    Raises
    ------
    MaskFileError
        The file is missing, empty, undecodable, coloured or of another size than (H, W) `size`.
    """
    advice = "Download it again, or take the pair out; 'relo masks' makes masks anew."
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
        values = None if empty else read_image(path)
    except FileNotFoundError as error:
        raise MaskFileError("mask is missing", file=path, advice=advice) from error
    except (OSError, ImageError) as error:
        reason = error.reason if isinstance(error, ImageError) else f"cannot be read ({error.strerror})"
        raise MaskFileError(f"mask {reason}", file=path, advice=advice) from error
    if values is None:
        raise MaskFileError("mask is empty (0 bytes)", file=path, advice=advice)
    if values.shape[:2] != size:
        found, wanted = (f"{shape[1]}x{shape[0]}" for shape in (values.shape, size))
        raise MaskFileError(f"mask is {found}, the frame is {wanted}", file=path, advice=advice)
    grey = values[..., 0]
    if path.suffix.lower() not in (".jpg", ".jpeg") and (values != grey[..., None]).any():
        raise MaskFileError("mask holds colours", file=path, advice="Save it as a grey PNG of 0 and 255.")
    limit = threshold * (257 if grey.dtype == np.uint16 else 1)
    inside = grey > limit
    between = bool(((grey > 0) & (grey < grey.max())).any())
    return LayoutMask(np.where(inside, np.uint8(255), np.uint8(0)), between)


def split_folders(root: Path, splits: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(split, folder) of the splits in `root`, or `root` itself where it is called like one."""
    if not root.is_dir():
        raise ShardError("is no folder", file=root, advice="Give the folder that holds the frames.")
    found = [(split, root / split) for split in splits if (root / split).is_dir()]
    if not found and root.resolve().name in splits:
        found = [(root.resolve().name, root)]
    return found


def refuse_empty(found: Found, root: Path, expected: str) -> None:
    """Raise a ShardError where nothing at all was found."""
    if not found.pairs and not found.problems:
        raise ShardError("holds no pair of frames", file=root, advice=f"Expected {expected}.")
