"""The main job: a session becomes a dataset folder of shards."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from relo import atomic
from relo.capture.session import Problem, Scene, Session, open_session
from relo.config import config_sha256
from relo.errors import ConfigError, ReloError
from relo.locks import index_locked, locked
from relo.parallel import lost_interrupts, run_tasks
from relo.postprocess.colour import ColourCast
from relo.postprocess.lightbox import session_casts, warnings
from relo.postprocess.warm_up import compile_kernels
from relo.progress import Progress
from relo.resources import available_memory, usable_cores
from relo.shards import schema, tile_codec
from relo.shards.config import ProcessConfig, assign_splits
from relo.shards.estimate import Estimate, Workers, choose_workers, estimate, missing_space
from relo.shards.folder import check_output, prepare_folder, remove_stale
from relo.shards.index import quarantine_line, read_quarantine, write_index
from relo.shards.parts import Part, check_part, scenes_of_part
from relo.shards.probe import vouch_for
from relo.shards.reader import read_index
from relo.shards.scene import SceneResult, SceneTask, failed_scene, hashed, process_scene, shard_paths
from relo.units import in_bytes

logger = logging.getLogger(__name__)

_AGAIN = "Mend that and run the same command again: it continues."


@dataclass
class ProcessResult:
    """What became of a session, or of the part of it that was asked for.

    Attributes
    ----------
    out : Path
    shards : list of Path
    done, skipped, failed : int
        Pairs made now, made by an earlier run, and lost to an unexpected error.
    quarantined : list of Problem
        What was left out, and why.
    notes : list of str
    changed : bool
        Whether anything in `out` is new.
    complete : bool
        Whether the index covers every scene of the session: False while other parts have not run.
    """

    out: Path
    shards: list[Path] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    failed: int = 0
    quarantined: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: bool = False
    complete: bool = True


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    out : Path
    scenes : dict of scene -> number of its pairs
    splits : dict of scene -> split
    estimate : Estimate
    workers : Workers
    free : int
        Room on the disk of `out` [bytes].
    """

    out: Path
    scenes: dict[str, int]
    splits: dict[str, str]
    estimate: Estimate
    workers: Workers
    free: int


def default_out(raw_dir: str | Path) -> Path:
    """Where `relo process RAW_DIR` writes: RAW_DIR + "-shards"."""
    raw_dir = Path(raw_dir)
    resolved = raw_dir if raw_dir.name not in ("", ".", "..") else raw_dir.resolve()
    return resolved.with_name(resolved.name + "-shards")


def plan_session(
    raw_dir: str | Path,
    out: str | Path | None = None,
    config: ProcessConfig | None = None,
    *,
    jobs: int | None = None,
    part: Part | None = None,
) -> Plan:
    """Tell what `process_session` would do with the same arguments; nothing is written.

    Raises
    ------
    ReloError
        The session or the configuration cannot be used as a whole.
    """
    config = config or ProcessConfig()
    session = open_session(raw_dir)
    out = default_out(raw_dir) if out is None else Path(out)
    check_output(out, [session.root])
    splits = assign_splits([scene.name for scene in session.scenes], config)
    return _plan(session, out, config, splits, jobs, part)


def _plan(
    session: Session,
    out: Path,
    config: ProcessConfig,
    splits: Mapping[str, str],
    jobs: int | None,
    part: Part | None,
) -> Plan:
    scenes = {scene.name: len(scene.pairs) for scene in _scenes_of(session, part)}
    expected = estimate(session, sum(scenes.values()), config)
    workers = choose_workers(jobs or usable_cores(), len(scenes), expected.worker_memory, available_memory())
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return Plan(out, scenes, {name: splits[name] for name in scenes}, expected, workers, free)


def _scenes_of(session: Session, part: Part | None) -> list[Scene]:
    if part is None:
        return list(session.scenes)
    check_part(part)
    mine = scenes_of_part({scene.name: len(scene.pairs) for scene in session.scenes}, part)
    return [scene for scene in session.scenes if scene.name in mine]


def process_session(
    raw_dir: str | Path,
    out: str | Path | None = None,
    config: ProcessConfig | None = None,
    *,
    jobs: int | None = 1,
    part: Part | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Callable[[], None] | None = None,
) -> ProcessResult:
    """Process every scene of a session into shards.

    Finished shards are kept: a second run does nothing. Pairs that cannot be used are left out and listed
    in `quarantine.jsonl`. Scenes are the unit of work; wherever and beside whatever they are processed, the
    shards are the same bytes.

    Parameters
    ----------
    raw_dir : path
        A session, see docs/sessions.md.
    out : path, optional
        Dataset folder; `raw_dir` + "-shards" if not given.
    config : ProcessConfig, optional
    jobs : int or None
        Cores to use; None for all there are. Scenes are distributed over as many processes, fewer where there
        are fewer scenes or too little memory.
    part : (i, n), optional
        Process only part i of n of the scenes, for the jobs of an array; they may run at the same time and
        write to the same folder.
    scheduler : str, optional
        Address of a dask.distributed scheduler; scenes are processed by its workers instead of here.
    overwrite : bool
        Replace a dataset that was made with other settings.
    progress : callable (pairs done, pairs in all, what), optional
    announce : callable, optional
        Called before the numerical kernels are compiled, the first time on a machine.

    Returns
    -------
    ProcessResult

    Raises
    ------
    ReloError
        The session, the configuration or the output folder cannot be used as a whole, or the disk is full.
    """
    config = config or ProcessConfig()
    session = open_session(raw_dir)
    out = default_out(raw_dir) if out is None else Path(out)
    if overwrite and part is not None:
        raise ConfigError("--overwrite would remove what other parts have made", advice="Remove the folder first.")
    splits = assign_splits([scene.name for scene in session.scenes], config)
    check_output(out, [session.root])
    scenes = _scenes_of(session, part)
    # BLAS sums in another order with another number of threads; shards must not depend on that.
    with threadpool_limits(limits=1, user_api="blas"):
        casts, shared_sources = _shared_calibration(session, config)
    with atomic.writing_to(out, _AGAIN), locked(out, part):
        settings = config.model_dump(mode="json")
        with index_locked(out):
            prepare_folder(out, settings, config_sha256(config), overwrite=overwrite, shared=part is not None)
            recorded = _recorded(out)
        alone = replace(session, scenes=())  # a task need not know the other scenes
        tasks = [
            SceneTask(alone, scene, out, splits[scene.name], config, casts, shared_sources, recorded)
            for scene in scenes
        ]
        _remove_unfinished(tasks)
        plan = _plan(session, out, config, splits, jobs, part)
        _require_room(plan, tasks)
        # Here, so that the kernels are there for all workers.
        compile_kernels(announce, warp_method=config.warp.method, clamp=config.warp.clamp)
        tile_codec.compile_kernels()
        try:
            results = _run(tasks, plan.workers, scheduler, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(plan, tasks) from error
            raise
        result = _summary(out, results)
        result.notes[:0] = warnings(casts, config.colour)
        if plan.workers.note and scheduler is None:
            result.notes.insert(0, plan.workers.note)
        for path in result.shards:
            vouch_for(path)
        with index_locked(out):
            _write_index(session, config, results, result, part)
        return result


def _run(
    tasks: list[SceneTask], workers: Workers, scheduler: str | None, progress: Progress | None
) -> dict[str, SceneResult]:
    """Process every scene; progress is told pair by pair here, scene by scene from other processes."""
    pairs = {task.scene.name: len(task.scene.pairs) for task in tasks}
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        check()
        if progress:
            progress(done, sum(pairs.values()), what)

    def results() -> Iterator[tuple[SceneTask, SceneResult]]:
        if scheduler is not None:
            from relo.cluster import run_on_cluster

            return run_on_cluster(process_scene, tasks, scheduler, lost=_lost)
        inline = workers.processes == 1
        function = partial(process_scene, step=step) if inline else process_scene
        return run_tasks(function, tasks, workers.processes, threads=workers.threads, lost=_lost)

    scenes: dict[str, SceneResult] = {}
    tasks = sorted(tasks, key=lambda task: -len(task.scene.pairs))  # so that no long one is begun last
    try:
        with lost_interrupts() as check:
            for task, scene_result in results():
                scenes[task.scene.name] = scene_result
                done = sum(pairs[name] for name in scenes) - 1
                step(task.scene.name)
    except BaseException:
        _remove_unfinished(tasks)  # of processes that were killed
        raise
    return scenes


def _remove_unfinished(tasks: Sequence[SceneTask]) -> None:
    for task in tasks:
        for path in shard_paths(task):
            atomic.part_name(path).unlink(missing_ok=True)


def _bytes_left(plan: Plan, tasks: Sequence[SceneTask]) -> tuple[int, int]:
    """Pairs of which no shard is there yet, and what they will take [bytes]."""
    pairs = sum(len(task.scene.pairs) for task in tasks if not any(path.is_file() for path in shard_paths(task)))
    return pairs, plan.estimate.disk * pairs // max(1, plan.estimate.pairs)


def _require_room(plan: Plan, tasks: Sequence[SceneTask]) -> None:
    """Refuse to begin what cannot end; the estimate may be wrong by a factor of two."""
    _, needed = _bytes_left(plan, tasks)
    missing = missing_space(needed, plan.free)
    if missing and plan.free < needed / 2:
        raise ReloError(f"No space left: {missing}", file=plan.out, advice=_AGAIN)
    if missing:
        logger.warning("%s: %s", plan.out, missing)


def _disk_full(plan: Plan, tasks: Sequence[SceneTask]) -> ReloError:
    pairs, needed = _bytes_left(plan, tasks)
    free = shutil.disk_usage(plan.out).free
    missing = missing_space(needed, free) or f"{in_bytes(free)} are free"
    return ReloError(f"No space left: {pairs} pairs are to be done, {missing}", file=plan.out, advice=_AGAIN)


def _lost(task: SceneTask) -> SceneResult:
    """A scene whose process was killed twice."""
    _remove_unfinished([task])
    advice = "Probably memory ran out: run the same command again with fewer --jobs."
    return failed_scene(task, "was killed twice while it was processed", advice, "worker")


def _summary(out: Path, scenes: Mapping[str, SceneResult]) -> ProcessResult:
    result = ProcessResult(out)
    for name in sorted(scenes):
        scene = scenes[name]
        result.shards += [out / entry["file"] for entry in scene.entries]
        result.done += scene.done
        result.skipped += scene.skipped
        result.failed += scene.failed
        result.notes += scene.notes
        result.quarantined += scene.problems
    return result


def _shared_calibration(session: Session, config: ProcessConfig) -> tuple[dict[str, ColourCast], dict[str, str]]:
    """Colour casts of both cameras, and the hashes of all files that every scene depends on."""
    casts, files = session_casts(session, config.colour)
    settings = session.root / "session.yaml"
    sources: dict[str, str] = {}
    for path in (*files, settings) if settings.is_file() else files:
        sources |= hashed(session, path)
    return casts, sources


def _recorded(out: Path) -> dict[str, str]:
    """SHA-256 of each shard that the folder's index lists."""
    if not (out / schema.DATASET_FILE).is_file():
        return {}
    entries = [entry for entry in read_index(out)["shards"] if isinstance(entry, dict)]
    return {str(entry.get("file")): str(entry.get("sha256")) for entry in entries}


def _write_index(
    session: Session,
    config: ProcessConfig,
    scenes: Mapping[str, SceneResult],
    result: ProcessResult,
    part: Part | None,
) -> None:
    """Write the files beside the shards; those of other parts stay in the lists."""
    lines = {name: [quarantine_line(problem, session.root) for problem in scenes[name].problems] for name in scenes}
    entries = {name: scenes[name].entries for name in scenes}
    if part is not None:
        for name, other in _of_other_parts(result.out, scenes).items():
            lines[name], entries[name] = other
        result.complete = set(lines) >= {scene.name for scene in session.scenes}
    else:
        remove_stale(result.out, result.shards, config_sha256(config))
    result.changed = write_index(
        result.out,
        [entry for name in sorted(entries) for entry in entries[name]],
        config=config.model_dump(mode="json"),
        config_sha256=config_sha256(config),
        quarantine_lines=[line for name in sorted(lines) for line in lines[name]],
        origin="RAW pairs of a beam-splitter rig, by relo process",
    )


def _of_other_parts(
    out: Path, mine: Mapping[str, SceneResult]
) -> dict[str, tuple[list[str], list[dict[str, Any]]]]:
    """Lines of `quarantine.jsonl` and entries of `dataset.json` that belong to the scenes of other parts."""
    found: dict[str, tuple[list[str], list[dict[str, Any]]]] = {}
    if not (out / schema.DATASET_FILE).is_file():
        return found
    for entry in read_index(out)["shards"]:
        if entry["scene"] not in mine:
            found.setdefault(entry["scene"], ([], []))[1].append(entry)
    for line in read_quarantine(out):
        if line["scene"] not in mine:
            found.setdefault(line["scene"], ([], []))[0].append(json.dumps(line, sort_keys=True))
    return found
