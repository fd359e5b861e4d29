"""The main job: a session becomes a dataset folder of shards."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from relo import __version__, atomic
from relo.capture.session import Problem, Session, open_session
from relo.config import config_sha256
from relo.errors import ConfigError, ShardError
from relo.parallel import lost_interrupts, run_tasks
from relo.postprocess.colour import ColourCast
from relo.postprocess.lightbox import session_casts, warnings
from relo.postprocess.warm_up import compile_kernels
from relo.progress import Progress
from relo.shards import schema
from relo.shards.config import ProcessConfig, assign_splits
from relo.shards.reader import close_files, read_index
from relo.shards.scene import SceneResult, SceneTask, hashed, process_scene, shard_paths

logger = logging.getLogger(__name__)


@dataclass
class ProcessResult:
    """What became of a session.

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
    """

    out: Path
    shards: list[Path] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    failed: int = 0
    quarantined: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: bool = False


def default_out(raw_dir: str | Path) -> Path:
    """Where `relo process RAW_DIR` writes: RAW_DIR + "-shards"."""
    raw_dir = Path(raw_dir)
    resolved = raw_dir if raw_dir.name not in ("", ".", "..") else raw_dir.resolve()
    return resolved.with_name(resolved.name + "-shards")


def process_session(
    raw_dir: str | Path,
    out: str | Path | None = None,
    config: ProcessConfig | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Callable[[], None] | None = None,
) -> ProcessResult:
    """Process every scene of a session into shards.

    Finished shards are kept: a second run does nothing. Pairs that cannot be used are left out and listed
    in `quarantine.jsonl`.

    Parameters
    ----------
    raw_dir : path
        A session, see docs/sessions.md.
    out : path, optional
        Dataset folder; `raw_dir` + "-shards" if not given.
    config : ProcessConfig, optional
    jobs : int
        Processes; scenes are distributed over them.
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
        The session, the configuration or the output folder cannot be used as a whole.
    """
    config = config or ProcessConfig()
    session = open_session(raw_dir)
    out = default_out(raw_dir) if out is None else Path(out)
    splits = assign_splits([scene.name for scene in session.scenes], config)
    # BLAS sums in another order with another number of threads; shards must not depend on that.
    with threadpool_limits(limits=1, user_api="blas"):
        casts, shared_sources = _shared_calibration(session, config)
    if out.exists() and not out.is_dir():
        raise ConfigError("is a file, the output must be a folder", file=out)
    if out.resolve() == session.root.resolve():
        raise ConfigError("is the session itself", file=out, advice="Give another output folder.")
    with atomic.writing_to(out, "Mend that and run the same command again: it continues."), atomic.locked(out):
        earlier = _prepare_folder(out, session, config, overwrite)
        tasks = []
        for scene in session.scenes:
            left_out = frozenset(problem.pair for problem in earlier if problem.scene == scene.name)
            split = splits[scene.name]
            tasks.append(SceneTask(session, scene, out, split, config, casts, shared_sources, left_out))
        # Here, so that the kernels are there for all workers.
        compile_kernels(announce, warp_method=config.warp.method, clamp=config.warp.clamp)
        scenes = _run(tasks, jobs, progress)
        result = _summary(out, scenes, earlier)
        result.notes[:0] = warnings(casts, config.colour)
        result.changed = _write_index(session, config, scenes, splits, result)
        return result


def _run(tasks: list[SceneTask], jobs: int, progress: Progress | None) -> dict[str, SceneResult]:
    """Process every scene; progress is told pair by pair here, scene by scene from other processes."""
    pairs = {task.scene.name: len(task.scene.pairs) for task in tasks}
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        check()
        if progress:
            progress(done, sum(pairs.values()), what)

    scenes: dict[str, SceneResult] = {}
    inline = jobs <= 1 or len(tasks) <= 1
    function = partial(process_scene, step=step) if inline else process_scene
    try:
        with lost_interrupts() as check:
            for task, scene_result in run_tasks(function, tasks, jobs):
                scenes[task.scene.name] = scene_result
                done = sum(pairs[name] for name in scenes) - 1
                step(task.scene.name)
    except BaseException:
        for part in (atomic.part_name(path) for task in tasks for path in shard_paths(task)):
            part.unlink(missing_ok=True)  # of a process that was killed
        raise
    return scenes


def _summary(out: Path, scenes: Mapping[str, SceneResult], earlier: Iterable[Problem]) -> ProcessResult:
    result = ProcessResult(out)
    for name in sorted(scenes):
        scene = scenes[name]
        result.shards += [path for path, _ in scene.shards]
        result.done += scene.done
        result.skipped += scene.skipped
        result.failed += scene.failed
        result.notes += scene.notes
        result.quarantined += scene.problems
        if scene.skipped:  # its files were listed anew, but not read again
            result.quarantined += [item for item in earlier if item.scene == name and item.stage != "session"]
    return result


def _shared_calibration(session: Session, config: ProcessConfig) -> tuple[dict[str, ColourCast], dict[str, str]]:
    """Colour casts of both cameras, and the hashes of all files that every scene depends on."""
    casts, files = session_casts(session, config.colour)
    settings = session.root / "session.yaml"
    sources: dict[str, str] = {}
    for path in (*files, settings) if settings.is_file() else files:
        sources |= hashed(session, path)
    return casts, sources


_OURS = (schema.DATASET_FILE, schema.QUARANTINE_FILE, schema.REPORT_FILE)
_SHARD_NAME = re.compile(r".+-\d{3,}\.h5")


def _is_ours(path: Path) -> bool:
    """Tell by its name whether `path` is something that this module writes, finished or not."""
    name = path.name.removesuffix(".part")
    return name in _OURS or _SHARD_NAME.fullmatch(name) is not None


def _prepare_folder(out: Path, session: Session, config: ProcessConfig, overwrite: bool) -> list[Problem]:
    """Make sure `out` is ours to write to; return what an earlier run has quarantined."""
    ours = [path for path in sorted(out.iterdir()) if _is_ours(path)]
    foreign = [path.name for path in sorted(out.iterdir()) if path not in ours and not path.name.startswith(".")]
    if foreign and not (out / schema.DATASET_FILE).is_file():
        raise ConfigError(
            f"holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})",
            file=out,
            advice="Give a new or empty folder.",
        )
    if overwrite:
        _refuse_other_index(out)
    for path in ours:
        if overwrite or path.suffix == ".part":  # the latter was left by a run that was stopped
            path.unlink()
    if overwrite:
        return []
    earlier = _earlier_config(out)
    if earlier is not None and earlier.sha256 != config_sha256(config):
        differing = _differences(earlier.settings, config.model_dump(mode="json"))
        raise ConfigError(
            f"was made with other settings ({'; '.join(differing[:4]) or 'of another version'})",
            file=earlier.file,
            advice="Give another output folder, or --overwrite.",
        )
    return _read_quarantine(out, session)


def _refuse_other_index(out: Path) -> None:
    """Nothing may be removed beside a `dataset.json` that is not relo's; a damaged one may be ours."""
    try:
        read_index(out)
    except ShardError as error:
        if isinstance(error.__cause__, ValueError) or not (out / schema.DATASET_FILE).is_file():
            return
        raise


class _EarlierConfig(NamedTuple):
    sha256: str
    settings: dict[str, Any]
    file: Path


def _earlier_config(out: Path) -> _EarlierConfig | None:
    """Settings that the folder's index, or else one of its shards, was made with; None in a new folder."""
    import h5py

    if (out / schema.DATASET_FILE).is_file():
        index = read_index(out)
        settings = dict(index.get("config") or {})
        return _EarlierConfig(str(index.get("config_sha256")), settings, out / schema.DATASET_FILE)
    path = min(out.glob("*.h5"), default=None)
    if path is None:
        return None
    try:
        with h5py.File(path, "r") as file:
            return _EarlierConfig(str(file.attrs["config_sha256"]), json.loads(file.attrs["config"]), path)
    except (OSError, KeyError, ValueError) as error:
        raise ShardError(
            "is no readable shard", file=path, advice="Remove it, or give another output folder."
        ) from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as "stage.key: old -> new"."""
    found = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def _read_quarantine(out: Path, session: Session) -> list[Problem]:
    path = out / schema.QUARANTINE_FILE
    if not path.is_file():
        return []
    problems = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            problems.append(Problem(**{**entry, "file": session.root / entry["file"]}))
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError("is damaged", file=path, advice="Process again with --overwrite.") from error
    return problems


def _write_index(
    session: Session,
    config: ProcessConfig,
    scenes: Mapping[str, SceneResult],
    splits: Mapping[str, str],
    result: ProcessResult,
) -> bool:
    """Write `quarantine.jsonl` and `dataset.json`; tell whether either is new."""
    close_files()
    lines = []
    for problem in result.quarantined:
        entry = asdict(problem)
        file = problem.file
        entry["file"] = (file.relative_to(session.root) if file.is_relative_to(session.root) else file).as_posix()
        lines.append(json.dumps(entry, sort_keys=True) + "\n")
    shards = [
        {
            "file": path.name,
            "scene": name,
            "split": splits[name],
            "pairs": count,
            "sha256": atomic.file_sha256(path),
            "schema_version": schema.VERSION,
        }
        for name in sorted(scenes)
        for path, count in scenes[name].shards
    ]
    index = {
        "format": schema.DATASET_FORMAT,
        "version": schema.DATASET_VERSION,
        "relo_version": __version__,
        "config_sha256": config_sha256(config),
        "config": config.model_dump(mode="json"),
        "quarantined": len(result.quarantined),
        "shards": shards,
    }
    texts = {
        schema.QUARANTINE_FILE: "".join(lines),
        schema.DATASET_FILE: json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    changed = False
    for name, text in texts.items():
        path = result.out / name
        changed |= not path.is_file() or path.read_text(encoding="utf-8") != text
        atomic.write_text(path, text)
    return changed
