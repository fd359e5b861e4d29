"""Kernels are compiled once a machine, people are told, and a machine without a place for them still works."""

import os
import subprocess
import sys
from pathlib import Path

from support.program import environment, relo_process

PROBE = """
import numpy as np
from relo.postprocess.warm_up import compile_kernels
from relo.shards import tile_codec
said = []
compile_kernels(lambda: said.append("compiling"))
tile_codec.compile_kernels()
print(said)
"""


def probe(**changes: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment() | changes, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_first_run_says_that_it_compiles_and_the_second_need_not(small_session: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    assert probe(NUMBA_CACHE_DIR=str(cache)) == "['compiling']"
    assert probe(NUMBA_CACHE_DIR=str(cache)) == "[]"
    # That was every kernel that processing needs: its workers add none.
    compiled = sorted(path.name for path in cache.rglob("*.nbc"))
    answer = relo_process("process", small_session, tmp_path / "out", "--jobs", 2, NUMBA_CACHE_DIR=str(cache))
    assert answer.code == 0, answer
    assert sorted(path.name for path in cache.rglob("*.nbc")) == compiled


NO_PLACE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
import numpy as np
from relo.postprocess import demosaic_menon
print(demosaic_menon(np.ones((8, 8), np.float32), "RGGB").mean())
"""


def test_without_a_place_for_the_cache_kernels_are_compiled_anew():
    result = subprocess.run(
        [sys.executable, "-c", NO_PLACE], env=dict(os.environ), capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "1.0"


def test_a_pool_of_workers_finds_the_kernels_compiled(small_session: Path, tmp_path: Path):
    cache = str(tmp_path / "cache")
    for name, expected in (("first", 1), ("second", 0)):
        answer = relo_process("process", small_session, tmp_path / name, "--jobs", 2, NUMBA_CACHE_DIR=cache)
        assert answer.code == 0, answer
        assert answer.err.count("compiling the numerical kernels") == expected
        if expected:
            compiled = {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.nbc")}
    # The second run has compiled nothing more, and its workers neither.
    assert {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.nbc")} == compiled
    assert len(compiled) >= 10
