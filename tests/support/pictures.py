"""Picture files with EXIF and ICC profiles, written by Pillow and tifffile, and what Pillow reads from a file."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

MAKE, MODEL, ORIENTATION, EXIF, GPS, INTEROP = 0x10F, 0x110, 0x112, 0x8769, 0x8825, 0xA005
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera_exif(orientation: int = 1, *, endian: str = "<") -> Image.Exif:
    """EXIF of a camera: text, integers, rationals of both signs, bytes, GPS and interoperability directories."""
    exif = Image.Exif()
    exif.endian = endian
    exif[MAKE], exif[MODEL], exif[ORIENTATION] = "Relo", "Splitter II", orientation
    exif[0x11A], exif[0x132], exif[0x8298] = IFDRational(300, 1), "2023:05:06 07:08:09", "someone"
    exif[0x9C9B] = "title".encode("utf-16-le")
    inner = exif.get_ifd(EXIF)
    inner[0x829A], inner[0x829D], inner[0x8827] = IFDRational(1, 125), IFDRational(28, 10), 6400
    inner[0x9003], inner[0x9204] = "2023:05:06 07:08:09", IFDRational(-2, 3)
    inner[0x927C], inner[0xA002], inner[0xA003] = b"maker\0note" * 3, 64, 40
    inner[INTEROP] = {1: "R98"}
    gps = exif.get_ifd(GPS)
    gps[1], gps[2] = "N", (IFDRational(31, 1), IFDRational(14, 1), IFDRational(999, 100))
    return exif


def write_picture(
    path: Path, image: np.ndarray, *, exif: Image.Exif | None = None, icc: bytes | None = None
) -> None:
    """Write a picture with Pillow, or with tifffile where it is a TIFF of 16 bits (main tags and ICC only)."""
    if image.dtype == np.uint16:
        own = [] if exif is None else [(tag, 2, 0, exif[tag], True) for tag in (MAKE, MODEL)]
        own += [] if exif is None else [(ORIENTATION, 3, 1, exif[ORIENTATION], True)]
        tifffile.imwrite(path, image, photometric="rgb", iccprofile=icc, extratags=own, metadata=None)
        return
    options = {} if exif is None else {"exif": exif}
    if path.suffix == ".tif" and exif is not None:
        directory = ImageFileDirectory_v2()
        for tag, value in exif.items():
            directory[tag] = value
        directory[EXIF], directory[GPS] = dict(exif.get_ifd(EXIF)), dict(exif.get_ifd(GPS))
        options = {"tiffinfo": directory}
    if path.suffix == ".jpg":
        options |= {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(path, icc_profile=icc, **options)


def told(path: Path) -> dict[str, dict[int, object]]:
    """What Pillow reads of the directories in a file's EXIF, without the tags that describe stored pixels."""
    with Image.open(path) as picture:
        exif = picture.getexif()
        inner, gps = dict(exif.get_ifd(EXIF)), dict(exif.get_ifd(GPS))
        interop = dict(exif.get_ifd(INTEROP))
        main = {tag: exif[tag] for tag in (MAKE, MODEL, ORIENTATION, 0x132, 0x8298, 0x11A, 0x9C9B) if tag in exif}
        inner.pop(INTEROP, None)
        return {"main": main, "exif": inner, "gps": gps, "interop": interop}


def profile(path: Path) -> bytes | None:
    """ICC profile that Pillow finds in a file."""
    with Image.open(path) as picture:
        return picture.info.get("icc_profile")
