"""Ctrl-C and SIGTERM in a training: the step is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from relo.parallel import reuse_freed_memory


@contextmanager
def finishing_steps() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM be noted in the list that is given; a second Ctrl-C interrupts at once."""
    received: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    deciding = threading.current_thread() is threading.main_thread()  # Python lets no other thread decide
    if deciding:
        for number in numbers:
            signal.signal(number, note)
    try:
        yield received
    finally:
        if deciding:
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_signals_to_trainer(number: int) -> None:  # noqa: ARG001
    """Start of a loader process: a Ctrl-C reaches it too, but the trainer still needs its patches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reuse_freed_memory()
