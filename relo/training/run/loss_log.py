"""The losses of the steps since the last logged line, kept on the device so that no step waits for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relo.errors import TrainingError
from relo.training.run.distributed import Processes


class LossLog:
    """Sums of the terms of the loss, and the check that they are finite.

    Parameters
    ----------
    processes : Processes
        Means are over all of them.

    Attributes
    ----------
    terms : tuple of str
        Names of the terms; empty before the first step.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.terms: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._count = 0
        self._unchecked: tuple[int, Sequence[str], Tensor] | None = None
        self._copied: torch.cuda.Event | None = None

    def add(self, step: int, terms: dict[str, Tensor], batch: Sequence[str]) -> None:
        """Take note of a step, right after its forward pass.

        Parameters
        ----------
        step : int
        terms : dict of () tensors
            Always the same terms.
        batch : sequence of str
            Names of the patches.
        """
        self.terms = tuple(terms)
        values = torch.stack([term.detach() for term in terms.values()])
        if values.is_cuda:
            # The copy stands in line before the backward pass: to wait for it is not to wait for the step.
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
            self._unchecked = step, batch, host
        else:
            self._unchecked = step, batch, values
        doubles = values.double()
        self._sums = doubles if self._sums is None else self._sums.to(doubles.device) + doubles
        self._count += 1

    def check(self) -> None:
        """Check the last step that was noted; on a GPU, wait for its forward pass, not for its backward pass.

        Raises
        ------
        TrainingError
            A term is infinite or not a number; the term, the step and the batch are named.
        """
        if self._unchecked is None:
            return
        step, batch, values = self._unchecked
        if self._copied is not None:
            self._copied.synchronize()
        self._unchecked = None
        wrong = {
            name: value for name, value in zip(self.terms, values.tolist(), strict=True) if not math.isfinite(value)
        }
        if not wrong:
            return
        # The sum is named only where no term of it explains it.
        terms = {name: value for name, value in wrong.items() if name != "loss"} or wrong
        raise TrainingError(
            f"the loss became {next(iter(terms.values()))} at step {step} "
            f"(term: {', '.join(terms)}; batch: {', '.join(batch)})",
            advice="Lower lr, set clip=1, or look at these pairs.",
        )

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps since `reset` and over the processes."""
        self._share()
        if self._sums is None:
            return {}
        return {name: total / self._count for name, total in zip(self.terms, self._sums.tolist(), strict=True)}

    def reset(self) -> None:
        """Begin the next interval."""
        self._sums, self._count = None, 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the middle of an interval; the same for every process."""
        self._share()
        sums = [] if self._sums is None else self._sums.tolist()
        return {"names": list(self.terms), "sums": sums, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.terms, self._count = tuple(state["names"]), state["count"]
        self._sums = torch.tensor(state["sums"], dtype=torch.float64) if self._count else None

    def _share(self) -> None:
        """Give every process the mean of the sums; further steps are added to it, and the mean stays right."""
        if self._sums is not None:
            self._sums = self.processes.mean(self._sums)
