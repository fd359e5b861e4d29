"""Photographs in and out: RGB arrays of 8 or 16 bits, never fewer bits than the file has.

What is kept: every pixel's value, turned upright as EXIF asks for. Values are taken as they are: no ICC profile is
applied. Dropped are alpha and further pages. EXIF and ICC profiles are the business of `relo.metadata`.
BGR order exists only inside `read_image` and `encode_image`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relo.atomic import unfinished
from relo.errors import ReloError

READABLE = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
WRITABLE = (".png", ".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ImageError(ReloError):
    """An image file cannot be read or written."""


def read_image(path: str | Path) -> NDArray[Any]:
    """Read a PNG, TIFF or JPEG photograph.

    Convention: RGB, row 0 at the top of the upright picture. Grey images get three equal channels.

    Parameters
    ----------
    path : path

    Returns
    -------
    (H, W, 3) uint8 or uint16 array
        The depth of the file.

    Raises
    ------
    ImageError
        The file is missing, truncated, of another kind, or neither 8 nor 16 bits deep.
    """
    import cv2

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", file=path) from error
    if not _is_complete(data):
        raise ImageError("is damaged or truncated", file=path, advice="Copy it again.")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise ImageError("is no readable PNG, TIFF or JPEG image", file=path)
    if bgr.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"holds {bgr.dtype} values", file=path, advice="Save it with 8 or 16 bits per channel.")
    return np.ascontiguousarray(bgr[..., ::-1])


def write_image(path: str | Path, image: NDArray[Any]) -> None:
    """Write a PNG or TIFF photograph losslessly and atomically.

    Parameters
    ----------
    path : path
        Ends in .png, .tif or .tiff; an older file is replaced at once.
    image : (H, W, 3) uint8 or uint16 array
        RGB.

    Raises
    ------
    ImageError
        The name has another ending.
    ValueError
        The array has another shape or dtype.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(f"has none of the endings {', '.join(WRITABLE)}", file=path)
    encoded = encode_image(path.suffix, image)
    with unfinished(path) as part:
        part.write_bytes(encoded)


def encode_image(suffix: str, image: NDArray[Any]) -> bytes:
    """A photograph as the content of a PNG, TIFF or JPEG file.

    Parameters
    ----------
    suffix : str
        .png, .tif, .tiff, .jpg or .jpeg. PNG and TIFF are without loss; JPEG has quality 95 and colours at full
        resolution (4:4:4).
    image : (H, W, 3) uint8 or uint16 array
        RGB; uint8 for JPEG.

    Raises
    ------
    ValueError
        The array has another shape or dtype.
    """
    import cv2

    suffix = suffix.lower()
    depths = (np.uint8,) if suffix in JPEG else (np.uint8, np.uint16)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in depths:
        names = " or ".join(np.dtype(depth).name for depth in depths)
        raise ValueError(f"expected (H, W, 3) {names}, got {image.shape} {image.dtype}")
    options = {
        ".png": [],
        ".jpg": [
            *(cv2.IMWRITE_JPEG_QUALITY, 95),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ],
        ".tif": [cv2.IMWRITE_TIFF_COMPRESSION, 8],  # every TIFF reader knows deflate; LZW inflates 16-bit noise
    }
    kind = ".jpg" if suffix in JPEG else suffix[:4]
    done, encoded = cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]), options[kind])
    if not done:
        raise ImageError(f"{suffix} cannot be encoded")
    return encoded.tobytes()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks of a PNG file, up to its end.

    Raises
    ------
    ValueError
        A chunk is damaged, or the end is missing.
    """
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if int.from_bytes(checksum, "big") != zlib.crc32(body) or len(checksum) < 4:
            raise ValueError("a PNG chunk is damaged")
        yield body[:4], body[4:]
        if body[:4] == b"IEND":
            return
        position += 12 + length
    raise ValueError("the end of the PNG file is missing")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and stop of the header segments of a JPEG file, up to the start of its scan.

    A start of scan (0xDA) comes last; without one the file is damaged.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, stop
        if marker == 0xDA:
            return
        position = stop


def _is_complete(data: bytes) -> bool:
    """Whether a PNG or JPEG goes on to its end: decoders fill a missing rest with grey and say nothing."""
    if data.startswith(PNG_SIGNATURE):
        return _png_is_complete(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_is_complete(data)
    return True


def _png_is_complete(data: bytes) -> bool:
    try:
        for _ in png_chunks(data):
            pass
    except ValueError:
        return False
    return True


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether a scan ends; the header before it may hold a whole thumbnail with an end of its own."""
    scan = next((start for marker, start, _ in jpeg_segments(data) if marker == 0xDA), None)
    # In a scan a data byte 0xFF is never followed by 0xD9.
    return scan is not None and data.find(b"\xff\xd9", scan) >= 0


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A uint8, uint16 or float [0, 1] image in 8 bits; uint8 is returned as it is."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        # 65535 = 255 * 257, so this is an exact scaling with rounding.
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of `mask` (H, W) above 0 that touch its background; the frame's border is no edge."""
    import cv2

    inside = (mask > 0).astype(np.uint8)
    eroded = cv2.erode(inside, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(1, 1, 1, 1))
    return (inside > 0) & (np.asarray(eroded) == 0)
