"""EXIF blocks: taken out of a picture file, made true for upright pixels, written again.

An EXIF block is a TIFF header and directories of entries of 12 bytes (TIFF 6.0, section 2; Exif 2.32, section 4.6).
Values are carried as bytes, so that types and rationals stay what they are. Left behind are the tags that describe
how the old file stored its pixels, the thumbnail (directory 1), which would show the picture as it was, and
whatever stands outside the directories: maker notes that point there lose what they point to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

Order = Literal["<", ">"]

# Tags of directory 0 that describe the picture, not its storage: ImageDescription, Make, Model, Orientation,
# XResolution, YResolution, ResolutionUnit, Software, DateTime, Artist, HostComputer, Rating, RatingPercent,
# Copyright, XPTitle to XPSubject; and what TIFF/EP cameras put there: ExposureTime, FNumber, ExposureProgram,
# ISOSpeedRatings, DateTimeOriginal, FocalLength.
_DESCRIPTIVE = frozenset((
    *(0x10E, 0x10F, 0x110, 0x112, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x13C, 0x4746, 0x4749, 0x8298),
    *range(0x9C9B, 0x9CA0),
    *(0x829A, 0x829D, 0x8822, 0x8827, 0x9003, 0x920A),
))  # fmt: skip
_ORIENTATION, _EXIF, _GPS, _INTEROP, _WIDTH, _HEIGHT = 0x112, 0x8769, 0x8825, 0xA005, 0xA002, 0xA003
_LINKS = frozenset((_EXIF, _GPS, _INTEROP))
# Bytes of one value, and of the units in which its bytes are ordered, by type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_UNITS = _SIZES | {5: 4, 10: 4}
_SHORT, _LONG = 3, 4
_LONGEST = 16_000_000  # all values together [bytes]


class Entry(NamedTuple):
    """One tag: its type and number of values as TIFF 6.0 counts them, the values as bytes."""

    tag: int
    kind: int
    number: int
    data: bytes


@dataclass(frozen=True)
class Exif:
    """What an EXIF block says of a picture.

    Attributes
    ----------
    order : {"<", ">"}
        Byte order of the values, as `struct` writes it.
    main, exif, gps, interop : tuple of Entry
        Directory 0 and those it leads to, without the links between them.
    """

    order: Order
    main: tuple[Entry, ...] = ()
    exif: tuple[Entry, ...] = ()
    gps: tuple[Entry, ...] = ()
    interop: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.main or self.exif or self.gps or self.interop)


def parse_exif(block: bytes) -> Exif:
    """Read an EXIF block, or a whole TIFF file, for a picture whose pixels have been turned upright.

    Parameters
    ----------
    block : bytes
        From the byte-order mark on.

    Returns
    -------
    Exif
        Orientation, if it is given, is 1; where it swapped the sides, the stored width and height are swapped.

    Raises
    ------
    ValueError
        The block is damaged.
    """
    order, first = _header(block)
    everything = read_directory(block, order, first, _DESCRIPTIVE | _LINKS)
    exif_entries = _follow(block, order, everything, _EXIF)
    found = Exif(
        order,
        _without_links(everything),
        _without_links(exif_entries),
        _without_links(_follow(block, order, everything, _GPS)),
        _without_links(_follow(block, order, exif_entries, _INTEROP)),
    )
    return _upright(found)


def exif_block(exif: Exif) -> bytes:
    """The block that `parse_exif` reads, in the byte order it had."""
    body, first = _directories(exif, (), 8)
    return (b"II*\0" if exif.order == "<" else b"MM\0*") + struct.pack(f"{exif.order}I", first) + body


def append_to_tiff(data: bytes, exif: Exif | None, icc: bytes | None) -> bytes:
    """Put EXIF and an ICC profile into a TIFF file of one image.

    The old directory is replaced by one at the end of the file; the pixels stay where they are.

    Parameters
    ----------
    data : bytes
        A classic TIFF file.
    exif : Exif or None
    icc : bytes or None

    Raises
    ------
    ValueError
        `data` is no classic TIFF file.
    """
    order, first = _header(data)
    own = _in_order(exif, order) if exif else Exif(order)
    entries = read_directory(data, order, first)
    if icc is not None:
        entries[0x8773] = Entry(0x8773, 7, len(icc), icc)
    told = {entry.tag for entry in own.main}
    kept = tuple(entry for entry in entries.values() if entry.tag not in told)
    start = len(data) + len(data) % 2
    body, place = _directories(own, kept, start)
    return data[:4] + struct.pack(f"{order}I", place) + data[8:].ljust(start - 8, b"\0") + body


def read_directory(
    block: bytes, order: Order, offset: int, wanted: frozenset[int] | None = None
) -> dict[int, Entry]:
    """Entries of one directory by tag; those of `wanted` only, if it is given.

    Raises
    ------
    ValueError
        It reaches beyond the end of `block`, or holds far more than a picture's description does.
    """
    try:
        (count,) = struct.unpack_from(f"{order}H", block, offset)
        fields = [struct.unpack_from(f"{order}HHI", block, offset + 2 + 12 * index) for index in range(count)]
        entries, total = {}, 0
        for index, (tag, kind, values) in enumerate(fields):
            if kind not in _SIZES or (wanted is not None and tag not in wanted):
                continue
            size, place = _SIZES[kind] * values, offset + 2 + 12 * index + 8
            if size > 4:
                (place,) = struct.unpack_from(f"{order}I", block, place)
            total += size
            if place + size > len(block):
                raise ValueError(f"tag {tag} reaches beyond the end")
            if total > _LONGEST:
                raise ValueError("it is far too long")
            entries[tag] = Entry(tag, kind, values, block[place : place + size])
    except struct.error as error:
        raise ValueError("a directory reaches beyond the end") from error
    return entries


def tiff_header(block: bytes) -> tuple[Order, int] | None:
    """Byte order and place of directory 0 of a classic TIFF file; None for other data."""
    try:
        return _header(block)
    except ValueError:
        return None


def integers(entry: Entry, order: Order) -> tuple[int, ...]:
    """Values of an entry of type SHORT or LONG; empty for other types."""
    letter = {_SHORT: "H", _LONG: "I"}.get(entry.kind)
    return struct.unpack(f"{order}{entry.number}{letter}", entry.data) if letter else ()


def _header(block: bytes) -> tuple[Order, int]:
    orders: dict[bytes, Order] = {b"II*\0": "<", b"MM\0*": ">"}
    order = orders.get(block[:4])
    if order is None or len(block) < 8:
        raise ValueError("it has no TIFF header")
    return order, struct.unpack_from(f"{order}I", block, 4)[0]


def _follow(block: bytes, order: Order, entries: dict[int, Entry], link: int) -> dict[int, Entry]:
    if link not in entries:
        return {}
    entry = entries[link]
    if entry.kind not in (_LONG, 13) or entry.number != 1:
        raise ValueError(f"tag {link} leads nowhere")
    return read_directory(block, order, struct.unpack(f"{order}I", entry.data)[0])


def _without_links(entries: dict[int, Entry]) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries.values() if entry.tag not in _LINKS)


def _upright(exif: Exif) -> Exif:
    turned = next((integers(entry, exif.order) for entry in exif.main if entry.tag == _ORIENTATION), ())
    upright = Entry(_ORIENTATION, _SHORT, 1, struct.pack(f"{exif.order}H", 1))
    main = tuple(upright if entry.tag == _ORIENTATION else entry for entry in exif.main)
    sides = {_WIDTH: _HEIGHT, _HEIGHT: _WIDTH} if turned and 5 <= turned[0] <= 8 else {}
    return replace(exif, main=main, exif=tuple(e._replace(tag=sides.get(e.tag, e.tag)) for e in exif.exif))


def _in_order(exif: Exif, order: Order) -> Exif:
    if exif.order == order:
        return exif

    def swapped(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(
            e._replace(data=np.frombuffer(e.data, f"u{_UNITS[e.kind]}").byteswap().tobytes()) for e in entries
        )

    return Exif(order, swapped(exif.main), swapped(exif.exif), swapped(exif.gps), swapped(exif.interop))


def _directories(exif: Exif, more: tuple[Entry, ...], start: int) -> tuple[bytes, int]:
    """All directories as bytes that stand at `start`, those that are led to first; and the place of directory 0."""
    body = b""

    def place(entries: tuple[Entry, ...]) -> int:
        nonlocal body
        where = start + len(body)
        body += _directory(entries, exif.order, where)
        return where

    def link(tag: int, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return (Entry(tag, _LONG, 1, struct.pack(f"{exif.order}I", place(entries))),) if entries else ()

    deeper = exif.exif + link(_INTEROP, exif.interop)
    links = link(_EXIF, deeper) + link(_GPS, exif.gps)
    first = place(exif.main + more + links)
    return body, first


def _directory(entries: tuple[Entry, ...], order: Order, where: int) -> bytes:
    """One directory at `where` and its values behind it, at even places; none follows it."""
    head = struct.pack(f"{order}H", len(entries))
    values = b""
    first = where + 2 + 12 * len(entries) + 4
    for entry in sorted(entries):
        head += struct.pack(f"{order}HHI", entry.tag, entry.kind, entry.number)
        if len(entry.data) <= 4:
            head += entry.data.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", first + len(values))
            values += entry.data + b"\0" * (len(entry.data) % 2)
    return head + bytes(4) + values
