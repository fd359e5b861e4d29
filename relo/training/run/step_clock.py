"""How long training steps take."""

from __future__ import annotations

import time

import torch


class StepClock:
    """Time that training steps take, without what comes between them.

    On a GPU steps are queued, so that only the time between two moments at which the queue is empty means
    something: `start` and `stop` wait for it.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps, self.seconds = 0, 0.0
        self._since = (0, 0.0)
        self._running = False

    def start(self, step: int) -> None:
        """Begin to measure after `step` steps."""
        if not self._running:
            self._running, self._since = True, (step, self._now())

    def stop(self, step: int) -> None:
        """Measure no longer than to here, after `step` steps."""
        if self._running:
            self._running = False
            self.steps += step - self._since[0]
            self.seconds += self._now() - self._since[1]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
