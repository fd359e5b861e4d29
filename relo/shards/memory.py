"""Keep shards in memory as they are stored, compressed, for every process of a training run to read."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from relo.errors import ShardError
from relo.shards.reader import Dataset, Shard

logger = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")


def in_memory(dataset: Dataset, limit: int) -> Dataset:
    """Copy shards of `dataset` into memory, in their order, as many as fit; the others are read from disk.

    Loader processes share the one copy, however they are started. It helps where the disk is slow or far away; a
    local disk is cached by the system anyway. A copy goes with its shard object, at the latest at the end of the
    process; what a killed process has left is removed by the next call.

    Parameters
    ----------
    dataset : Dataset
    limit : int
        Memory for the copies [bytes].

    Returns
    -------
    Dataset
        The same pairs.

    Raises
    ------
    ShardError
        The system has no folder for files in memory (Linux has: /dev/shm).
    """
    if not _MEMORY.is_dir():
        advice = "Set cache_gb to 0."
        raise ShardError("shards can be kept in memory only where /dev/shm is", file=dataset.root, advice=advice)
    _remove_stale()
    left = min(limit, shutil.disk_usage(_MEMORY).free * 9 // 10)
    folder = Path(tempfile.mkdtemp(prefix=f"relo-{os.getpid()}-", dir=_MEMORY))
    atexit.register(_leave, folder, os.getpid())
    shards: list[Shard] = []
    for shard in dataset.shards:
        size = shard.path.stat().st_size
        fits = size <= left
        shards.append(_copied(shard, folder / f"{len(shards)}-{shard.path.name}") if fits else shard)
        left -= size if fits else 0
    cached = sum(copy is not shard for copy, shard in zip(shards, dataset.shards, strict=True))
    if cached < len(shards):
        logger.warning("%d of %d shards fit into memory; the others are read from disk", cached, len(shards))
    return Dataset(dataset.root, shards, dataset.fingerprint)


def _copied(shard: Shard, path: Path) -> Shard:
    shutil.copyfile(shard.path, path)
    copy = replace(shard, path=path)
    weakref.finalize(copy, _leave, path, os.getpid())
    return copy


def _leave(path: Path, process: int) -> None:
    """Remove a copy; a forked child must not remove what its parent still reads."""
    if os.getpid() == process:
        with suppress(OSError):
            path.unlink() if path.is_file() else path.rmdir()


def _remove_stale() -> None:
    for folder in _MEMORY.glob("relo-*"):
        match = re.match(r"relo-(\d+)-", folder.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)
