"""The colour casts of a session's cameras: fitted to its lightbox frames, or read from `colour.json`.

`colour.json` holds for each camera the polynomial, its size and pattern, the quality of the fit, and the
SHA-256 of the frames it was fitted to; it is written by `relo calibrate` and then takes the frames' place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from relo import __version__, atomic
from relo.capture.frame import RawFrame, channel_of_position
from relo.capture.session import CAMERAS, COLOUR_FILE, Session
from relo.config import Config, build_config
from relo.errors import CaptureError, ReloError
from relo.images import write_image
from relo.postprocess import polynomial
from relo.postprocess.colour import ColourCast, ColourConfig, fit_colour_cast

PICTURE_FILE = "colour.png"

_PANEL_WIDTH = 480
_GREEN_TOLERANCE = 0.01


class StoredCast(Config):
    """One camera's entry of `colour.json`; the arrays of `ColourCast` as nested lists."""

    width: int = Field(ge=2)
    height: int = Field(ge=2)
    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"]
    coefficients: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    residual_peak_to_peak: tuple[float, float, float]
    residual_rms: tuple[float, float, float]
    leave_one_out: tuple[float, float, float]
    alpha_range: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    green_ratio: float
    notes: tuple[str, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)


class StoredColour(Config):
    """Content of `colour.json`."""

    format: Literal["relo-colour"] = "relo-colour"
    version: Literal[1] = 1
    relo_version: str
    settings: ColourConfig
    cameras: dict[str, StoredCast]


class CalibrationResult(NamedTuple):
    """Files that `write_calibration` wrote, the casts, and whether anything is new."""

    file: Path
    picture: Path
    casts: dict[str, ColourCast]
    changed: bool


def fit_casts(session: Session, config: ColourConfig) -> dict[str, ColourCast]:
    """Fit the cast of both cameras to the session's lightbox frames.

    Raises
    ------
    CaptureError
        A camera has no lightbox frame, or none that can be read and used.
    """
    casts: dict[str, ColourCast] = {}
    for camera in CAMERAS:
        files = session.lightbox[camera]
        if not files:
            raise CaptureError(
                "is missing: the colour cast cannot be measured",
                file=session.root / "calibration" / f"lightbox_{camera}.dng",
                advice="Add the lightbox frame of this camera, or go without: --set colour.enabled=false.",
            )
        try:
            casts[camera] = fit_colour_cast(
                [session.read(path, camera) for path in files],
                degree=config.degree,
                patch_rows=config.patch_rows,
                patch_columns=config.patch_columns,
            )
        except ReloError as error:
            raise CaptureError(
                error.reason,
                file=error.file or files[0],
                advice=error.advice or "Take it again, or go without: --set colour.enabled=false.",
            ) from error
    return casts


def session_casts(session: Session, config: ColourConfig) -> tuple[dict[str, ColourCast], tuple[Path, ...]]:
    """Colour casts of a session, and the files they come from.

    `calibration/colour.json` is used where it is; the lightbox frames are fitted where it is not.

    Raises
    ------
    CaptureError
        Neither is there, or `colour.json` was made from other lightbox frames than those beside it.
    """
    if not config.enabled:
        return {}, ()
    if session.colour_file is None:
        files = tuple(path for camera in CAMERAS for path in session.lightbox[camera])
        return fit_casts(session, config), files
    stored = load_colour(session.colour_file)
    frames = {path.name: path for paths in session.lightbox.values() for path in paths}
    recorded = {name: digest for cast in stored.cameras.values() for name, digest in cast.sources.items()}
    changed = [name for name in frames if recorded.get(name) != atomic.file_sha256(frames[name])]
    if changed:
        raise CaptureError(
            f"was not made from the {changed[0]} beside it",
            file=session.colour_file,
            advice="Run 'relo calibrate --overwrite', or remove the one that is out of date.",
        )
    return {camera: _unpack(cast) for camera, cast in stored.cameras.items()}, (session.colour_file,)


def stored_colour(session: Session, config: ColourConfig, casts: Mapping[str, ColourCast]) -> StoredColour:
    """What `colour.json` of a session holds."""
    cameras: dict[str, StoredCast] = {}
    for camera in CAMERAS:
        cast = casts[camera]
        cameras[camera] = StoredCast(
            height=cast.shape[0],
            width=cast.shape[1],
            pattern=cast.pattern,
            coefficients=cast.coefficients.tolist(),
            residual_peak_to_peak=cast.residual_peak_to_peak.tolist(),
            residual_rms=cast.residual_rms.tolist(),
            leave_one_out=cast.leave_one_out.tolist(),
            alpha_range=cast.alpha_range.tolist(),
            green_ratio=cast.green_ratio,
            notes=cast.notes,
            sources={path.name: atomic.file_sha256(path) for path in session.lightbox[camera]},
        )
    return StoredColour(relo_version=__version__, settings=config, cameras=cameras)


def write_calibration(session: Session, config: ColourConfig, *, overwrite: bool = False) -> CalibrationResult:
    """Fit the casts to the lightbox frames and write `colour.json` and a picture beside them.

    Parameters
    ----------
    session : Session
    config : ColourConfig
    overwrite : bool
        Replace a `colour.json` that says something else.

    Raises
    ------
    ReloError
        The lightbox frames cannot be used, or another `colour.json` is there.
    """
    casts = fit_casts(session, config)
    text = json.dumps(stored_colour(session, config, casts).model_dump(mode="json"), indent=2) + "\n"
    path = session.root / "calibration" / COLOUR_FILE
    changed = not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text
    if changed and path.is_file() and not overwrite:
        raise CaptureError("holds another calibration", file=path, advice="Add --overwrite to replace it.")
    image = path.with_name(PICTURE_FILE)
    if changed or not image.is_file():
        write_image(image, picture(session, casts))
        atomic.write_text(path, text)
    return CalibrationResult(path, image, casts, changed)


def load_colour(path: Path) -> StoredColour:
    """Read `colour.json`.

    Raises
    ------
    CaptureError
        It is no such file, or holds other than both cameras' finite, positive polynomials.
    """
    advice = "Make it anew with 'relo calibrate --overwrite', or remove it."
    try:
        stored = build_config(StoredColour, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, ReloError) as error:
        reason = error.reason if isinstance(error, ReloError) else f"cannot be read as JSON ({error})"
        raise CaptureError(reason, file=path, advice=advice) from error
    for camera in CAMERAS:
        cast = stored.cameras.get(camera)
        if cast is None:
            raise CaptureError(f"holds no calibration of camera {camera}", file=path, advice=advice)
        try:
            field = polynomial.evaluate(np.array(cast.coefficients), (33, 33))
        except ValueError as error:
            raise CaptureError(f"camera {camera}: {error}", file=path, advice=advice) from error
        if not (np.isfinite(field).all() and field.min() > 0):
            raise CaptureError(f"camera {camera}: the factor is not positive everywhere", file=path, advice=advice)
    return stored


def warnings(casts: Mapping[str, ColourCast], config: ColourConfig) -> list[str]:
    """What about the casts deserves a look."""
    found = []
    degrees = {cast.degree for cast in casts.values()} - {config.degree}
    if degrees:
        found.append(
            f"{COLOUR_FILE} holds polynomials of degree {max(degrees)}: colour.degree={config.degree} is not used"
        )
    for camera, cast in sorted(casts.items()):
        found += [f"camera {camera}: {note}" for note in cast.notes]
        if abs(cast.green_ratio - 1) > _GREEN_TOLERANCE:
            found.append(f"camera {camera}: the two greens differ by {100 * abs(cast.green_ratio - 1):.1f} %")
    return found


def picture(session: Session, casts: Mapping[str, ColourCast]) -> np.ndarray:
    """Lightbox frames before and after the correction, with the contrast stretched so that a cast is seen.

    Returns
    -------
    (h, w, 3) uint8 array
        A row a camera: before, after, and after with ten times the contrast. Each channel is shown relative
        to its own mean: grey is the mean, white and black are +-20 % (+-2 % in the third column).
    """
    rows = []
    for camera in CAMERAS:
        cast = casts[camera]
        frames = [session.read(path, camera) for path in session.lightbox[camera]]
        before = _small_rgb(np.mean([frame.normalised() for frame in frames], axis=0), frames[0])
        alpha = cv2.resize(
            np.moveaxis(cast.alpha(), 0, -1), (before.shape[1], before.shape[0]), interpolation=cv2.INTER_AREA
        )
        after = before * alpha
        panels = [
            _panel(_stretch(image, contrast), f"camera {camera}, {title}")
            for image, contrast, title in (
                (before, 0.2, "before: +-20 %"),
                (after, 0.2, "after: +-20 %"),
                (after, 0.02, "after: +-2 %"),
            )
        ]
        rows.append(np.hstack(panels))
    return np.vstack(rows)


def _small_rgb(mosaic: np.ndarray, frame: RawFrame) -> np.ndarray:
    """(h, w, 3) area means of the mosaic's colours, `_PANEL_WIDTH` wide at most."""
    height, width = mosaic.shape[0] // 2, mosaic.shape[1] // 2
    rgb = np.zeros((height, width, 3), np.float32)
    for position, channel in enumerate(channel_of_position(frame.pattern)):
        plane = mosaic[position // 2 :: 2, position % 2 :: 2][:height, :width]
        rgb[..., channel] += plane / (2 if channel == 1 else 1)
    columns = min(_PANEL_WIDTH, width)
    size = columns, max(1, round(height * columns / width))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _stretch(image: np.ndarray, contrast: float) -> np.ndarray:
    image = cv2.GaussianBlur(image, (0, 0), 4)  # a cast is smooth, noise would hide it
    deviation = image / np.median(image, axis=(0, 1)) - 1
    return np.rint(255 * np.clip(0.5 + 0.5 * deviation / contrast, 0, 1)).astype(np.uint8)


def _panel(image: np.ndarray, title: str) -> np.ndarray:
    """`image` with a white border and a title above it."""
    framed = cv2.copyMakeBorder(image, 24, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    font, black = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    return np.asarray(cv2.putText(framed, title, (6, 17), font, 0.45, black, 1, cv2.LINE_AA))


def _unpack(cast: StoredCast) -> ColourCast:
    return ColourCast(
        shape=(cast.height, cast.width),
        pattern=cast.pattern,
        coefficients=np.array(cast.coefficients),
        residual_peak_to_peak=np.array(cast.residual_peak_to_peak),
        residual_rms=np.array(cast.residual_rms),
        leave_one_out=np.array(cast.leave_one_out),
        alpha_range=np.array(cast.alpha_range),
        green_ratio=cast.green_ratio,
        notes=cast.notes,
    )
