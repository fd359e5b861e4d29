"""Read a RAW file, whatever its container, into a `RawFrame`.

Three kinds of file are understood: anything LibRaw reads (DNG and the cameras' own formats), 16-bit
single-channel TIFF or PNG mosaics, and headerless `.raw` (16-bit little-endian or 12-bit packed). The last
two carry no metadata: pattern, levels and size come from `CameraSettings`, which `session.yaml` fills.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, PositiveFloat, ValidationError, field_validator

from relo.capture.dng import sidecar_path
from relo.capture.frame import PATTERNS, RawFrame, flip_pattern
from relo.capture.mosaic_file import MAX_PIXELS, check_claim, read_png, read_tiff
from relo.config import Config, describe_validation_error
from relo.errors import CaptureError

MOSAIC_SUFFIXES = (".tif", ".tiff", ".png")
HEADERLESS_SUFFIX = ".raw"
LIBRAW_SUFFIXES = (
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef",
    ".srw", ".3fr", ".fff", ".iiq", ".kdc", ".dcr", ".mos", ".mef", ".mrw", ".erf", ".rwl", ".gpr",
)  # fmt: skip
RAW_SUFFIXES = (*LIBRAW_SUFFIXES, *MOSAIC_SUFFIXES, HEADERLESS_SUFFIX)

# The most pixels a byte can stand for in what LibRaw reads: a frame of one colour, without loss, has about 8.
_DENSEST_RAW = 16
_MAX_SIDECAR_BYTES = 1_000_000

_OTHER_KINDS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"%PDF": "PDF", b"PK\x03\x04": "ZIP"}

_COPY_AGAIN = "Copy it again."
_NO_WHITE_BALANCE = "no white balance in the file: gains of 1 assumed"
_NO_COLOUR_MATRIX = "no colour matrix in the file: identity assumed"
_CHECK_RIGHTS = "Check the name and its rights."


PositiveGains = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class CameraSettings(Config):
    """What `session.yaml` says of one camera; each value given here wins over the file's own metadata."""

    exposure_s: float | None = Field(None, gt=0, description="Exposure time [s].")
    nd_transmittance: float | None = Field(None, gt=0, le=1, description="Transmittance of the ND filter.")
    mirrored: bool = Field(False, description="The camera sees the scene in a mirror: flip left-right.")
    pattern: str | None = Field(None, description="CFA pattern of the top-left 2 x 2.")
    black: float | tuple[float, float, float, float] | None = Field(None, description="Black level(s) [DN].")
    white: float | None = Field(None, gt=0, description="Saturation level [DN].")
    bits: int | None = Field(None, ge=8, le=16, description="Bits per sample; 12 in a .raw of 1.5 bytes a pixel.")
    width: int | None = Field(None, ge=2, description="Columns of a headerless .raw.")
    height: int | None = Field(None, ge=2, description="Rows of a headerless .raw.")
    header_bytes: int = Field(0, ge=0, description="Bytes to skip at the start of a headerless .raw.")
    white_balance: PositiveGains | None = Field(None, description="Gains of R, G, B.")
    colour_matrix: tuple[tuple[float, float, float], ...] | None = Field(
        None, description="3 x 3, white-balanced camera RGB -> linear sRGB, rows sum to 1."
    )

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, value: str | None) -> str | None:
        if value is not None and value not in PATTERNS:
            raise ValueError(f"must be one of {', '.join(PATTERNS)}")
        return value

    @field_validator("colour_matrix")
    @classmethod
    def _three_by_three(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and len(value) != 3:
            raise ValueError("needs three rows of three numbers")
        return value


class _Sidecar(Config):
    camera: str = ""
    iso: float | None = Field(None, gt=0, allow_inf_nan=False)
    nd_transmittance: float | None = Field(None, gt=0, le=1)
    black: tuple[float, float, float, float] | None = None
    white: float | None = None


def read_raw(path: str | Path, settings: CameraSettings | None = None, *, camera: str = "") -> RawFrame:
    """Read one RAW file.

    Parameters
    ----------
    path : path
        See `RAW_SUFFIXES`.
    settings : CameraSettings, optional
        Overrides; required for files without metadata (mosaic TIFF/PNG need `pattern`, a headerless `.raw`
        also `width` and `height`).
    camera : {"B", "S", ""}
        Stored in the frame.

    Returns
    -------
    RawFrame
        The visible area, not rotated; flipped left-right where `settings.mirrored`.

    Raises
    ------
    CaptureError
        The file is missing, empty, truncated, not a RAW file, not a Bayer mosaic, or lacks metadata that
        the settings do not give either.
    """
    path = Path(path)
    settings = settings or CameraSettings()
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice=_CHECK_RIGHTS) from error
    if size == 0:
        raise CaptureError("is empty (0 bytes; copy interrupted?)", file=path, advice=_COPY_AGAIN)
    suffix = path.suffix.lower()
    try:
        if suffix in MOSAIC_SUFFIXES:
            frame = _read_mosaic(path, settings)
        elif suffix == HEADERLESS_SUFFIX:
            frame = _read_headerless(path, settings, size)
        else:
            frame = _read_libraw(path, settings)
        frame = _with_sidecar(path, frame)
        frame = _with_settings(frame, settings)
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice=_CHECK_RIGHTS) from error
    except ValueError as error:
        raise CaptureError(str(error), file=path, advice="See 'Sessions' in the documentation.") from error
    return replace(frame, camera=camera or frame.camera)


def _read_libraw(path: Path, settings: CameraSettings) -> RawFrame:
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            # Nothing is decoded yet. Without a pattern LibRaw may set aside four values a pixel.
            cell = _raw_pattern(raw)
            limit = MAX_PIXELS if cell is not None else MAX_PIXELS // 2
            check_claim(raw.sizes.raw_width, raw.sizes.raw_height, path.stat().st_size, _DENSEST_RAW, limit)
            mosaic = raw.raw_image_visible
            if mosaic is None or mosaic.ndim != 2:
                raise ValueError("is no Bayer mosaic (three values a pixel); give the undeveloped RAW")
            pattern = _bayer_pattern(raw, cell)
            black = raw.black_level_per_channel
            # A file without a Bayer pattern may name fewer than four levels.
            index = np.ravel(cell) if pattern and cell is not None else np.arange(4) % len(black)
            wb, wb_notes = _white_balance(raw.camera_whitebalance)
            matrix, matrix_notes = _colour_matrix(raw)
            shutter = float(raw.other.shutter_speed)
            iso = float(raw.other.iso_speed)
            pattern = settings.pattern or pattern
            if not pattern:
                raise ValueError(
                    "has no 2 x 2 Bayer pattern; if it is one, give cameras.<B|S>.pattern in session.yaml"
                )
            frame = RawFrame(
                mosaic=np.array(mosaic, np.uint16),
                pattern=pattern,
                black=_four(float(black[position]) for position in index),
                white=float(raw.white_level),
                wb=wb,
                colour_matrix=matrix,
                exposure_s=shutter if 0 < shutter < np.inf else None,
                iso=iso if 0 < iso < np.inf else None,
                notes=(
                    *(wb_notes if settings.white_balance is None else ()),
                    *(matrix_notes if settings.colour_matrix is None else ()),
                ),
            )
    except (rawpy.LibRawError, rawpy.NotSupportedError, RuntimeError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise CaptureError(
            f"is no RAW file, or truncated or damaged (LibRaw: {reason}; {_looks_like(path)})",
            file=path,
            advice=_COPY_AGAIN,
        ) from error
    return frame


def _looks_like(path: Path) -> str:
    """What a file that LibRaw refuses seems to be, by its first bytes."""
    with path.open("rb") as stream:
        head = stream.read(32)
    if not any(head):
        return "it begins with zeros"
    kind = next((kind for magic, kind in _OTHER_KINDS.items() if head.startswith(magic)), None)
    if kind is not None:
        return f"it is a {kind} file"
    if head.isascii() and "".join(head.decode().split()).isprintable():
        return "it is text"
    return "it begins like a RAW file" if head[:2] in (b"II", b"MM") else "its header is of no known kind"


def _raw_pattern(raw: Any) -> np.ndarray | None:
    try:
        cell = raw.raw_pattern
    except NotImplementedError:  # a pattern of a size that only damage makes
        return None
    return None if cell is None else np.asarray(cell)


def _bayer_pattern(raw: Any, cell: np.ndarray | None) -> str | None:
    if cell is None or cell.shape != (2, 2) or raw.color_desc != b"RGBG":
        return None
    pattern = "".join("RGBG"[index] for index in cell.ravel())
    return pattern if pattern in PATTERNS else None


def _white_balance(gains: Any) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    red, green, blue = (float(gain) for gain in gains[:3])
    if min(red, green, blue) <= 0 or not np.isfinite([red, green, blue]).all():
        return (1.0, 1.0, 1.0), (_NO_WHITE_BALANCE,)
    return (red / green, 1.0, blue / green), ()


def _colour_matrix(raw: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    from relo.capture.dng import SRGB_TO_XYZ

    matrix = np.array(raw.color_matrix, np.float64)[:3, :3]
    if np.isfinite(matrix).all() and np.abs(matrix).max() > 0:
        return matrix, ()
    xyz_to_camera = np.array(raw.rgb_xyz_matrix, np.float64)[:3, :3]
    if np.isfinite(xyz_to_camera).all() and abs(np.linalg.det(xyz_to_camera)) > 1e-9:
        to_camera = xyz_to_camera @ SRGB_TO_XYZ
        to_camera /= to_camera.sum(axis=1, keepdims=True)
        return np.linalg.inv(to_camera), ()
    return np.eye(3), (_NO_COLOUR_MATRIX,)


def _read_mosaic(path: Path, settings: CameraSettings) -> RawFrame:
    mosaic = read_png(path) if path.suffix.lower() == ".png" else read_tiff(path)
    return _frame_without_metadata(mosaic, settings)


def _read_headerless(path: Path, settings: CameraSettings, size: int) -> RawFrame:
    width, height = settings.width, settings.height
    if width is None or height is None:
        raise ValueError("a headerless .raw needs cameras.<B|S>.width and height in session.yaml")
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels by session.yaml, more than any sensor")
    data_bytes = size - settings.header_bytes
    if data_bytes == 2 * pixels:
        mosaic = np.fromfile(path, "<u2", offset=settings.header_bytes).astype(np.uint16)
    elif data_bytes * 2 == pixels * 3 and settings.bits in (None, 12):
        mosaic = unpack_12_bit(np.fromfile(path, np.uint8, offset=settings.header_bytes))
    else:
        raise ValueError(
            f"holds {data_bytes} bytes of pixels, {width} x {height} needs {2 * pixels} "
            f"(16 bit) or {pixels * 3 // 2} (12 bit packed); mend width, height or header_bytes in session.yaml"
        )
    if settings.bits is None and data_bytes * 2 == pixels * 3:
        settings = settings.model_copy(update={"bits": 12})
    return _frame_without_metadata(mosaic.reshape(height, width), settings)


def unpack_12_bit(packed: np.ndarray) -> np.ndarray:
    """Unpack two 12-bit samples from three bytes, little-endian (GenICam Mono12p / MIPI-free "12p" order).

    Convention: sample 0 = byte 0 and the low nibble of byte 1; sample 1 = the high nibble of byte 1 and byte 2.

    Parameters
    ----------
    packed : (3 n,) uint8 array

    Returns
    -------
    (2 n,) uint16 array, 0..4095
    """
    first, middle, last = (packed[offset::3].astype(np.uint16) for offset in range(3))
    samples = np.empty(2 * first.size, np.uint16)
    samples[0::2] = first | (middle & 0x0F) << 8
    samples[1::2] = middle >> 4 | last << 4
    return samples


def _frame_without_metadata(mosaic: np.ndarray, settings: CameraSettings) -> RawFrame:
    if settings.pattern is None:
        raise ValueError("has no metadata: give cameras.<B|S>.pattern (and black, white) in session.yaml")
    notes = []
    if settings.white_balance is None:
        notes.append(_NO_WHITE_BALANCE)
    if settings.colour_matrix is None:
        notes.append(_NO_COLOUR_MATRIX)
    white = settings.white if settings.white is not None else float(2 ** (settings.bits or 16) - 1)
    if settings.white is None and settings.bits is None:
        notes.append("no white level given: 65535 assumed")
    if settings.black is None:
        notes.append("no black level given: 0 assumed")
    return RawFrame(
        mosaic=mosaic, pattern=settings.pattern, black=(0.0, 0.0, 0.0, 0.0), white=white, notes=tuple(notes)
    )


def _with_sidecar(path: Path, frame: RawFrame) -> RawFrame:
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return frame
    try:
        if sidecar.stat().st_size > _MAX_SIDECAR_BYTES:
            raise ValueError("it is far too long")
        values = _Sidecar.model_validate(json.loads(sidecar.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise CaptureError(
            describe_validation_error(_Sidecar, error), file=sidecar, advice="Mend or delete it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"is no valid JSON ({error})", file=sidecar, advice="Mend or delete it.") from error
    return replace(
        frame,
        camera=values.camera,
        iso=values.iso if values.iso is not None else frame.iso,
        nd_transmittance=values.nd_transmittance,
        black=values.black or frame.black,
        white=values.white or frame.white,
    )


def _with_settings(frame: RawFrame, settings: CameraSettings) -> RawFrame:
    changes: dict[str, Any] = {}
    if settings.pattern is not None:
        changes["pattern"] = settings.pattern
    if settings.black is not None:
        changes["black"] = _four(settings.black if isinstance(settings.black, tuple) else [settings.black] * 4)
    if settings.white is not None:
        changes["white"] = settings.white
    if settings.exposure_s is not None:
        changes["exposure_s"] = settings.exposure_s
    if settings.nd_transmittance is not None:
        changes["nd_transmittance"] = settings.nd_transmittance
    if settings.white_balance is not None:
        red, green, blue = settings.white_balance
        changes["wb"] = (red / green, 1.0, blue / green)
    if settings.colour_matrix is not None:
        changes["colour_matrix"] = np.array(settings.colour_matrix, np.float64)
    frame = replace(frame, **changes)
    return mirrored(frame) if settings.mirrored else frame


def mirrored(frame: RawFrame) -> RawFrame:
    """Flip a frame left-right: pattern and black levels follow the new phase."""
    black = frame.black
    if frame.shape[1] % 2 == 0:
        black = (black[1], black[0], black[3], black[2])
    return replace(
        frame,
        mosaic=np.ascontiguousarray(frame.mosaic[:, ::-1]),
        pattern=flip_pattern(frame.pattern, frame.shape),
        black=black,
    )


def _four(values: Any) -> tuple[float, float, float, float]:
    first, second, third, fourth = (float(value) for value in values)
    return first, second, third, fourth
