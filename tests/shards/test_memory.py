"""Shards in memory: the same pairs, for every process, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.datasets import make_dataset

from relo.errors import ShardError
from relo.shards import memory, open_dataset
from relo.shards.memory import in_memory
from relo.shards.reader import Sample, close_files

TWO = [{"scene": "desk"}, {"scene": "door", "seed": 4}]


def total(sample: Sample) -> int:
    return int(sample.blur.sum(dtype=np.int64))


def test_the_same_pairs_without_the_files(tmp_path: Path):
    dataset = open_dataset(make_dataset(tmp_path / "d", TWO))
    expected = [sample.blur for sample in dataset]
    copy = in_memory(dataset, 10**9)
    close_files()
    for shard in dataset.shards:
        shard.path.unlink()
    assert [sample.id for sample in copy] == [sample.id for sample in dataset]
    assert all((sample.blur == blur).all() for sample, blur in zip(copy, expected, strict=True))


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_processes_read_the_one_copy(tmp_path: Path, method: str):
    dataset = open_dataset(make_dataset(tmp_path / "d", TWO))
    copy = in_memory(dataset, 10**9)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(total, list(copy)) == [total(sample) for sample in dataset]


def test_what_does_not_fit_is_read_from_disk(tmp_path: Path):
    dataset = open_dataset(make_dataset(tmp_path / "d", TWO))
    size = dataset.shards[0].path.stat().st_size
    copy = in_memory(dataset, size)
    assert [shard.path == original.path for shard, original in zip(copy.shards, dataset.shards, strict=True)] == [
        False, True,
    ]  # fmt: skip


def copies() -> set[Path]:
    return set(memory._MEMORY.glob(f"relo-{os.getpid()}-*/*"))


def test_memory_is_freed_with_the_shards(tmp_path: Path):
    before = copies()
    copy = in_memory(open_dataset(make_dataset(tmp_path / "d", TWO)), 10**9)
    part = copy.select(scenes=["door"])
    assert len(copies() - before) == 2
    del copy
    gc.collect()
    assert len(copies() - before) == 1, "a part of the dataset is still in use"
    assert part[0].blur.any()
    del part
    gc.collect()
    assert copies() == before


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = memory._MEMORY / f"relo-{dead.pid}-test"
    stale.mkdir()
    (stale / "0-a.h5").touch()
    in_memory(open_dataset(make_dataset(tmp_path / "d")), 10**9)
    assert not stale.exists()


def test_systems_without_files_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = open_dataset(make_dataset(tmp_path / "d"))
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "none")
    with pytest.raises(ShardError, match="/dev/shm"):
        in_memory(dataset, 10**9)
