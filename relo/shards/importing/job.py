"""A public dataset, as it lies on disk, becomes a dataset folder of shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from relo import atomic, locks
from relo.capture.session import Problem
from relo.config import config_sha256
from relo.parallel import lost_interrupts, run_tasks
from relo.progress import Progress
from relo.shards.folder import check_output, prepare_folder, remove_stale
from relo.shards.importing.config import ImportConfig
from relo.shards.importing.part import PartResult, PartTask, import_part, located
from relo.shards.importing.plan import make_plan, require_space
from relo.shards.index import quarantine_line, shard_entry, write_index
from relo.shards.reader import read_index
from relo.shards.schema import DATASET_FILE


@dataclass
class LayoutImport:
    """What became of a layout.

    Attributes
    ----------
    out : Path
    shards : list of Path
    done, skipped : int
        Pairs stored now, and by an earlier run.
    quarantined : list of Problem
        Files are named within the source.
    notes : list of str
    mask_version : str
    changed : bool
        Whether anything in `out` is new.
    """

    out: Path
    shards: list[Path] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    quarantined: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mask_version: str = ""
    changed: bool = False


def import_layout(
    src: str | Path,
    out: str | Path,
    config: ImportConfig,
    *,
    masks: Path | None = None,
    blur: str | None = None,
    sharp: str | None = None,
    licence: str = "",
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LayoutImport:
    """Store the frames of a public layout in shards, without changing a pixel.

    Finished shards are kept: a second run does nothing. Pairs that cannot be used are left out and listed in
    `quarantine.jsonl`. A few frames are in memory at a time.

    Parameters
    ----------
    src : path
        Folder in the layout `config.layout`; see docs/layouts.md.
    out : path
        Dataset folder.
    config : ImportConfig
    masks : Path, optional
        Folder of the masks, for reloblur and pairs.
    blur, sharp : str, optional
        Names of the two folders, for pairs.
    licence : str
        Of the frames.
    jobs : int
        Processes; shards are distributed over them.
    overwrite : bool
        Replace a dataset that was made with other settings.
    progress : callable (pairs done, pairs in all, what), optional

    Returns
    -------
    LayoutImport

    Raises
    ------
    ReloError
        The source, the settings or the output folder cannot be used as a whole.
    """
    src, out = Path(src), Path(out)
    check_output(out, [src])
    plan = make_plan(src, out, config, masks=masks, blur=blur, sharp=sharp)
    settings, sha256 = plan.config.model_dump(mode="json"), config_sha256(plan.config)
    with atomic.writing_to(out, "Mend that and run the same command again: it continues."), locks.locked(out):
        prepare_folder(out, settings, sha256, overwrite=overwrite)
        require_space(plan, out)
        parts = _run([PartTask(part, plan.config, plan.folders, plan.masks) for part in plan.parts], jobs, progress)
        result = LayoutImport(out, notes=plan.notes, mask_version=plan.config.masks.version)
        result.quarantined += [located(problem, plan.folders) for problem in plan.problems]
        entries = []
        for part in plan.parts:
            made = parts[part.path]
            result.done += made.done
            result.skipped += made.skipped
            result.quarantined += made.problems
            if made.done + made.skipped:
                result.shards.append(part.path)
                entries.append(shard_entry(part.path, part.scene, part.split, made.done + made.skipped))
        grey = sum(made.grey for made in parts.values())
        if grey:
            result.notes.append(
                f"{grey} masks hold values between 0 and their largest: what lies above "
                f"{plan.config.masks.threshold} counts as blurred; --mask-threshold sets another limit"
            )
        remove_stale(out, result.shards, sha256)
        result.changed = write_index(
            out,
            entries,
            config=settings,
            config_sha256=sha256,
            quarantine_lines=[quarantine_line(problem, Path()) for problem in result.quarantined],
            licence=licence or _earlier_licence(out) or plan.licence,
            origin=f"the layout {plan.config.layout}",
        )
        return result


def _run(tasks: list[PartTask], jobs: int, progress: Progress | None) -> dict[Path, PartResult]:
    """Make every shard; progress is told pair by pair here, shard by shard from other processes."""
    total = sum(len(task.part.pairs) for task in tasks)
    done = 0

    def step(what: str, pairs: int = 1) -> None:
        nonlocal done
        done += pairs
        check()
        if progress:
            progress(done, total, what)

    inline = jobs <= 1 or len(tasks) <= 1
    function: Callable[[PartTask], PartResult] = partial(import_part, step=step) if inline else import_part
    made: dict[Path, PartResult] = {}
    try:
        with lost_interrupts() as check:
            for task, result in run_tasks(function, tasks, jobs):
                made[task.part.path] = result
                if not inline:
                    step(task.part.scene, len(task.part.pairs))
    except BaseException:
        for task in tasks:
            atomic.part_name(task.part.path).unlink(missing_ok=True)  # of a process that was killed
        raise
    return made


def _earlier_licence(out: Path) -> str:
    """What an earlier run was told."""
    if not (out / DATASET_FILE).is_file():
        return ""
    return str(read_index(out).get("licence", ""))
