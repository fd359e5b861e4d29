"""When a RAW file was taken: its EXIF capture time, read without decoding anything.

Tags: EXIF 2.32 and TIFF 6.0. Only the few entries wanted are read, each with a bound on its size, so that a
damaged file costs nothing; a general TIFF reader would follow whatever such a file claims.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from relo.errors import CaptureError

SECOND = 1_000_000_000

_DATE_TIME, _EXIF_IFD = 0x0132, 0x8769
_ORIGINAL, _ZONE, _ZONE_ORIGINAL, _SUBSEC, _SUBSEC_ORIGINAL = 0x9003, 0x9010, 0x9011, 0x9290, 0x9291
_TEXTS = (_DATE_TIME, _ORIGINAL, _ZONE, _ZONE_ORIGINAL, _SUBSEC, _SUBSEC_ORIGINAL)
_ASCII, _POINTERS = 2, (4, 13)

_MOST_ENTRIES = 4096
_LONGEST_TEXT = 64
_BIG_TIFF = 43

# Files that are no TIFF carry one inside: CR3 after its boxes' names, RAF in its JPEG, PNG in a chunk.
_INNER = (b"CMT1", b"CMT2", b"Exif\0\0", b"eXIf")
_HEAD_BYTES = 1 << 18

_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE_TEXT = re.compile(r"([+-])(\d\d):?(\d\d)")

# A camera whose clock was never set says 1970 or later; nothing honest says more, and 64 bits hold it in ns.
_LATEST = 2200

_ADVICE = "Take the files' dates with --time-from mtime if they are the cameras' own, or pair by name or CSV."


@dataclass(frozen=True)
class CaptureTime:
    """What a camera's clock showed.

    Attributes
    ----------
    clock_ns : int
        Wall clock [ns since 1970-01-01 00:00].
    zone_ns : int or None
        How far that clock is ahead of UTC [ns], where the file says so.
    """

    clock_ns: int
    zone_ns: int | None = None


def exif_time(path: Path) -> CaptureTime:
    """DateTimeOriginal with its fraction and time zone; DateTime where there is no such tag.

    Raises
    ------
    CaptureError
        The file cannot be read or holds no plausible capture time.
    """
    try:
        with path.open("rb") as stream:
            tags = _tags(stream)
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error
    original = _ORIGINAL in tags
    match = _TIME.match(tags.get(_ORIGINAL, tags.get(_DATE_TIME, "")))
    try:
        if match is None:
            raise ValueError
        time = datetime(*map(int, match.groups()), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        raise CaptureError("holds no readable EXIF capture time", file=path, advice=_ADVICE) from None
    if not 1970 <= time.year < _LATEST:
        raise CaptureError(f"was taken in {time.year}, says its EXIF", file=path, advice=_ADVICE)
    whole = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    digits = tags.get(_SUBSEC_ORIGINAL if original else _SUBSEC, "")
    fraction = int(digits[:9].ljust(9, "0")) if digits.isascii() and digits.isdigit() else 0
    zone = _zone_ns((tags.get(_ZONE_ORIGINAL) if original else None) or tags.get(_ZONE, ""))
    return CaptureTime(whole * SECOND + fraction, zone)


def file_time(path: Path) -> CaptureTime:
    """Date of last change; for files that only their camera has written.

    Raises
    ------
    CaptureError
        The file is gone or its date is implausible.
    """
    try:
        time = path.stat().st_mtime_ns
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error
    if not 0 <= time < (_LATEST - 1970) * 365 * 86400 * SECOND:
        raise CaptureError("has an implausible date", file=path, advice="Pair by name or CSV.")
    return CaptureTime(time)


def comparable(times: Sequence[CaptureTime]) -> list[int]:
    """Times [ns] on one scale: UTC if every file has a time zone, else the clocks as they stand.

    A zone that only some files have would tear the others hours away.
    """
    if all(time.zone_ns is not None for time in times):
        return [time.clock_ns - (time.zone_ns or 0) for time in times]
    return [time.clock_ns for time in times]


def _zone_ns(text: str) -> int | None:
    if text == "Z":
        return 0
    match = _ZONE_TEXT.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    return (-minutes if match[1] == "-" else minutes) * 60 * SECOND


def _tags(stream: BinaryIO) -> dict[int, str]:
    """Texts of the wanted tags, by number; empty where there is no EXIF."""
    tags = _tiff_tags(stream, 0)
    if tags:
        return tags
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    for marker in _INNER:
        position = head.find(marker)
        if position >= 0:
            tags |= _tiff_tags(stream, position + len(marker))
    return tags


def _tiff_tags(stream: BinaryIO, base: int) -> dict[int, str]:
    """Wanted texts of the TIFF that starts at byte `base`: its first directory and the EXIF one.

    The magic number may be any but BigTIFF's: ORF and RW2 are TIFF under numbers of their own.
    """
    tags: dict[int, str] = {}
    try:
        header = _read(stream, base, 8)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        if order is None or struct.unpack(order + "H", header[2:4])[0] == _BIG_TIFF:
            return tags
        exif = _directory(stream, base, struct.unpack(order + "I", header[4:])[0], order, tags)
        if exif:
            _directory(stream, base, exif, order, tags)
    except (struct.error, EOFError):
        pass  # damaged from here on; what was read before may do
    return tags


def _directory(stream: BinaryIO, base: int, offset: int, order: str, tags: dict[int, str]) -> int:
    """Read one directory into `tags`; the EXIF directory's offset, 0 if it names none."""
    exif = 0
    (count,) = struct.unpack(order + "H", _read(stream, base + offset, 2))
    entries = _read(stream, base + offset + 2, 12 * min(count, _MOST_ENTRIES))
    for tag, kind, length, value in struct.iter_unpack(order + "HHI4s", entries):
        if tag == _EXIF_IFD and kind in _POINTERS:
            (exif,) = struct.unpack(order + "I", value)
        elif tag in _TEXTS and kind == _ASCII and length <= _LONGEST_TEXT:
            if length > 4:
                value = _read(stream, base + struct.unpack(order + "I", value)[0], length)
            text = value[:length].split(b"\0")[0].decode("ascii", "replace").strip()
            if text:
                tags[tag] = text
    return exif


def _read(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
