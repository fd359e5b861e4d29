"""Masks as image files: read in any form that editors and published data sets have, written in one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from relo.atomic import unfinished
from relo.errors import ReloError
from relo.images import ImageError, read_image

# Rec. 601, of what is stored: editors show a colour picture in grey with these weights.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class MaskFileError(ReloError):
    """A mask file is missing, damaged, or does not fit its frame."""


class ExternalMask(NamedTuple):
    """A mask from a file, and what was unusual about it.

    Attributes
    ----------
    mask : (H, W) uint8 array
        255 = blurred, 0 = not.
    notes : tuple of str
        How values other than 0 and a maximum, colours or alpha were understood; that the mask is empty.
    """

    mask: np.ndarray
    notes: tuple[str, ...]


def read_mask(path: str | Path, size: tuple[int, int]) -> ExternalMask:
    """Read a PNG, TIFF or JPEG mask: grey, colour, with alpha or a palette; 1, 8 or 16 bits.

    Where a file holds only 0 and one other value, that value is the mask, as the loader published with ReLoBlur
    has it. Any other file is cut at half its largest value, JPEG at half of 255. Of colours the luma counts.
    Alpha counts only where the colour is the same everywhere and alpha is not.

    Parameters
    ----------
    path : path
    size : (H, W)
        Of the frame the mask belongs to.

    Returns
    -------
    ExternalMask

    Raises
    ------
    MaskFileError
        The file is missing, empty (0 bytes), undecodable or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise MaskFileError("is missing", file=path, advice="Copy it there, or make this mask with 'relo masks'.")
    if path.stat().st_size == 0:
        raise MaskFileError("is empty (0 bytes)", file=path, advice="Download or save it again.")
    try:
        colours = read_image(path)
    except ImageError as error:
        raise MaskFileError(
            error.reason, file=path, advice=error.advice or "Save it as an 8-bit grey PNG of 0 and 255."
        ) from error
    if colours.shape[:2] != size:
        raise MaskFileError(
            f"is {colours.shape[1]}x{colours.shape[0]}, the frame is {size[1]}x{size[0]}",
            file=path,
            advice="Give the mask at the frame's own size; masks are not resized.",
        )
    grey, notes = _one_channel(colours, _alpha(path))
    top = 255.0 if path.suffix.lower() in (".jpg", ".jpeg") else float(grey.max())
    between = int(np.count_nonzero((grey > 0) & (grey < top)))
    inside = grey >= top / 2 if between else grey > 0
    if between:
        notes.append(f"{between} pixels are neither 0 nor {top:g}; cut at {top / 2:g}")
    if not inside.any():
        notes.append("the mask is empty")
    return ExternalMask(np.where(inside, np.uint8(255), np.uint8(0)), tuple(notes))


def write_mask(path: Path, mask: np.ndarray) -> str:
    """Write a mask as 8-bit grey PNG, atomically; return the SHA-256 of the file.

    Parameters
    ----------
    path : Path
    mask : (H, W) uint8 array of 0 and 255

    Raises
    ------
    MaskFileError
        It cannot be written.
    """
    _, encoded = cv2.imencode(".png", mask)
    data = encoded.tobytes()
    try:
        with unfinished(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise MaskFileError(
            f"cannot be written ({error.strerror or error})",
            file=path,
            advice="Mend that and run the same command again.",
        ) from error
    return hashlib.sha256(data).hexdigest()


def _one_channel(colours: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Reduce (H, W, 3) colours and (H, W) alpha to the (H, W) channel that holds the mask, and say how."""
    if alpha is not None and alpha.shape == colours.shape[:2]:
        varies = bool((alpha != alpha[0, 0]).any())
        if varies and (colours == colours[0, 0]).all():
            return alpha, ["one colour everywhere: alpha was taken"]
        notes = ["alpha was ignored"] if varies else []
    else:
        notes = []
    if (colours == colours[..., :1]).all():
        return colours[..., 0], notes
    return colours @ _LUMA, [*notes, "colour image: its luma was taken"]


def _alpha(path: Path) -> np.ndarray | None:
    """(H, W) alpha channel of an image file, None where it has none."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., 3] if image is not None and image.ndim == 3 and image.shape[2] == 4 else None
