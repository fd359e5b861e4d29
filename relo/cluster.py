"""Run tasks on a dask.distributed cluster that is already there; the package comes with the extra `cluster`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from relo.errors import MissingExtraError, ReloError

T = TypeVar("T")
R = TypeVar("R")

_CONNECT_S = 15
_one_at_a_time = threading.Lock()


def run_on_cluster(
    function: Callable[[T], R], tasks: Sequence[T], scheduler: str, *, lost: Callable[[T], R]
) -> Iterator[tuple[T, R]]:
    """Yield (task, result) for every task, in the order in which they finish.

    Parameters
    ----------
    function : callable
        A module-level function; the workers need this version of relo and the same paths.
    tasks : sequence
    scheduler : str
        Address of the scheduler, as tcp://host:8786.
    lost : callable (task) -> result
        Result of a task whose workers have died again and again (distributed.scheduler.allowed-failures).

    Raises
    ------
    ReloError
        The scheduler cannot be reached.
    BaseException
        What a task raises is raised here; what has not begun is cancelled.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster") from error
    try:
        client = Client(scheduler, timeout=_CONNECT_S)
    except (OSError, ValueError, TypeError) as error:
        raise ReloError(
            f"no scheduler answers at {scheduler}",
            advice="Start one with 'dask scheduler' and give the address it prints, as tcp://host:8786.",
        ) from error
    with client:
        futures = {client.submit(_alone, function, task, pure=False): task for task in tasks}
        try:
            for future in as_completed(futures):
                task = futures[future]
                try:
                    result = future.result()
                except KilledWorker:
                    result = lost(task)
                yield task, result
        except BaseException:
            client.cancel(list(futures), force=True)
            raise


def _alone(function: Callable[[T], R], task: T) -> R:
    """Run a task while no other runs in this process: they would undo each other's limits on threads."""
    with _one_at_a_time:
        return function(task)
