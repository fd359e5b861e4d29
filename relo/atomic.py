"""Files that are either complete or absent: temporary name, fsync, atomic rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relo.errors import ReloError


def part_name(path: Path) -> Path:
    """Name that an unfinished `path` has: `shard.h5` -> `shard.h5.part`."""
    return path.with_name(path.name + ".part")


def publish(part: Path, path: Path) -> None:
    """Flush `part` to disk and give it its final name `path`; an older `path` is replaced at once."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success it becomes `path`, on failure it is removed."""
    part = part_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        publish(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def writing_to(folder: Path, advice: str) -> Iterator[None]:
    """Tell what the system refuses meanwhile as a `ReloError` about `folder`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our progress has left
    except OSError as error:
        raise ReloError(f"cannot be written ({error.strerror or error})", file=folder, advice=advice) from error


def require_writable(folder: Path, advice: str) -> None:
    """Refuse a folder that cannot be made or written to, without making it.

    Raises
    ------
    ReloError
        A file is in the way, or there is no permission.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ReloError("cannot be written to", file=folder, advice=advice)


def require_space(folder: Path, size: int) -> None:
    """Raise the error of a full disk where fewer than `size` bytes are free.

    HDF5 does not survive a write that fails: ask before it has to find out.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically; a file that already holds it is left alone."""
    data = text.encode("utf-8")
    if path.is_file() and path.read_bytes() == data:
        return
    with unfinished(path) as part:
        part.write_bytes(data)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
