"""Read 16-bit single-channel TIFF and PNG files; what their headers claim is checked before memory is asked for."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from relo.errors import CaptureError

# The mosaic and one copy of it stay below 1 GB. The largest sensors on sale have 150 million pixels.
MAX_PIXELS = 240_000_000

# The most pixels of 16 bits a byte of a file can stand for: deflate packs at most 1032 to 1.
_DENSEST_DEFLATE = 1032 / 2
_COPY_AGAIN = "Copy it again."
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_claim(width: int, height: int, file_bytes: int, densest: float, limit: int = MAX_PIXELS) -> None:
    """Refuse a size that no sensor has, or that the file is too short for.

    Parameters
    ----------
    width, height : int
        What the header says [px].
    file_bytes : int
        Size of the whole file [bytes].
    densest : float
        The most pixels a byte of such a file can stand for.
    limit : int
        The most pixels.

    Raises
    ------
    ValueError
    """
    if not 0 < width * height <= limit or width * height > densest * file_bytes:
        raise ValueError(f"claims {width} x {height} pixels in {file_bytes} bytes: damaged header?")


def read_tiff(path: Path) -> np.ndarray:
    """(H, W) uint16 mosaic of a TIFF file with one image.

    Raises
    ------
    CaptureError
        It cannot be decoded.
    ValueError
        It is no mosaic, or its header claims too much.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            shape, dtype, tile = page.shape, page.dtype, page.chunks
            if len(shape) == 2 and dtype == np.uint16:
                file_bytes = path.stat().st_size
                check_claim(shape[1], shape[0], file_bytes, _DENSEST_DEFLATE)
                check_claim(math.prod(tile), 1, file_bytes, _DENSEST_DEFLATE)
                if sum(page.databytecounts) > file_bytes:
                    raise ValueError("holds more bytes than the file: damaged header?")
                if len(file.pages) == 1:
                    return np.asarray(page.asarray())
                shape = (len(file.pages), *shape)
    except MemoryError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        what = " ".join(str(error).split())
        raise CaptureError(f"is no readable TIFF ({what})", file=path, advice=_COPY_AGAIN) from error
    raise ValueError(_no_mosaic(shape, dtype))


def read_png(path: Path) -> np.ndarray:
    """(H, W) uint16 mosaic of a PNG file.

    Raises
    ------
    CaptureError
        It cannot be decoded.
    ValueError
        It is no mosaic, or its header claims too much.
    """
    import cv2

    data = np.fromfile(path, np.uint8)
    if data.size < 33 or data[:8].tobytes() != _PNG_MAGIC or data[12:16].tobytes() != b"IHDR":
        raise CaptureError("is no readable PNG", file=path, advice=_COPY_AGAIN)
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26].tobytes())
    if (bits, colour) != (16, 0):
        raise ValueError(f"has {bits} bits a channel and colour type {colour}, {_WANTED}")
    check_claim(width, height, data.size, _DENSEST_DEFLATE)
    try:
        mosaic = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        mosaic = None
    if mosaic is None:
        raise CaptureError("is no readable PNG", file=path, advice=_COPY_AGAIN)
    if mosaic.ndim != 2 or mosaic.dtype != np.uint16:
        raise ValueError(_no_mosaic(mosaic.shape, mosaic.dtype))
    return mosaic


_WANTED = "a mosaic must be one 16-bit channel; give the undeveloped RAW"


def _no_mosaic(shape: tuple[int, ...], dtype: object) -> str:
    return f"is {shape} {dtype}, {_WANTED}"
