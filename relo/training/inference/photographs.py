"""Photographs as people have them: PNG, TIFF, JPEG and camera RAW in; PNG, TIFF and JPEG out, with EXIF and ICC.

A RAW file is developed as `relo process` develops it: Menon's demosaicing, the camera's own white balance and
colour matrix, sRGB. It is not denoised, sharpened or corrected for its lens. The values of other files are taken
as they are, whatever their ICC profile says: a network trained on sRGB sees Adobe RGB values as if they were sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relo.atomic import unfinished
from relo.capture import read_raw
from relo.capture.raw_reader import LIBRAW_SUFFIXES
from relo.images import JPEG, READABLE, ImageError, encode_image, read_image, to_bytes
from relo.metadata import Metadata, embed, read_metadata

RAW = LIBRAW_SUFFIXES
PHOTOGRAPHS = (*READABLE, *RAW)


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph in memory.

    Attributes
    ----------
    image : (H, W, 3) uint8 or uint16 array
        RGB, upright; 16 bits from RAW.
    metadata : Metadata
    notes : tuple of str
        What is not kept, and what had to be assumed.
    """

    image: NDArray[Any]
    metadata: Metadata
    notes: tuple[str, ...]


def read_photograph(path: str | Path) -> Photograph:
    """Read a PNG, TIFF, JPEG or RAW file.

    Parameters
    ----------
    path : path
        The ending tells RAW files (.dng, .nef, .cr3, …) from the others.

    Raises
    ------
    ImageError
        The file is missing, damaged, of another kind, CMYK or Lab, or neither 8 nor 16 bits deep.
    CaptureError
        A RAW file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in RAW:
        return _read_raw(path)
    image = read_image(path)
    metadata = read_metadata(path.read_bytes())
    if metadata.colours != "RGB":
        raise ImageError(f"holds {metadata.colours} colours", file=path, advice="Convert it to RGB.")
    notes = ("alpha channel dropped", *metadata.notes) if metadata.alpha else metadata.notes
    return Photograph(image, metadata, notes)


def write_photograph(path: str | Path, image: NDArray[Any], metadata: Metadata) -> tuple[str, ...]:
    """Write a photograph atomically.

    Parameters
    ----------
    path : path
        Ends in .png, .tif or .tiff, or in .jpg or .jpeg for quality 95 with colours at full resolution.
    image : (H, W, 3) uint8 or uint16 array
        RGB; rounded to 8 bits for JPEG.
    metadata : Metadata

    Returns
    -------
    tuple of str
        What of the metadata does not fit into such a file.
    """
    path = Path(path)
    image = to_bytes(image) if path.suffix.lower() in JPEG else image
    encoded, notes = embed(encode_image(path.suffix, image), metadata)
    with unfinished(path) as part:
        part.write_bytes(encoded)
    return notes


def write_mask(path: Path, mask: NDArray[np.floating[Any]]) -> None:
    """Write an (H, W) mask in [0, 1] atomically as a grey PNG of 8 bits."""
    import cv2

    _, encoded = cv2.imencode(".png", to_bytes(mask))
    with unfinished(path) as part:
        part.write_bytes(encoded.tobytes())


def _read_raw(path: Path) -> Photograph:
    from relo.postprocess.isp import develop, quantise
    from relo.postprocess.steps import BALANCED, DevelopConfig, balanced_rgb

    frame = read_raw(path)
    rgb = balanced_rgb(frame.normalised(), frame.pattern, frame.wb, DevelopConfig())
    image = quantise(develop(rgb, BALANCED, frame.colour_matrix), 16)
    # The profile of a RAW file is for its preview. Many kinds (.cr3, .raf, …) are no TIFF files: no EXIF.
    metadata = replace(read_metadata(path.read_bytes()), icc=None)
    notes = frame.notes + metadata.notes
    if metadata.exif is None and not metadata.notes:
        notes += (f"EXIF not kept: relo does not find it in {path.suffix} files of this kind",)
    return Photograph(_upright(image, _flip(path)), metadata, notes)


def _flip(path: Path) -> int:
    import rawpy

    with rawpy.imread(str(path)) as raw:
        return int(raw.sizes.flip)


def _upright(image: NDArray[Any], flip: int) -> NDArray[Any]:
    """Turn pixels as LibRaw's `flip` says: bit 1 mirrors rows, bit 0 columns, then bit 2 transposes."""
    if flip & 2:
        image = image[::-1]
    if flip & 1:
        image = image[:, ::-1]
    if flip & 4:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)
