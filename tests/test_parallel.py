"""Tasks here and in other processes."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from relo.parallel import limit_threads, lost_interrupts, run_tasks


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
    import numba

    before = cv2.getNumThreads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    threads = numba.get_num_threads()
    try:
        limit_threads(1)
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert cv2.getNumThreads() == 1
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(threads)
        cv2.setNumThreads(before)


class _Careless:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_an_interrupt_that_python_has_lost_is_raised_at_the_next_step():
    with lost_interrupts() as check:
        check()
        _Careless(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            check()
    with lost_interrupts() as check:
        check()


def test_other_lost_errors_are_told_as_ever(monkeypatch: pytest.MonkeyPatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    with lost_interrupts() as check:
        _Careless(ZeroDivisionError)
        check()
    assert told == [ZeroDivisionError]


def _wait_unless_first(number: int) -> int:
    if number:
        time.sleep(60)
    return os.getpid()


def test_workers_are_stopped_when_the_caller_gives_up():
    # A data loader of another test may still have its workers.
    others = set(multiprocessing.active_children())
    started = time.monotonic()
    results = run_tasks(_wait_unless_first, [0, 1, 2, 3], jobs=2)
    assert next(results)[0] == 0
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    results.close()
    assert time.monotonic() - started < 30
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


def _die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def _die(_: object) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def test_a_killed_worker_is_replaced_and_its_task_begun_again(tmp_path: Path):
    tasks = [str(tmp_path / name) for name in "abc"]
    assert sorted(run_tasks(_die_once, tasks, jobs=2)) == [(task, "done") for task in tasks]


def test_a_task_that_kills_its_worker_twice_is_lost_and_the_others_are_not(tmp_path: Path):
    (tmp_path / "good").touch()
    tasks = ["", str(tmp_path / "good")]
    found = dict(run_tasks(_die_of_nothing, tasks, jobs=2, lost=lambda task: f"lost {task!r}"))
    assert found == {"": "lost ''", tasks[1]: "done"}
    with pytest.raises(BrokenProcessPool):
        list(run_tasks(_die, tasks, jobs=2))


def _die_of_nothing(path: str) -> str:
    return _die(path) if not path else "done"


def _numba_threads(_: object) -> int:
    import numba

    return numba.get_num_threads()


def test_processes_have_the_threads_they_are_given():
    assert [threads for _, threads in run_tasks(_numba_threads, [1, 2], jobs=2, threads=1)] == [1, 1]
    assert [threads for _, threads in run_tasks(_numba_threads, [1, 2], jobs=1, threads=1)] == [1, 1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells signal masks by /proc")
def test_ctrl_c_never_reaches_the_server_that_workers_come_from():
    """Not even while it imports. In a process of its own: the helpers of `multiprocessing` start once in each."""
    program = """if True:
        from multiprocessing import forkserver, resource_tracker
        from relo.parallel import prepare_workers

        def ctrl_c_is_blocked(pid):
            for line in open(f"/proc/{pid}/status"):
                if line.startswith("SigBlk:"):
                    return bool(int(line.split()[1], 16) & 0b10)

        assert resource_tracker._resource_tracker._pid is None
        prepare_workers(["relo.shards.scene"])
        print(ctrl_c_is_blocked(forkserver._forkserver._forkserver_pid), ctrl_c_is_blocked("self"))
    """
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "False"]
