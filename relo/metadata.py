"""EXIF and ICC profiles of PNG, TIFF and JPEG files: out of one file, into another of any of these kinds.

What else a file may hold (XMP, IPTC, comments, gAMA and cHRM chunks) is not carried along.
Sources: PNG third edition (W3C 2025), 11.3.2.3 iCCP and 11.3.4.5 eXIf; Exif 2.32, section 4.7.2; ICC.1:2010,
section 7.2 and annex B.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from relo.exif import Exif, append_to_tiff, exif_block, integers, parse_exif, read_directory, tiff_header
from relo.images import PNG_SIGNATURE, jpeg_segments, png_chunks

_JPEG_EXIF, _JPEG_ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_JPEG_SEGMENT = 65533  # bytes of a segment after its length
_LONGEST_ICC = 16_000_000
_PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _ICC = 262, 277, 338, 34675
_TIFF_COLOURS = {5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab"}
_ALPHA_TYPES = (4, 6)  # PNG colour types


@dataclass(frozen=True)
class Metadata:
    """What a picture file says besides its pixels.

    Attributes
    ----------
    exif : Exif or None
        For upright pixels, see `relo.exif.parse_exif`.
    icc : bytes or None
        ICC profile of RGB pixels.
    alpha : bool
        The file has an alpha channel or a transparent colour.
    colours : str
        "RGB" also for grey and indexed files; "CMYK" or "Lab".
    notes : tuple of str
        What could not be kept, and why.
    """

    exif: Exif | None = None
    icc: bytes | None = None
    alpha: bool = False
    colours: str = "RGB"
    notes: tuple[str, ...] = ()


def read_metadata(data: bytes) -> Metadata:
    """Read what a PNG, TIFF or JPEG file says besides its pixels; damage costs the damaged block only.

    Parameters
    ----------
    data : bytes
        The whole file. From files of another kind nothing is read.
    """
    if data.startswith(PNG_SIGNATURE):
        block, icc, alpha, colours, notes = _from_png(data)
    elif data.startswith(b"\xff\xd8"):
        block, icc, alpha, colours, notes = _from_jpeg(data)
    elif data[:4] in (b"II+\0", b"MM\0+"):
        return Metadata(notes=("EXIF and ICC profile not kept: a BigTIFF file",))
    else:
        block, icc, alpha, colours, notes = _from_tiff(data)
    exif = None
    if block is not None:
        try:
            exif = parse_exif(block) or None
        except ValueError as error:
            notes.append(f"EXIF not kept: {error}")
    if icc is not None and (problem := _icc_problem(icc)):
        icc = None
        notes.append(f"ICC profile not kept: {problem}")
    return Metadata(exif, icc, alpha, colours, tuple(notes))


def embed(encoded: bytes, metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """Put EXIF and ICC profile into a file that holds neither.

    Parameters
    ----------
    encoded : bytes
        A PNG, classic TIFF or JPEG file.
    metadata : Metadata

    Returns
    -------
    bytes, tuple of str
        The new file, and what does not fit into it.
    """
    exif, icc = metadata.exif, metadata.icc
    if exif is None and icc is None:
        return encoded, ()
    if encoded.startswith(PNG_SIGNATURE):
        chunks = _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) if icc is not None else b""
        chunks += _png_chunk(b"eXIf", exif_block(exif)) if exif else b""
        end = len(PNG_SIGNATURE) + 25  # of IHDR, which comes first and has 13 bytes
        return encoded[:end] + chunks + encoded[end:], ()
    if encoded.startswith(b"\xff\xd8"):
        return _into_jpeg(encoded, exif, icc)
    return append_to_tiff(encoded, exif, icc), ()


_Found = tuple[bytes | None, bytes | None, bool, str, list[str]]


def _from_png(data: bytes) -> _Found:
    block, icc, alpha, notes = None, None, False, list[str]()
    for kind, body in png_chunks(data):
        if kind == b"IHDR":
            alpha = body[9] in _ALPHA_TYPES
        elif kind == b"tRNS":
            alpha = True
        elif kind == b"eXIf":
            block = body
        elif kind == b"iCCP":
            try:
                icc = _inflated(body.partition(b"\0")[2][1:])
            except zlib.error as error:
                notes.append(f"ICC profile not kept: {error}")
    return block, icc, alpha, "RGB", notes


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    data = inflate.decompress(packed, _LONGEST_ICC)
    if not inflate.eof:
        raise zlib.error("it is truncated or far too long")
    return data


def _from_jpeg(data: bytes) -> _Found:
    block, parts, colours, notes = None, dict[int, bytes](), "RGB", list[str]()
    count = 0
    for marker, start, stop in jpeg_segments(data):
        body = data[start + 4 : stop]
        if marker == 0xE1 and body.startswith(_JPEG_EXIF) and block is None:
            block = body[len(_JPEG_EXIF) :]
        elif marker == 0xE2 and body.startswith(_JPEG_ICC) and len(body) > 14:
            count = max(count, body[13])
            parts[body[12]] = body[14:]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) > 5 and body[5] == 4:
            colours = "CMYK"
    icc = None
    if parts and sorted(parts) == list(range(1, count + 1)):
        icc = b"".join(part for _, part in sorted(parts.items()))
    elif parts:
        notes.append("ICC profile not kept: parts of it are missing")
    return block, icc, False, colours, notes


def _from_tiff(data: bytes) -> _Found:
    header = tiff_header(data)
    if header is None:
        return None, None, False, "RGB", []
    order, first = header
    try:
        entries = read_directory(data, order, first, frozenset((_PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _ICC)))
    except ValueError as error:
        return None, None, False, "RGB", [f"EXIF and ICC profile not kept: {error}"]
    numbers = {tag: integers(entry, order) for tag, entry in entries.items()}
    colours = next((_TIFF_COLOURS[n] for n in numbers.get(_PHOTOMETRIC, ()) if n in _TIFF_COLOURS), "RGB")
    alpha = bool(numbers.get(_EXTRA_SAMPLES)) or numbers.get(_SAMPLES) in ((2,), (4,))
    icc = entries[_ICC].data if _ICC in entries else None
    return data, icc, alpha and colours == "RGB", colours, []


def _icc_problem(profile: bytes) -> str:
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") != len(profile):
        return "it is damaged"
    space = profile[16:20].decode("latin-1").strip()
    return "" if space == "RGB" else f"it is for {space} pixels, the result has RGB"


def _into_jpeg(encoded: bytes, exif: Exif | None, icc: bytes | None) -> tuple[bytes, tuple[str, ...]]:
    segments, notes = b"", []
    if exif:
        body = _JPEG_EXIF + exif_block(exif)
        if len(body) <= _JPEG_SEGMENT:
            segments += _jpeg_segment(0xE1, body)
        else:
            notes.append(f"EXIF not kept: {len(body)} bytes are too long for a JPEG file")
    if icc is not None:
        room = _JPEG_SEGMENT - len(_JPEG_ICC) - 2
        parts = [icc[start : start + room] for start in range(0, len(icc), room)]
        if len(parts) <= 255:
            for number, part in enumerate(parts, start=1):
                segments += _jpeg_segment(0xE2, _JPEG_ICC + bytes([number, len(parts)]) + part)
        else:
            notes.append(f"ICC profile not kept: {len(icc)} bytes are too long for a JPEG file")
    # Readers expect JFIF's own segment first.
    end = next((stop for marker, _, stop in jpeg_segments(encoded) if marker == 0xE0), 2)
    return encoded[:end] + segments + encoded[end:], tuple(notes)


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
