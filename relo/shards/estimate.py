"""What processing a session will take: time, disk, memory, and how many processes fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from relo.capture.session import CAMERAS, Session
from relo.errors import CaptureError
from relo.shards.config import ProcessConfig
from relo.units import in_bytes

# All by benchmarks/scale.py, on simulated sessions; noise decides how well frames compress.
_CPU_SECONDS_PER_PIXEL = 0.3e-6
_START_SECONDS = 3
_MEMORY_PER_PIXEL = 260
_MEMORY_FIXED = 400_000_000
_STORED_SHARE = {8: 0.5, 16: 0.85}
_STORED_SHARE_SHORT = {8: 0.65, 16: 0.9}  # noisier


@dataclass(frozen=True)
class Estimate:
    """What is to be expected; within a factor of two, if the frames are like those of the simulator.

    Attributes
    ----------
    pairs : int
    size : (H, W) or None
        Of the RAW frames; None where none could be read.
    cpu_seconds : float
    disk : int
        Size of the shards [bytes].
    worker_memory : int
        Peak of one process [bytes].
    """

    pairs: int
    size: tuple[int, int] | None
    cpu_seconds: float
    disk: int
    worker_memory: int


def estimate(session: Session, pairs: int, config: ProcessConfig) -> Estimate:
    """Estimate what `pairs` pairs of `session` take, from the size of its first readable frame."""
    size = _frame_size(session)
    if size is None:
        return Estimate(pairs, None, 0.0, 0, _MEMORY_FIXED)
    pixels = size[0] * size[1]
    stored = pixels * config.develop.output_scale**2
    bits = config.shards.bits
    share = 2 * _STORED_SHARE[bits] + (_STORED_SHARE_SHORT[bits] if config.short.enabled else 0)
    return Estimate(
        pairs=pairs,
        size=size,
        cpu_seconds=_START_SECONDS + pairs * pixels * _CPU_SECONDS_PER_PIXEL,
        disk=int(pairs * stored * 3 * bits / 8 * share),
        worker_memory=int(_MEMORY_FIXED + pixels * _MEMORY_PER_PIXEL),
    )


def _frame_size(session: Session) -> tuple[int, int] | None:
    for scene in session.scenes:
        for pair in (*scene.static, *scene.pairs)[:3]:
            for path, camera in zip((pair.blur, pair.sharp), CAMERAS, strict=True):
                try:
                    return session.read(path, camera).shape
                except CaptureError:
                    continue  # processing will say so
    return None


class Workers(NamedTuple):
    """Processes, the threads of each, and a word where memory allows fewer than were asked for."""

    processes: int
    threads: int
    note: str


def choose_workers(jobs: int, tasks: int, worker_memory: int, memory: int | None) -> Workers:
    """Share `jobs` cores out to as many processes as there are tasks and memory for.

    Parameters
    ----------
    jobs : int
        Cores to use.
    tasks : int
        Scenes.
    worker_memory, memory : int [bytes]
        What one process needs; what there is, None where unknown.
    """
    wanted = max(1, min(jobs, tasks))
    fitting = wanted if memory is None else max(1, memory // worker_memory)
    processes = min(wanted, fitting)
    note = ""
    if processes < wanted:
        note = (
            f"{processes} instead of {wanted} processes: each takes about {in_bytes(worker_memory)}, "
            f"{in_bytes(memory or 0)} are free"
        )
    return Workers(processes, max(1, jobs // processes), note)


def missing_space(needed: int, free: int) -> str:
    """What to say where `free` bytes are less than are `needed`; empty where they are enough."""
    if needed <= free:
        return ""
    missing = in_bytes(needed - free)
    return f"about {in_bytes(needed)} will be written, {in_bytes(free)} are free: {missing} are missing"
