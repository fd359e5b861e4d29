"""Run independent tasks in this process or in several, results in the order in which they finish."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    jobs: int = 1,
    *,
    threads: int = 1,
    lost: Callable[[T], R] | None = None,
) -> Iterator[tuple[T, R]]:
    """Yield (task, result) for every task.

    A process that dies, killed for want of memory perhaps, is replaced and its task begun again, once.

    Parameters
    ----------
    function : callable
        A module-level function (it is sent to other processes).
    tasks : sequence
    jobs : int
        Processes; with 1 everything runs here.
    threads : int
        Of each process.
    lost : callable (task) -> result, optional
        Result of a task whose process has died twice; without it that is an error.

    Raises
    ------
    BaseException
        What a task raises is raised here. Tasks that have not begun are cancelled, and those that run in
        other processes are killed.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with few_threads(threads):
            for task in tasks:
                yield task, function(task)
        return
    others = set(multiprocessing.active_children())
    # A pool of one process each: if it dies, what it was doing is known.
    pools = [_one_process(threads) for _ in range(min(jobs, len(tasks)))]
    idle = list(range(len(pools)))
    waiting = deque((task, False) for task in tasks)
    running: dict[Future[R], tuple[int, T, bool]] = {}
    try:
        while waiting or running:
            with _interrupts_later():
                while idle and waiting:
                    number, (task, again) = idle.pop(), waiting.popleft()
                    running[pools[number].submit(function, task)] = number, task, again
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                number, task, again = running.pop(future)
                idle.append(number)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    pools[number].shutdown()
                    pools[number] = _one_process(threads)
                    if not again:
                        waiting.appendleft((task, True))
                        continue
                    if lost is None:
                        raise
                    result = lost(task)
                yield task, result
        for pool in pools:
            pool.shutdown()
    except BaseException:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        workers = set(multiprocessing.active_children()) - others
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        raise


def _one_process(threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context(_METHOD)
    return ProcessPoolExecutor(1, mp_context=context, initializer=start_worker, initargs=(threads,))


def prepare_workers(modules: Sequence[str]) -> None:
    """Let a server import `modules` beside this process, so that workers have them when they start.

    Without it each worker takes a second to begin. Nothing happens where the system has no such server.
    """
    if _METHOD == "forkserver":
        multiprocessing.get_context(_METHOD).set_forkserver_preload(list(modules))
        with _interrupts_later():
            forkserver.ensure_running()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile; processes started inside never get it, their parent stops them."""
    # Starting a process starts this first where it doesn't run yet, and that ends by letting Ctrl-C through.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def lost_interrupts() -> Iterator[Callable[[], None]]:
    """Give a function that raises the KeyboardInterrupt of a Ctrl-C that went unheard meanwhile.

    Python prints and forgets what is raised in a destructor or the callback of a weak reference; h5py has
    many of both.
    """
    lost = False
    before = sys.unraisablehook

    def keep(unraisable: Any) -> None:
        nonlocal lost
        if unraisable.exc_type is KeyboardInterrupt:
            lost = True
        else:
            before(unraisable)

    def check() -> None:
        if lost:
            raise KeyboardInterrupt

    sys.unraisablehook = keep
    try:
        yield check
    finally:
        sys.unraisablehook = before


def start_worker(threads: int) -> None:
    """Prepare a process of the pool: few threads, and an end when its parent is gone."""
    # With a method that forks, numba makes a semaphore that outlives a process that is killed.
    multiprocessing.set_start_method("spawn", force=True)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    limit_threads(threads)
    reuse_freed_memory()


def _leave_with_parent() -> None:
    """A worker whose parent was killed would wait for ever, or write beside the parent's next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def reuse_freed_memory() -> None:
    """Make the C library keep what large arrays leave behind, instead of asking the system for each anew.

    The pages of a fresh array are cleared one by one; frame after frame that costs a tenth of the time. For
    programs, not for libraries: memory that was used once stays with the process. Nothing happens where the C
    library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        mmap_max, trim_threshold = -4, -1  # malloc.h
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def few_threads(threads: int) -> Iterator[None]:
    """Keep the kernels of this process to `threads` meanwhile."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV to one thread meanwhile.

    On single frames its threads wait for each other longer than they work: a fifteenth more CPU seconds for the
    same time on the clock (`benchmarks/pipeline_speed.py`, with OPENCV_FOR_THREADS_NUM).
    """
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def limit_threads(threads: int) -> None:
    """Keep the numerical libraries of this process to `threads`, so that workers do not fight for cores."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import cv2
    import numba

    cv2.setNumThreads(threads)
    numba.set_num_threads(min(threads, numba.get_num_threads()))
