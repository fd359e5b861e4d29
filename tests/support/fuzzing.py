"""Damage files at random, and read them in a child process, so that a crash is a result and not the end.

A file may be read or refused with a `ReloError`; everything else is a failure: another exception, the end of the
process, more than `TIME_LIMIT_S`, or more than `MEMORY_LIMIT` on top of what the process had.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

MEMORY_LIMIT = 1_000_000_000
TIME_LIMIT_S = 60

Mutation = Callable[[random.Random], bytes]


@dataclass
class Outcome:
    """What came of damaged files.

    Attributes
    ----------
    counts : Counter
        By result, "read" or the reason of a refusal.
    failures : list of str
        What must not happen, with the number of the mutation.
    peak_bytes : int
        The most memory that one file took on top of what the process had.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak_bytes: int = 0


def fuzz(kind: str, sources: Sequence[tuple[str, Mutation]], count: int, seed: int, folder: Path) -> Outcome:
    """Read `count` mutations in turn of `sources` (name of the file, mutation); `kind` is one of `READERS`."""
    outcome = Outcome()
    victim = _Victim(kind)
    for number in range(count):
        name, mutate = sources[number % len(sources)]
        path = folder / name
        path.write_bytes(mutate(random.Random(f"{seed}/{number}")))
        result, peak = victim.read(path)
        outcome.peak_bytes = max(outcome.peak_bytes, peak)
        if result.startswith("FAILED"):
            outcome.failures.append(f"{name}, mutation {number}: {result}")
            path.rename(folder / f"failed-{number}-{name}")
        else:
            outcome.counts[result] += 1
    victim.end()
    return outcome


def mutation(data: bytes, places: Sequence[tuple[int, int]], share: float = 0.8) -> Mutation:
    """Damage to `data`, `share` of it within `places` (begin, end), the rest anywhere."""

    def place(rng: random.Random) -> int:
        if rng.random() >= share:
            return rng.randrange(len(data))
        begin, end = rng.choices(places, [end - begin for begin, end in places])[0]
        return rng.randrange(begin, end)

    def damage(rng: random.Random) -> bytes:
        result, kind = (
            bytearray(data),
            rng.choice(("bytes", "bit", "zeros", "cut", "word", "word", "number", "copy")),
        )
        at = place(rng)
        if kind == "bytes":
            for _ in range(rng.randint(1, 8)):
                result[place(rng)] = rng.randrange(256)
        elif kind == "bit":
            result[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            return bytes(result[:at])
        elif kind == "zeros":
            size = rng.choice((8, 16, 64, 512, 4096))
            result[at : at + size] = bytes(size)
        elif kind == "word":
            at = at // 8 * 8
            number = rng.choice((2**64 - 1, 0, 2**63 - 1, 1 << rng.randrange(64), rng.randrange(len(data))))
            result[at : at + 8] = number.to_bytes(8, "little")
        elif kind == "number":
            size = rng.choice((1, 2, 4))
            number = rng.choice((2 ** (8 * size) - 1, 0, 1, rng.randrange(2 ** (8 * size))))
            result[at : at + size] = number.to_bytes(size, "little")
        else:
            size, start = rng.choice((8, 24, 64, 512)), place(rng)
            result[at : at + size] = result[start : start + size]
        return bytes(result[: len(data)])

    return damage


def metadata(path: Path) -> list[tuple[int, int]]:
    """The bytes of a shard that are no tiles, as (begin, end), and the first of each tile."""
    import h5py

    tiles: list[tuple[int, int]] = []
    with h5py.File(path, "r") as file:

        def collect(_: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.chunks:
                item.id.chunk_iter(
                    lambda chunk: tiles.append((chunk.byte_offset + 32, chunk.byte_offset + chunk.size))
                )

        file.visititems(collect)
    found, position = [], 0
    for begin, end in sorted(tiles):
        found.append((position, begin))
        position = end
    return [(begin, end) for begin, end in [*found, (position, path.stat().st_size)] if begin < end]


class _Victim:
    """A process that reads files; started again after its end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        tests = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", f"from support.fuzzing import serve; serve({self.kind!r})"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True,
        )  # fmt: skip

    def read(self, path: Path) -> tuple[str, int]:
        """Result of reading `path`, and the memory it took on top [bytes]."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], TIME_LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        if line:
            result, peak = json.loads(line)
            return result, peak
        self.process.kill()
        self.end()
        cause = f"the process ended ({self.process.returncode})" if ready else "no end"
        self.process = self._start()
        return f"FAILED: {cause}", 0

    def end(self) -> None:
        """Let it go."""
        self.process.communicate()


def serve(kind: str) -> None:
    """Read the files named on standard input, one after another: the main program of a victim."""
    read, limited = READERS[kind], False
    for line in sys.stdin:
        before = _memory("VmSize")
        result = read(Path(line.rstrip("\n")))
        peak = _memory("VmPeak") - before if limited else 0
        sys.stdout.write(json.dumps([result, max(0, peak)]) + "\n")
        sys.stdout.flush()
        if not limited:  # the first file costs the memory of what it imports
            limited = True
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (_memory("VmPeak") + MEMORY_LIMIT, hard))


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    return 0


def _read_shard(path: Path) -> str:
    """Read everything in a shard."""
    from relo.errors import ReloError
    from relo.shards import open_dataset
    from relo.shards.reader import close_files

    try:
        dataset = open_dataset(path)
        shard = dataset.shards[0]
        _ = shard.attrs, shard.pairs, shard.flow, shard.bits
        for sample in dataset:
            _ = sample.blur, sample.sharp, sample.mask, sample.short, sample.valid, sample.row
            _ = sample.crop("blur", 0, 0, 4, 4)
        return "read"
    except ReloError as error:
        good = str(path) in str(error) and "\n" not in str(error) and error.advice
        return f"refused: {error.reason}" if good else f"FAILED: {error!r}"
    except BaseException as error:
        return f"FAILED: {error!r}"
    finally:
        close_files()


def _inspect(path: Path) -> str:
    """`relo inspect PATH --verify`."""
    from relo.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: object = None
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(["inspect", str(path), "--verify"])
    except SystemExit as leave:
        code = leave.code
    except BaseException as error:
        return f"FAILED: {error!r}"
    good = code in (0, 2, 3) and "Traceback" not in err.getvalue()
    return f"code {code}" if good else f"FAILED: code {code}, {err.getvalue()[-200:]}"


def _read_and_inspect(path: Path) -> str:
    result = _read_shard(path)
    inspected = _inspect(path)
    return inspected if inspected.startswith("FAILED") else result


def _read_raw(path: Path) -> str:
    """Read a RAW file and develop nothing."""
    from relo.capture import read_raw
    from relo.capture.raw_reader import CameraSettings
    from relo.errors import CaptureError

    settings = CameraSettings() if path.suffix == ".dng" else CameraSettings(pattern="RGGB", width=400, height=300)
    try:
        read_raw(path, settings).normalised()
    except CaptureError as error:
        if str(path.with_suffix("")) not in str(error) or "\n" in str(error) or not error.advice:
            return f"FAILED: {error!r}"
        return f"refused: {error.reason}"
    except BaseException as error:
        return f"FAILED: {error!r}"
    return "read"


READERS: dict[str, Callable[[Path], str]] = {
    "shard": _read_shard,
    "inspect": _inspect,
    "shard and inspect": _read_and_inspect,
    "raw": _read_raw,
}
