"""One scene to its shards: the unit of work, of resuming and of parallel execution."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from relo import atomic
from relo.capture.session import Pair, Problem, Scene, Session
from relo.config import canonical_json, config_sha256
from relo.errors import CaptureError, ProcessError, ReloError, ShardError
from relo.masks.combined import enlarged, mask_factor, reduced
from relo.masks.quality import MaskQuality, mask_flags
from relo.masks.scene import scene_masks
from relo.parallel import one_opencv_thread
from relo.postprocess import isp, quality
from relo.postprocess.calibration import FramePair, SceneCalibration, calibrate_scene
from relo.postprocess.colour import ColourCast
from relo.postprocess.pipeline import ProcessedPair, process_pair, valid_pixels
from relo.postprocess.short import draw_parameters, exposure_ratio, pair_generator, short_exposure
from relo.shards import schema
from relo.shards.calibration import store_calibration
from relo.shards.config import ProcessConfig
from relo.shards.index import quarantine_line, shard_entry
from relo.shards.reader import Shard, close_files
from relo.shards.rewrite import REWRITTEN_FROM
from relo.shards.writer import ShardWriter

logger = logging.getLogger(__name__)

Step = Callable[[str], None]

# Suspicious pairs are flagged beyond these.
_MISALIGNED_PX = 0.5
_BUMPED_PX = 0.1
# Of up to so many pairs the frames are kept, small, for the masks.
_KEPT_PAIRS = 32


@dataclass(frozen=True)
class SceneTask:
    """What `process_scene` needs; small, and sent to other processes as it is.

    `recorded` holds the SHA-256 that `dataset.json` knows of the scene's shards, file by file.
    """

    session: Session
    scene: Scene
    out: Path
    split: str
    config: ProcessConfig
    casts: Mapping[str, ColourCast]
    shared_sources: Mapping[str, str]
    recorded: Mapping[str, str] = field(default_factory=dict)


@dataclass
class SceneResult:
    """What became of a scene.

    Attributes
    ----------
    entries : list of dict
        Finished files, as `dataset.json` lists them.
    done, skipped, failed : int
        Pairs made now, made before, and lost to an unexpected error.
    problems : list of Problem
        What was left out.
    notes : list of str
        What was unusual but did not stop anything.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    failed: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def process_scene(task: SceneTask, step: Step | None = None) -> SceneResult:
    """Process one scene into shards, unless they are there already.

    An error that belongs to a pair leaves that pair out; one that belongs to the scene leaves out all its
    pairs. An unexpected error is reported with its traceback and does not stop other scenes.
    """
    try:
        # BLAS sums in another order with another number of threads; shards must not depend on that.
        with threadpool_limits(limits=1, user_api="blas"), one_opencv_thread():
            return _process(task, step or (lambda what: None))
    except OSError:
        raise  # disk full, folder gone: no other scene would fare better
    except Exception as error:
        logger.exception("scene %s failed", task.scene.name)
        reason = f"failed unexpectedly ({type(error).__name__}: {error})"
        return failed_scene(task, reason, "This is an error in relo: please report it with the traceback.", "bug")


def failed_scene(task: SceneTask, reason: str, advice: str, stage: str) -> SceneResult:
    """Result of a scene of which nothing came."""
    problem = Problem(task.scene.path, reason, advice, task.scene.name, "", stage)
    return SceneResult(failed=len(task.scene.pairs), problems=[problem])


def shard_paths(task: SceneTask) -> list[Path]:
    """Files a scene goes to: part by part, in order of the pairs' names."""
    parts = -(-len(task.scene.pairs) // task.config.shards.pairs)
    return [task.out / f"{task.scene.name}-{part:03d}.h5" for part in range(parts)]


def _process(task: SceneTask, step: Step) -> SceneResult:
    scene, config = task.scene, task.config
    sources = dict(task.shared_sources)
    for pair in (*scene.static, *scene.whiteboard, *scene.pairs):
        for path in (pair.blur, pair.sharp):
            try:
                sources |= hashed(task.session, path)
            except CaptureError:
                sources[path.relative_to(task.session.root).as_posix()] = "unreadable"  # reading it will say why
    result = SceneResult(problems=list(scene.problems))
    if _take_finished(task, sources, result):
        return result
    if not scene.pairs:
        if not scene.problems:
            advice = "Add its files <id>_B and <id>_S, or take the folder out."
            result.problems.append(Problem(scene.path, "holds no pair", advice, scene.name))
        return result
    try:
        calibration, static = _calibrate(task, result)
        valid = valid_pixels(calibration, config)
        if not (valid > 0).any():
            raise ProcessError(
                "the cameras share no pixel after alignment", advice="Check that both saw the same scene."
            )
    except ReloError as error:
        problem = Problem.from_error(error, scene.path / "static_B.dng", scene.name, stage="calibration")
        result.problems += [replace(problem, pair=pair.id) for pair in scene.pairs]
        return result
    result.notes += [f"scene {scene.name}: {note}" for note in calibration.notes]

    paths = shard_paths(task)
    with ExitStack() as stack:
        writers = []
        for path in paths:
            stack.callback(atomic.part_name(path).unlink, missing_ok=True)
            writer = ShardWriter(
                path,
                size=(valid.shape[0], valid.shape[1]),
                scene=scene.name,
                split=task.split,
                config=config.model_dump(mode="json"),
                config_sha256=config_sha256(config),
                sources=sources,
                bits=config.shards.bits,
                valid=valid,
                short=config.short.enabled,
            )
            stack.callback(writer.discard)  # no effect once published
            store_calibration(writer.file, calibration)
            writers.append(writer)
        # What the background models will see, small; a scene of many pairs is read back instead.
        factor = mask_factor(valid.shape[1], config.masks)
        kept: dict[_Stored, tuple[np.ndarray, np.ndarray]] | None = {} if len(scene.pairs) <= _KEPT_PAIRS else None
        for number, pair in enumerate(scene.pairs):
            try:
                _check_name(pair)
                frames = task.session.read_pair(pair, calibration.flow.shape)
                processed = process_pair(*frames, calibration, config)
            except ReloError as error:
                result.problems.append(Problem.from_error(error, pair.blur, scene.name, pair.id, "read"))
            else:
                writer = writers[number // config.shards.pairs]
                images = _write(writer, task, pair, frames, processed)
                if kept is not None:
                    stored = _Stored(writer, len(writer) - 1)
                    kept[stored] = reduced(images["blur"], factor), reduced(images["sharp"], factor)
            step(f"{scene.name}/{pair.id}")
        _write_masks(writers, static, task, valid, kept)
        left_out = canonical_json([_portable(problem, task.session) for problem in result.problems])
        for writer in writers:
            if len(writer):
                writer.file.attrs[schema.QUARANTINED] = left_out
                result.entries.append(shard_entry(writer.finish(), scene.name, task.split, len(writer)))
    result.done = sum(entry["pairs"] for entry in result.entries)
    current = {entry["file"] for entry in result.entries}
    for path in task.out.glob(f"{glob.escape(scene.name)}-[0-9][0-9][0-9].h5"):
        if path.name not in current:
            path.unlink()  # a part of an earlier, longer version of this scene
    return result


def hashed(session: Session, path: Path) -> dict[str, str]:
    """One entry of a shard's sources: path within the session -> SHA-256."""
    try:
        return {path.relative_to(session.root).as_posix(): atomic.file_sha256(path)}
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice="Check its rights.") from error


def _check_name(pair: Pair) -> None:
    longest = schema.PAIR_DTYPE["id"].itemsize
    if len(pair.id.encode()) > longest:
        advice = "Give both files of the pair a shorter one."
        raise CaptureError(f"has a name longer than {longest} bytes before _B", file=pair.blur, advice=advice)


def _take_finished(task: SceneTask, sources: Mapping[str, str], result: SceneResult) -> bool:
    """Take over the scene's shards if an earlier run has finished them; tell whether it has.

    They must hold every pair that was not left out, be made from the same files with the same settings, and be
    the files that were recorded: one that is damaged is made again.
    """
    entries, lacking = [], {pair.id for pair in task.scene.pairs}
    problems: list[Problem] = []
    for path in shard_paths(task):
        if not path.is_file():
            continue  # a part whose pairs were all left out has no file
        try:
            shard = Shard.open(path)
            attrs, ids = shard.attrs, shard.ids
            left_out = json.loads(attrs[schema.QUARANTINED])
            problems = [Problem(**{**entry, "file": task.session.root / entry["file"]}) for entry in left_out]
        except (ShardError, KeyError, ValueError, TypeError):
            return False
        finally:
            close_files()
        if (attrs["config_sha256"], attrs.get("sources"), attrs["split"]) != (
            config_sha256(task.config),
            dict(sources),
            task.split,
        ):
            return False
        entry = shard_entry(path, task.scene.name, task.split, len(ids))
        if task.recorded.get(path.name, entry["sha256"]) not in (entry["sha256"], attrs.get(REWRITTEN_FROM)):
            result.notes.append(f"{path.name} was damaged (another sha256 than recorded): scene made again")
            return False
        entries.append(entry)
        lacking -= set(ids) | {problem.pair for problem in problems}
    if lacking or not entries:
        return False
    result.entries, result.problems = entries, problems
    result.skipped = sum(entry["pairs"] for entry in entries)
    return True


def _portable(problem: Problem, session: Session) -> dict[str, str]:
    """A problem as plain values; its file relative to the session."""
    return json.loads(quarantine_line(problem, session.root))


def _calibrate(task: SceneTask, result: SceneResult) -> tuple[SceneCalibration, list[np.ndarray]]:
    """Calibration of the scene, and its static frames as they go to the background model."""
    session, scene, config = task.session, task.scene, task.config
    if not scene.static:
        raise CaptureError(
            "is missing: the scene has no static pair",
            file=scene.path / "static_B.dng",
            advice="Photograph the still scene with both cameras; without it nothing can be aligned.",
        )
    static: list[FramePair] = []
    for pair in scene.static:
        static.append(session.read_pair(pair, static[0][1].shape if static else None))
    whiteboard = None
    for pair in scene.whiteboard[:1]:
        try:
            whiteboard = session.read_pair(pair, static[0][1].shape)
        except CaptureError as error:
            result.problems.append(Problem.from_error(error, pair.blur, scene.name, pair.id, "white balance"))
    calibration = calibrate_scene(
        static, task.casts, config, whiteboard=whiteboard, wb=session.settings.white_balance
    )
    frames = []
    if config.masks.static:
        for image in calibration.static:
            scaled = isp.halve(image) if config.develop.output_scale == 0.5 else image
            frames.append(isp.quantise(scaled, config.shards.bits))
    return replace(calibration, static=()), frames


def _write(
    writer: ShardWriter, task: SceneTask, pair: Pair, frames: FramePair, processed: ProcessedPair
) -> dict[str, np.ndarray]:
    """Append a pair without its mask; return its frames as they were written."""
    config = task.config
    row: dict[str, object] = dict(processed.numbers)
    row["flags"] = ",".join(processed.flags)
    for column, frame in (("t_long", frames[0]), ("t_short", frames[1])):
        row[column] = float("nan") if frame.exposure_s is None else frame.exposure_s
    sharp = isp.quantise(processed.sharp, config.shards.bits)
    short = None
    if config.short.enabled:
        rng = pair_generator(config.seed, task.scene.name, pair.id)
        known = exposure_ratio(frames[0].exposure_s, frames[1].exposure_s)
        parameters = draw_parameters(config.short, rng, exposure_ratio=known)
        short = short_exposure(sharp, rng, **parameters.keywords())
        row |= parameters.columns()
    blur = isp.quantise(processed.blur, config.shards.bits)
    writer.append(pair.id, blur=blur, sharp=sharp, short=short, row=row)
    return {"blur": blur, "sharp": sharp}


class _Stored(NamedTuple):
    """A pair that has been written, waiting for its mask."""

    writer: ShardWriter
    number: int


def _write_masks(
    writers: list[ShardWriter],
    static: list[np.ndarray],
    task: SceneTask,
    valid: np.ndarray,
    kept: dict[_Stored, tuple[np.ndarray, np.ndarray]] | None,
) -> None:
    """Second pass: masks, from frames that were kept or are read back, and the numbers that need them."""
    pairs = [_Stored(writer, index) for writer in writers for index in range(len(writer))]
    factor = mask_factor(valid.shape[1], task.config.masks)

    def small(pair: _Stored) -> tuple[np.ndarray, np.ndarray]:
        if kept is not None:
            return kept[pair]
        blur, sharp = (reduced(pair.writer.read(name, pair.number), factor) for name in ("blur", "sharp"))
        return blur, sharp

    small_valid = np.where(reduced(valid, factor) == 255, np.uint8(255), np.uint8(0))
    small_static = [reduced(frame, factor) for frame in static]
    masks = scene_masks(pairs, small, task.config.masks, valid=small_valid, static=small_static)
    for pair, (small_mask, measured) in masks:
        mask = enlarged(small_mask, valid)
        pair.writer.set_mask(pair.number, mask)
        blur, sharp = (pair.writer.read(name, pair.number) for name in ("blur", "sharp"))
        _update_numbers(*pair, blur, sharp, mask, measured, valid, task.config.develop.output_scale)


def _update_numbers(
    writer: ShardWriter,
    index: int,
    blur: np.ndarray,
    sharp: np.ndarray,
    mask: np.ndarray,
    measured: MaskQuality,
    valid: np.ndarray,
    output_scale: float,
) -> None:
    """Misalignment [px of the sensor] and PSNR of the static area, and the flags that follow from them."""
    static = (mask == 0) & (valid > 0)
    top = np.float32(np.iinfo(blur.dtype).max)
    left = quality.misalignment(isp.grey(sharp) / top, isp.grey(blur) / top, static)
    residual, bump = left.length / output_scale, left.bump / output_scale
    row = writer.row(index)
    flags = [flag for flag in str(row["flags"]).split(",") if flag]
    if residual > _MISALIGNED_PX:
        flags.append("misaligned")
    if bump > _BUMPED_PX:
        flags.append("bumped")
    flags += mask_flags(measured)
    numbers = {"residual_after": residual, "bump": bump, "psnr": quality.psnr(sharp, blur, static)}
    numbers |= {
        "mask_agreement": measured.agreement,
        "mask_fragments": measured.fragments,
        "mask_border": measured.border,
    }
    writer.update_row(index, **numbers, flags=",".join(flags))
