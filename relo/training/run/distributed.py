"""Several processes that train together, started by `torchrun`; without it everything here is for one process.

Importing this module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from relo.errors import ConfigError, ReloError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this one is.

    Attributes
    ----------
    rank, size : int
        Number of this process and of all.
    local_rank, local_size : int
        The same among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_torchrun(cls) -> Processes:
        """Read the environment that `torchrun` makes; one process without it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    @contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """Connect the processes meanwhile: tensors on the CPU by gloo, on GPUs by nccl.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Raises
        ------
        ConfigError
            There are fewer GPUs than processes on this machine.
        """
        if self.size == 1:
            yield
            return
        import torch
        from torch import distributed

        if device == "cuda":
            if torch.cuda.device_count() < self.local_size:
                raise ConfigError(
                    f"{self.local_size} processes share {torch.cuda.device_count()} GPUs",
                    advice=f"Use torchrun --nproc-per-node {torch.cuda.device_count()} or less.",
                )
            torch.cuda.set_device(self.local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def by_first(self, work: Callable[[], T]) -> T:
        """Result of `work`, done by the first process alone; what it refuses is refused by all.

        Raises
        ------
        ReloError
            `work` raised one.
        """
        if self.size == 1:
            return work()
        from torch import distributed

        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer[0] = work()
            except ReloError as error:
                answer[1] = (type(error), error.reason, error.file, error.advice)
        distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            kind, reason, file, advice = answer[1]
            raise kind(reason, file=file, advice=advice)
        return answer[0]

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds for any process."""
        if self.size == 1:
            return flag
        import torch
        from torch import distributed

        answer = torch.tensor(int(flag))  # on the CPU: no GPU is waited for
        distributed.all_reduce(answer, distributed.ReduceOp.MAX)
        return bool(answer)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` over the processes."""
        if self.size == 1:
            return values
        from torch import distributed

        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def gathered(self, items: list[T]) -> list[T]:
        """The items of all processes, in the order of their ranks."""
        if self.size == 1:
            return items
        from torch import distributed

        parts: list[list[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.any(False)
