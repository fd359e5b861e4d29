"""Write a `RawFrame` as a DNG that LibRaw and other RAW developers read.

Tag list: TIFF/EP (ISO 12234-2) and the DNG 1.4 specification. The pixel data round-trip bit for bit.
What a DNG cannot carry through LibRaw (ISO speed, ND transmittance, which camera, fractional levels)
stands in a JSON sidecar of the same name.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from relo import atomic
from relo.capture.frame import RawFrame

# IEC 61966-2-1: linear sRGB -> CIE XYZ (D65). DNG's ColorMatrix1 maps XYZ to camera RGB.
SRGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)

# LibRaw takes anything smaller for a thumbnail.
_SMALLEST = 22

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL = 1, 2, 3, 4, 5, 10


def sidecar_path(path: Path) -> Path:
    """Path of the JSON file beside a RAW file: `0000_B.dng` -> `0000_B.json`."""
    return path.with_suffix(".json")


def write_dng(path: str | Path, frame: RawFrame) -> Path:
    """Write `frame` uncompressed to `path`, and a sidecar where it holds what a DNG cannot carry.

    Parameters
    ----------
    path : path
        Ends in `.dng`; replaced atomically.
    frame : RawFrame
        `colour_matrix` must be invertible and its rows must sum to 1 (DNG stores no other kind).

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        The colour matrix cannot be stored, a level lies outside what the format holds, or a side is below
        22 pixels, which LibRaw does not read.
    """
    import tifffile

    path = Path(path)
    if path.suffix.lower() != ".dng":
        raise ValueError(f"{path}: a DNG file must end in .dng")
    if min(frame.shape) < _SMALLEST:
        raise ValueError(f"a DNG file needs at least {_SMALLEST} x {_SMALLEST} pixels, got {frame.shape}")
    tags = _tags(frame)
    with atomic.unfinished(path) as part, tifffile.TiffWriter(part) as writer:
        writer.write(
            frame.mosaic,
            photometric=32803,  # colour filter array
            subfiletype=0,
            software=False,
            metadata=None,
            extratags=tags,
        )
    sidecar = _sidecar(frame)
    if sidecar:
        atomic.write_text(sidecar_path(path), json.dumps(sidecar, indent=2, sort_keys=True) + "\n")
    else:
        sidecar_path(path).unlink(missing_ok=True)
    return path


def _tags(frame: RawFrame) -> list[tuple[int, int, int, Any, bool]]:
    rows = frame.colour_matrix.sum(axis=1)
    if np.abs(rows - 1).max() > 1e-4:
        raise ValueError(f"the rows of colour_matrix must sum to 1, got {rows.tolist()}")
    if abs(np.linalg.det(frame.colour_matrix)) < 1e-6:
        raise ValueError("colour_matrix must be invertible")
    if not min(frame.black) >= 0 or not frame.white <= 65535:
        raise ValueError(f"black {frame.black} and white {frame.white:g} must lie within 0..65535")
    xyz_to_camera = np.linalg.inv(frame.colour_matrix) @ np.linalg.inv(SRGB_TO_XYZ)
    neutral = [1.0 / gain for gain in frame.wb]
    model = f"relo camera {frame.camera}".strip()
    tags = [
        (271, _ASCII, 0, "relo", True),  # Make
        (272, _ASCII, 0, model, True),  # Model
        (274, _SHORT, 1, 1, True),  # Orientation
        (33421, _SHORT, 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, _BYTE, 4, bytes("RGB".index(letter) for letter in frame.pattern), True),  # CFAPattern
        (50706, _BYTE, 4, bytes((1, 4, 0, 0)), True),  # DNGVersion
        (50707, _BYTE, 4, bytes((1, 2, 0, 0)), True),  # DNGBackwardVersion
        (50708, _ASCII, 0, model, True),  # UniqueCameraModel
        (50710, _BYTE, 3, bytes((0, 1, 2)), True),  # CFAPlaneColor
        (50711, _SHORT, 1, 1, True),  # CFALayout
        (50713, _SHORT, 2, (2, 2), True),  # BlackLevelRepeatDim
        (50714, _LONG, 4, tuple(round(level) for level in frame.black), True),  # BlackLevel
        (50717, _LONG, 1, round(frame.white), True),  # WhiteLevel
        (50721, _SRATIONAL, 9, _rationals(xyz_to_camera.ravel()), True),  # ColorMatrix1
        (50728, _RATIONAL, 3, _rationals(neutral), True),  # AsShotNeutral
        (50730, _SRATIONAL, 1, (0, 100), True),  # BaselineExposure
        (50778, _SHORT, 1, 21, True),  # CalibrationIlluminant1: D65
    ]
    if frame.exposure_s is not None:
        tags.append((33434, _RATIONAL, 1, _rationals([frame.exposure_s]), True))  # ExposureTime
    return sorted(tags)


def _rationals(values: Any) -> tuple[int, ...]:
    """Numerator, denominator, numerator, ... within 31 bits: exact to about nine digits."""
    flat: list[int] = []
    for value in values:
        # A value above 1 needs a smaller denominator, or its numerator would not fit.
        limit = int((2**31 - 1) / max(1.0, abs(float(value)))) if value else 1
        fraction = Fraction(float(value)).limit_denominator(max(1, limit))
        flat += [fraction.numerator, fraction.denominator]
    return tuple(flat)


def _sidecar(frame: RawFrame) -> dict[str, Any]:
    sidecar: dict[str, Any] = {}
    if frame.camera:
        sidecar["camera"] = frame.camera
    if frame.iso is not None:
        sidecar["iso"] = float(frame.iso)
    if frame.nd_transmittance is not None:
        sidecar["nd_transmittance"] = float(frame.nd_transmittance)
    if any(level != round(level) for level in frame.black):
        sidecar["black"] = [float(level) for level in frame.black]
    if frame.white != round(frame.white):
        sidecar["white"] = float(frame.white)
    return sidecar
