"""A session on disk: `raw_dir` with scenes, their pairs and the calibration frames.

Opening a session only lists files and reads `session.yaml`; no pixel is decoded. Files are matched by name,
never by position: `<id>_B.<suffix>` belongs to `<id>_S.<suffix>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from relo.capture.frame import RawFrame, flip_pattern
from relo.capture.raw_reader import RAW_SUFFIXES, CameraSettings, PositiveGains, read_raw
from relo.config import Config, build_config, read_yaml
from relo.errors import CaptureError, ReloError

Camera = Literal["B", "S"]
CAMERAS: tuple[Camera, Camera] = ("B", "S")
COLOUR_FILE = "colour.json"

_NAME = re.compile(r"^(?P<id>.+)_(?P<camera>[BS])$")


class CameraPair(Config):
    """Settings of the two cameras."""

    B: CameraSettings = CameraSettings()
    S: CameraSettings = CameraSettings()

    def __getitem__(self, camera: Camera) -> CameraSettings:
        return self.B if camera == "B" else self.S


class SessionSettings(Config):
    """Content of `session.yaml`; every key is optional."""

    rig: str = Field("", description="Name of the rig, for the record.")
    white_balance: PositiveGains | None = Field(
        None, description="Gains of R, G, B for both cameras, where a scene has no whiteboard pair."
    )
    cameras: CameraPair = CameraPair()


@dataclass(frozen=True)
class Pair:
    """One synchronised exposure of both cameras; `blur` is camera B's file, `sharp` camera S's."""

    id: str
    blur: Path
    sharp: Path


@dataclass(frozen=True)
class Problem:
    """Something in a session that stops an item: which file, what is wrong, what to do."""

    file: Path
    reason: str
    advice: str
    scene: str = ""
    pair: str = ""
    stage: str = "session"

    @classmethod
    def from_error(
        cls, error: ReloError, file: Path, scene: str = "", pair: str = "", stage: str = "session"
    ) -> Problem:
        """Problem that `error` describes; `file` is named where the error names none."""
        return cls(error.file or file, error.reason, error.advice, scene, pair, stage)

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}. {self.advice}"


@dataclass(frozen=True)
class Scene:
    """A folder of pairs that share rig position and background.

    Attributes
    ----------
    name : str
    path : Path
    pairs : tuple of Pair
        Sorted by id.
    static, whiteboard : tuple of Pair
        Reference pairs; ids start with "static" and "whiteboard".
    problems : tuple of Problem
        Files that form no pair.
    ignored : tuple of Path
        Files that are no RAW files by name.
    """

    name: str
    path: Path
    pairs: tuple[Pair, ...]
    static: tuple[Pair, ...]
    whiteboard: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    ignored: tuple[Path, ...]


@dataclass(frozen=True)
class Session:
    """One `raw_dir`.

    Attributes
    ----------
    root : Path
    settings : SessionSettings
    lightbox : dict of camera -> tuple of Path
    colour_file : Path or None
        `calibration/colour.json`, where it is.
    scenes : tuple of Scene
        Sorted by name.
    """

    root: Path
    settings: SessionSettings
    lightbox: dict[str, tuple[Path, ...]]
    colour_file: Path | None
    scenes: tuple[Scene, ...]

    def read(self, path: Path, camera: Camera) -> RawFrame:
        """Read one of the session's RAW files with the settings of `camera`."""
        return read_raw(path, self.settings.cameras[camera], camera=camera)

    def stored_pattern(self, frame: RawFrame, camera: Camera) -> str:
        """CFA pattern as it stands in the file, before a mirrored camera was flipped."""
        if self.settings.cameras[camera].mirrored:
            return flip_pattern(frame.pattern, frame.shape)
        return frame.pattern

    def read_pair(self, pair: Pair, shape: tuple[int, int] | None = None) -> tuple[RawFrame, RawFrame]:
        """Read both frames of a pair and make sure that they belong together.

        Parameters
        ----------
        shape : (H, W), optional
            Size that the scene's other frames have.

        Returns
        -------
        blur, sharp : RawFrame

        Raises
        ------
        CaptureError
            A frame cannot be read, or sizes or CFA patterns differ.
        """
        blur, sharp = self.read(pair.blur, "B"), self.read(pair.sharp, "S")
        for frame, file in ((sharp, pair.sharp), (blur, pair.blur)):
            if shape is not None and frame.shape != shape:
                raise CaptureError(
                    f"is {_size(frame.shape)} pixels, the scene's reference is {_size(shape)}",
                    file=file,
                    advice="Keep one size in a scene: move this pair to a scene of its own.",
                )
        if blur.shape != sharp.shape:
            raise CaptureError(
                f"is {_size(blur.shape)} pixels, {pair.sharp.name} is {_size(sharp.shape)}",
                file=pair.blur,
                advice="Both cameras must use one size.",
            )
        patterns = self.stored_pattern(blur, "B"), self.stored_pattern(sharp, "S")
        if patterns[0] != patterns[1]:
            raise CaptureError(
                f"has the CFA pattern {patterns[0]}, {pair.sharp.name} has {patterns[1]}",
                file=pair.blur,
                advice="Use the same crop on both cameras, or, where a file's tag is wrong, give "
                "cameras.<B|S>.pattern in session.yaml.",
            )
        return blur, sharp


def open_session(raw_dir: str | Path) -> Session:
    """List what is in a session folder.

    Raises
    ------
    CaptureError
        The folder is missing, holds no scene, or `session.yaml` is wrong.
    """
    root = Path(raw_dir)
    if not root.is_dir():
        raise CaptureError(
            "is no folder", file=root, advice="Give the session's folder, the one that holds scenes/."
        )
    settings_file = root / "session.yaml"
    settings = SessionSettings()
    if settings_file.is_file():
        settings = build_config(SessionSettings, read_yaml(settings_file), str(settings_file))
    scenes_dir = root / "scenes"
    folders = sorted(path for path in scenes_dir.iterdir() if path.is_dir()) if scenes_dir.is_dir() else []
    scenes = tuple(_list_scene(folder) for folder in folders if not folder.name.startswith("."))
    if not scenes:
        raise CaptureError(
            "holds no scene",
            file=root,
            advice=f"Expected {scenes_dir}/<scene>/0000_B.dng and the like; 'relo simulate' makes an example.",
        )
    calibration = root / "calibration"
    colour_file = calibration / COLOUR_FILE
    return Session(
        root=root,
        settings=settings,
        lightbox=_list_lightbox(calibration),
        colour_file=colour_file if colour_file.is_file() else None,
        scenes=scenes,
    )


def _is_raw(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in RAW_SUFFIXES and not path.name.startswith(".")


def _list_lightbox(folder: Path) -> dict[str, tuple[Path, ...]]:
    files: dict[str, list[Path]] = {camera: [] for camera in CAMERAS}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            match = _NAME.match(path.stem)
            if _is_raw(path) and match and match["id"].startswith("lightbox"):
                files[match["camera"]].append(path)
    return {camera: tuple(paths) for camera, paths in files.items()}


def _list_scene(folder: Path) -> Scene:
    found: dict[str, dict[str, list[Path]]] = {}
    problems: list[Problem] = []
    ignored: list[Path] = []
    for path in sorted(folder.iterdir()):
        match = _NAME.match(path.stem)
        if _is_raw(path) and match:
            found.setdefault(match["id"], {}).setdefault(match["camera"], []).append(path)
        elif _is_raw(path):
            advice = "Name it <id>_B or <id>_S, or take it out of the folder."
            problems.append(Problem(path, "belongs to no camera by its name", advice, folder.name))
        elif path.is_file() and path.suffix.lower() != ".json" and not path.name.startswith("."):
            ignored.append(path)
    pairs: list[Pair] = []
    for pair_id, files in sorted(found.items()):
        double = next((paths for paths in files.values() if len(paths) > 1), None)
        if double is not None:
            others = ", ".join(path.name for path in double[1:])
            advice = "Keep one file a camera and id."
            problems.append(Problem(double[0], f"is not the only one: {others}", advice, folder.name, pair_id))
        elif len(files) == 1:
            camera, (path,) = next(iter(files.items()))
            missing = f"{pair_id}_{'S' if camera == 'B' else 'B'}"
            problems.append(
                Problem(
                    path,
                    f"has no partner {missing}{path.suffix}",
                    "Copy the missing file, or take this one out.",
                    folder.name,
                    pair_id,
                )
            )
        else:
            pairs.append(Pair(pair_id, blur=files["B"][0], sharp=files["S"][0]))
    static = tuple(pair for pair in pairs if pair.id.startswith("static"))
    whiteboard = tuple(pair for pair in pairs if pair.id.startswith("whiteboard"))
    moving = tuple(pair for pair in pairs if pair not in static and pair not in whiteboard)
    return Scene(folder.name, folder, moving, static, whiteboard, tuple(problems), tuple(ignored))


def _size(shape: tuple[int, int]) -> str:
    """(H, W) as people write sizes: width x height."""
    return f"{shape[1]}x{shape[0]}"
