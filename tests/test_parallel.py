"""Tasks here and in other processes."""

import math
import os

import pytest

from relo.parallel import limit_threads, run_tasks


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_once_with_its_result(jobs: int):
    tasks = [1.0, 4.0, 9.0, 16.0]
    assert sorted(run_tasks(math.sqrt, tasks, jobs)) == [(1.0, 1.0), (4.0, 2.0), (9.0, 3.0), (16.0, 4.0)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_raises(jobs: int):
    with pytest.raises(ValueError, match="math domain"):
        list(run_tasks(math.sqrt, [-1.0, -2.0, -3.0], jobs))


def test_one_job_runs_here_and_lazily():
    seen: list[int] = []
    results = run_tasks(seen.append, [1, 2, 3])
    assert next(results) == (1, None)
    assert seen == [1]


def test_no_tasks():
    assert list(run_tasks(math.sqrt, [], 4)) == []


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch):
    import cv2

    before = cv2.getNumThreads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    try:
        limit_threads(1)
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
