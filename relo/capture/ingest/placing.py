"""Put the files of a plan where the session wants them: hard links, symbolic links or copies.

A hard link costs no space and stays whole when the card or the source folder is cleared; where the file system
has none, or the session lies on another one, the file is copied. Sidecars are always copied: people edit them.
Sources are never written to.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from relo import atomic
from relo.capture.dng import sidecar_path
from relo.capture.ingest.plan import IngestPlan
from relo.capture.ingest.table import TABLE_FILE, Entry, table_text
from relo.errors import CaptureError
from relo.locks import locked
from relo.progress import Progress

How = Literal["link", "symlink", "copy"]

_ADVICE = "Give another folder for OUT, or make room; the same command continues."

# What a run that was killed early may leave: a lock file, this test for links.
_OWN = ".relo"
_PROBE = f"{_OWN}-link-test"

# What a file system says that has no links, keeps this file from being linked, or is another one.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)


@dataclass
class Placed:
    """How many RAW files were linked and copied, and how many were there already."""

    linked: int = 0
    symlinked: int = 0
    copied: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
    sidecar: bool = False


def place(plan: IngestPlan, out: str | Path, how: How = "link", progress: Progress | None = None) -> Placed:
    """Make the session that `plan` describes, or finish making it.

    Parameters
    ----------
    out : path
        New or empty, or left by the same plan.
    how : {"link", "symlink", "copy"}
        "link" copies what cannot be linked.
    progress : callable (done, total, what), optional

    Raises
    ------
    CaptureError
        `out` holds something else; a source cannot be read.
    ReloError
        `out` cannot be written, or has too little room for the copies.
    """
    out = Path(out)
    refuse_foreign(plan, out)
    is_new = not out.exists()
    try:
        with atomic.writing_to(out, _ADVICE), locked(out):
            return _fill(plan, out, how, progress)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # not empty: the next run continues there
                out.rmdir()
        raise


def _fill(plan: IngestPlan, out: Path, how: How, progress: Progress | None) -> Placed:
    tasks = list(_tasks(plan.entries, out))
    missing = [task for task in tasks if not _is_there(task)]
    _require_room(missing, out, how)
    atomic.write_text(out / TABLE_FILE, table_text(plan.entries))
    todo = set(missing)
    placed = Placed()
    for done, task in enumerate(tasks, 1):
        if task in todo:
            way = _put(task, how)
            if not task.sidecar:
                setattr(placed, way, getattr(placed, way) + 1)
        elif not task.sidecar:
            placed.skipped += 1
        if progress:
            progress(done, len(tasks), task.target.name)
    return placed


def refuse_foreign(plan: IngestPlan, out: Path) -> None:
    """Raise where `out` holds anything but what this plan has put there.

    Raises
    ------
    CaptureError
        It is no folder, not empty, or of another plan.
    """
    table = out / TABLE_FILE
    try:
        if not out.exists():
            return
        if out.is_dir() and all(
            path.name.startswith(_OWN) or path == atomic.part_name(table) for path in out.iterdir()
        ):
            return
        if table.is_file():
            if table.read_text(encoding="utf-8") == table_text(plan.entries):
                return
            reason = f"holds another ingest: its {TABLE_FILE} is not this plan"
        else:
            reason = "is not empty and no ingest of relo" if out.is_dir() else "is no folder"
    except (OSError, UnicodeDecodeError) as error:
        raise CaptureError(f"cannot be read ({error})", file=out, advice="Give another folder.") from error
    raise CaptureError(reason, file=out, advice="Give another folder for OUT.")


def refuse_overlap(out: Path, *sources: Path) -> None:
    """Raise where the session would lie among its own sources.

    Raises
    ------
    CaptureError
        `out` is, or lies within, one of `sources`.
    """
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            advice = "Give a folder for OUT that lies beside the cameras' folders."
            where = "is" if out.resolve() == source.resolve() else "lies within"
            raise CaptureError(f"{where} the camera's folder {source}", file=out, advice=advice)


def _tasks(entries: Iterable[Entry], out: Path) -> Iterator[_Task]:
    for entry in entries:
        folder = out / "scenes" / entry.scene if entry.scene else out / "calibration"
        for camera, source in (("B", entry.blur), ("S", entry.sharp)):
            if source is None:
                continue
            target = folder / f"{entry.id}_{camera}{source.suffix.lower()}"
            yield _Task(source, target)
            if sidecar_path(source).is_file():
                yield _Task(sidecar_path(source), sidecar_path(target), sidecar=True)


def _is_there(task: _Task) -> bool:
    """Whether the target is what the source is; a sidecar that is there may have been edited since."""
    try:
        if task.sidecar and task.target.is_file():
            return True
        if not os.path.lexists(task.target):
            return False
        ours, theirs = task.target.stat(), task.source.stat()
        if os.path.samestat(ours, theirs):
            return True
        same = ours.st_size == theirs.st_size and (
            ours.st_mtime_ns == theirs.st_mtime_ns or filecmp.cmp(task.source, task.target, shallow=False)
        )
    except OSError as error:
        raise CaptureError(
            f"cannot be read ({error.strerror})", file=error.filename, advice="Delete it, or give another OUT."
        ) from error
    if not same:
        advice = "Delete it, or give another folder for OUT."
        raise CaptureError(f"is there and differs from {task.source}", file=task.target, advice=advice)
    return True


def _require_room(tasks: Sequence[_Task], out: Path, how: How) -> None:
    """Raise the error of a full disk before the first copy; one file of each device shows whether links work."""
    linkable: dict[int, bool] = {}
    size = 0
    for task in tasks:
        status = task.source.stat()
        if how == "link" and status.st_dev not in linkable:
            linkable[status.st_dev] = _links(task.source, out / _PROBE)
        if how == "copy" or task.sidecar or not (how == "symlink" or linkable[status.st_dev]):
            size += status.st_size
    if size:
        atomic.require_space(out, size)


def _links(source: Path, probe: Path) -> bool:
    probe.unlink(missing_ok=True)
    try:
        _hard_link(source, probe)
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _hard_link(source: Path, target: Path) -> None:
    # A source that is a symbolic link itself would be linked as one: take what it points to.
    target.hardlink_to(source.resolve())


def _put(task: _Task, how: How) -> Literal["linked", "symlinked", "copied"]:
    task.target.parent.mkdir(parents=True, exist_ok=True)
    if how == "symlink" and not task.sidecar:
        task.target.symlink_to(task.source.resolve())
        return "symlinked"
    if how == "link" and not task.sidecar:
        try:
            _hard_link(task.source, task.target)
            return "linked"
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    _copy(task)
    return "copied"


def _copy(task: _Task) -> None:
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(task.source.open("rb"))
            status = os.fstat(source.fileno())
        except OSError as error:
            raise _unreadable(task.source, error) from error
        part = stack.enter_context(atomic.unfinished(task.target))
        with part.open("wb") as target:
            for piece in _pieces(source, task.source):
                target.write(piece)
        if part.stat().st_size != status.st_size:
            raise CaptureError(
                "changed while it was copied", file=task.source, advice="Try again when it is whole."
            )
        os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))


def _pieces(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Content of `stream`; what fails here is the source's fault, not that of OUT."""
    while True:
        try:
            piece = stream.read(1 << 22)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not piece:
            return
        yield piece


def _unreadable(path: Path, error: OSError) -> CaptureError:
    advice = "Check the card or disk; the same command continues."
    return CaptureError(f"cannot be read ({error.strerror})", file=path, advice=advice)
