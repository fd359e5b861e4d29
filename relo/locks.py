"""Keep two runs out of one folder: lock files that the system lets go of when their process ends, however it ends.

A lock file names its host and process, for people. What counts is the lock the system keeps on it, so a file that a
killed run has left stands in nobody's way.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from relo.errors import ReloError

LOCK_FILE = ".relo.lock"
_PART_FILES = ".relo-*-of-*.lock"
_INDEX_FILE = ".relo-index.lock"


@contextmanager
def locked(folder: Path, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Make `folder` and keep it for this process.

    Parameters
    ----------
    folder : path
    part : (i, n), optional
        Keep only part i of n: other parts of the same division may run beside it, nothing else.

    Raises
    ------
    ReloError
        Another process keeps it.
    OSError
        It cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = LOCK_FILE if part is None else f".relo-{part[0]}-of-{part[1]}.lock"
    descriptor = _take(folder / name)
    if descriptor is None:
        raise _busy(folder / name)
    try:
        # After our own, so that of two that start at once at least one sees the other.
        for other in _others(folder, name, part):
            if _is_held(other):
                raise _busy(other)
        yield
    finally:
        (folder / name).unlink(missing_ok=True)  # while it is ours, or it might be the next one's
        os.close(descriptor)


@contextmanager
def index_locked(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the index of `folder`; for the moment it takes to write it."""
    path = folder / _INDEX_FILE
    while (descriptor := _take(path)) is None:
        time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _others(folder: Path, name: str, part: tuple[int, int] | None) -> list[Path]:
    """Lock files whose holders must not run beside this one."""
    beside = [folder / LOCK_FILE, *sorted(folder.glob(_PART_FILES))]
    if part is not None:
        beside = [path for path in beside if not path.name.endswith(f"-of-{part[1]}.lock")]
    return [path for path in beside if path.name != name]


def _take(path: Path) -> int | None:
    """Descriptor of the locked file `path`, which is made for it; None where another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks: what the file says has to do
            if _claimed(path):
                os.close(descriptor)
                return None
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                os.ftruncate(descriptor, 0)
                holder = {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                }
                os.write(descriptor, (json.dumps(holder) + "\n").encode())
                return descriptor
        os.close(descriptor)  # its last holder has removed it meanwhile


def _is_held(path: Path) -> bool:
    """Whether a process keeps the lock file `path`; one that nobody keeps is left alone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _claimed(path)
    finally:
        os.close(descriptor)
    return False


def _claimed(path: Path) -> bool:
    """Whether `path` names a process that is alive, or one of another host, of which nobody here can tell."""
    holder = _holder(path)
    if holder is None or (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid()):
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, and somebody else's
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "since": str(holder["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _busy(path: Path) -> ReloError:
    holder = _holder(path)
    who = "" if holder is None else f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    advice = "Wait for it, or give another folder."
    if holder is not None and holder["host"] != socket.gethostname():
        advice += f" If that run is gone, remove {path.name}."
    return ReloError(f"another relo is writing here{who}", file=path.parent, advice=advice)
