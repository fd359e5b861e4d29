"""What is in a session, what is missing, what is inconsistent: every frame is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from relo.capture.frame import RawFrame
from relo.capture.session import CAMERAS, Camera, Pair, Problem, Scene, Session
from relo.errors import CaptureError
from relo.progress import Progress

_REFERENCES = ("static", "whiteboard")

# Beyond this share of clipped sites a frame is worth a look, whatever is in it.
_CLIPPED_WARNING = 0.05


@dataclass
class SessionCheck:
    """Result of `check_session`.

    Attributes
    ----------
    pairs : dict of scene name -> number of pairs found
    good : dict of scene name -> number of pairs that can be processed
    problems : list of Problem
        What stops a file, a pair or a scene.
    warnings : list of str
        What does not stop anything but deserves a look.
    """

    pairs: dict[str, int] = field(default_factory=dict)
    good: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_session(session: Session, progress: Progress | None = None) -> SessionCheck:
    """Decode every frame of `session` and report what would stop `relo process`.

    Parameters
    ----------
    session : Session
    progress : callable (done, total, what), optional
    """
    result = SessionCheck()
    total = sum(map(len, session.lightbox.values()))
    total += sum(len(scene.pairs) + len(scene.static) + len(scene.whiteboard) for scene in session.scenes)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, what)

    shapes: dict[Path, tuple[int, int]] = {}
    for camera in CAMERAS:
        for path in session.lightbox[camera]:
            frame = _check_lightbox(session, path, camera, result)
            if frame is not None:
                shapes[path] = frame.shape
            step(path.name)
        if not session.lightbox[camera] and session.colour_file is None:
            missing = session.root / "calibration" / f"lightbox_{camera}.dng"
            advice = "Add the lightbox frame (or a fitted colour.json), or process with --set colour.enabled=false."
            result.problems.append(Problem(missing, "is missing", advice))
    colour_is_missing = bool(result.problems)
    for scene in session.scenes:
        _check_scene(session, scene, result, step, shapes)
    if colour_is_missing:
        result.good = dict.fromkeys(result.good, 0)
    return result


def _check_lightbox(session: Session, path: Path, camera: Camera, result: SessionCheck) -> RawFrame | None:
    try:
        frame = session.read(path, camera)
    except CaptureError as error:
        result.problems.append(Problem.from_error(error, path))
        return None
    result.warnings += [f"{path}: {note}" for note in frame.notes]
    clipped = float(frame.saturated().mean())
    if clipped > 0.001:
        result.warnings.append(f"{path}: {100 * clipped:.1f} % of the sites are saturated; expose it less")
    return frame


def _check_scene(
    session: Session,
    scene: Scene,
    result: SessionCheck,
    step: Callable[[str], None],
    lightbox: Mapping[Path, tuple[int, int]],
) -> None:
    result.problems += scene.problems
    result.warnings += [f"{path}: is no RAW file by its name and is ignored" for path in scene.ignored]
    result.pairs[scene.name] = len(scene.pairs) + len(
        {problem.pair for problem in scene.problems if problem.pair and not problem.pair.startswith(_REFERENCES)}
    )
    shape: tuple[int, int] | None = None
    alignable = bool(scene.static)
    for pair in (*scene.static, *scene.whiteboard):
        frames = _read(session, scene, pair, shape, result)
        if frames is None:
            alignable = alignable and pair not in scene.static
        elif shape is None:
            shape = frames[1].shape
        step(f"{scene.name}/{pair.id}")
    if not scene.static:
        advice = "Photograph the still scene with both cameras and add the pair; without it nothing can be aligned."
        missing = scene.path / "static_B.dng"
        result.problems.append(Problem(missing, "is missing (no static pair)", advice, scene.name))
    good = 0
    exposures: dict[str, set[float | None]] = {camera: set() for camera in CAMERAS}
    for pair in scene.pairs:
        frames = _read(session, scene, pair, shape, result)
        step(f"{scene.name}/{pair.id}")
        if frames is None:
            continue
        shape = shape or frames[1].shape
        good += 1
        for frame, file in zip(frames, (pair.blur, pair.sharp), strict=True):
            exposures[frame.camera].add(None if frame.exposure_s is None else float(np.float32(frame.exposure_s)))
            clipped = float(frame.saturated().mean())
            if clipped > _CLIPPED_WARNING:
                result.warnings.append(f"{file}: {100 * clipped:.1f} % of the sites are saturated")
    longest_short = max((time for time in exposures["S"] if time), default=0.0)
    if any(time and time <= longest_short for time in exposures["B"]):
        result.warnings.append(f"{scene.path}: camera B exposes no longer than camera S; are the names swapped?")
    for camera, times in exposures.items():
        if None in times:
            result.warnings.append(
                f"{scene.path}: camera {camera} records no exposure time; give cameras.{camera}.exposure_s in "
                "session.yaml"
            )
        elif len(times) > 1:
            result.warnings.append(f"{scene.path}: camera {camera} uses {len(times)} different exposure times")
    for path, size in lightbox.items():
        if shape is not None and size != shape:
            advice = "Take the lightbox frames with the size of the scenes."
            reason = f"is {size[1]}x{size[0]} pixels, the scene's frames are {shape[1]}x{shape[0]}"
            result.problems.append(Problem(path, reason, advice, scene.name))
            alignable = False
    result.good[scene.name] = good if alignable else 0
    if not scene.pairs:
        result.warnings.append(f"{scene.path}: holds no pair")


def _read(
    session: Session, scene: Scene, pair: Pair, shape: tuple[int, int] | None, result: SessionCheck
) -> tuple[RawFrame, RawFrame] | None:
    try:
        return session.read_pair(pair, shape)
    except CaptureError as error:
        result.problems.append(Problem.from_error(error, pair.blur, scene.name, pair.id, stage="read"))
        return None
