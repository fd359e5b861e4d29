"""Files that are either complete or absent: temporary name, fsync, atomic rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
