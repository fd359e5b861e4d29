"""Ctrl-C and SIGTERM in a training: the step is finished first, and what makes patches lives until then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from relo.parallel import reuse_freed_memory

LOADER_GRACE_S = 30  # how long a loader process outlives a SIGTERM


class Interrupts:
    """Notes a Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once. Use `finishing_steps`.

    Attributes
    ----------
    received : bool
        Whether one of them came.
    """

    def __init__(self) -> None:
        self.received = False
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._deciding = threading.current_thread() is threading.main_thread()  # Python lets no other thread decide

    def listen(self) -> None:
        """Take both signals."""
        self._handle(signal.SIGINT, signal.SIGTERM)

    def listen_to_sigterm(self) -> None:
        """Take SIGTERM again, where a library has set a handler of its own meanwhile."""
        self._handle(signal.SIGTERM)

    def stop_listening(self) -> None:
        """Give both signals back to who had them."""
        if self._deciding:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _handle(self, *numbers: signal.Signals) -> None:
        if self._deciding:
            for number in numbers:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])


@contextmanager
def finishing_steps() -> Iterator[Interrupts]:
    """Let Ctrl-C and SIGTERM be noted instead of acting, for a loop that asks after each step."""
    interrupts = Interrupts()
    interrupts.listen()
    try:
        yield interrupts
    finally:
        interrupts.stop_listening()


def leave_signals_to_trainer(number: int) -> None:  # noqa: ARG001
    """Start a loader process: signals to the whole group reach it too, but the step still needs its patches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not for ever: a process that is left waiting for patches to ask for must end.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LOADER_GRACE_S))
    reuse_freed_memory()
