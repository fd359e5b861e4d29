"""Check a shard in a process of its own before this one opens it.

HDF5 does not survive every damaged file: it goes in circles, asks for gigabytes, or is killed
(docs/decisions/0011). One helper process is started at the first shard and kept. For each file it forks, and what
comes back from the fork, within its memory and time, is the answer. What a fork has survived this process survives
too: it reads the same bytes with the same library.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from relo.errors import ShardError
from relo.shards import checks
from relo.shards.checks import ADVICE

# What a fork may take on top of what the helper has.
MEMORY_BYTES = 800_000_000
CPU_SECONDS, CPU_SECONDS_PER_BYTE = 2, 5e-9

_SERVE = "from relo.shards.probe import serve; serve()"
# Of a file that was written a moment ago the time stamp does not tell whether it is written again.
_SETTLED_NS = 2_000_000_000

Stamp = tuple[int, int, int, int]

_helpers: dict[int, subprocess.Popen[bytes]] = {}
_sound: dict[str, Stamp] = {}
_lock = threading.Lock()


def require_sound(path: Path) -> None:
    """Let a shard pass whose structure can be read and is that of a shard; one that has passed is not read again.

    Raises
    ------
    ShardError
        It is missing, damaged, or no shard.
    """
    stamp = file_stamp(path)
    if _sound.get(str(path)) == stamp:
        return
    answer = _ask(path)
    if answer:
        raise ShardError(answer["reason"], file=path, advice=answer["advice"])
    if time.time_ns() - stamp[2] > _SETTLED_NS:
        _sound[str(path)] = stamp


def vouch_for(path: Path) -> None:
    """Let a shard pass that this program has just written."""
    _sound[str(path)] = file_stamp(path)


def file_stamp(path: Path) -> Stamp:
    """What changes when a file does: device, inode, time, size.

    Raises
    ------
    ShardError
        It is no file, or cannot be read.
    """
    reason = "cannot be opened as HDF5: missing, damaged or half copied"
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ShardError(reason, file=path, advice=ADVICE) from error
    if not stat.S_ISREG(found.st_mode):  # HDF5 would wait for ever for what comes out of a pipe
        raise ShardError(reason, file=path, advice=ADVICE)
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _ask(path: Path) -> dict[str, str]:
    """Answer of the helper: {} where all is well, else reason and advice."""
    question = json.dumps(str(path.absolute())).encode() + b"\n"
    with _lock:
        if os.getpid() in _helpers and _helpers[os.getpid()].poll() is not None:
            _stop()
        helper = _helpers.get(os.getpid())
        if helper is None:
            helper = _helpers[os.getpid()] = _start()
        assert helper.stdin is not None and helper.stdout is not None
        try:
            helper.stdin.write(question)
            helper.stdin.flush()
            answer = json.loads(helper.stdout.readline() or b"null")
        except OSError:
            answer = None
        except BaseException:
            _stop()  # Ctrl-C: its answer would be taken for that to the next question
            raise
        if not isinstance(answer, dict):
            _stop()
            raise ShardError("cannot be checked: the helper process has ended", file=path, advice="Try again.")
        return answer


def _start() -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _stop() -> None:
    """End this process's helper, which may be asking for nothing any more."""
    helper = _helpers.pop(os.getpid(), None)
    if helper is not None:
        helper.kill()
        with suppress(OSError):
            helper.communicate()


def _forked() -> None:
    """A fork has its own helper; another thread of its parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forked)


def serve() -> None:
    """Answer the questions on standard input until it ends: the helper's main program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    for line in sys.stdin.buffer:
        path = Path(json.loads(line))
        process = os.fork()
        if process == 0:
            _answer(path)
        _, status = os.waitpid(process, 0)
        if status:
            cause = "HDF5 does not come to an end" if os.WTERMSIG(status) == signal.SIGXCPU else "HDF5 breaks off"
            _tell({"reason": f"cannot be read: the file is damaged ({cause})", "advice": ADVICE})


def _answer(path: Path) -> NoReturn:
    """In a fork: check `path`, tell the result, and end."""
    answer = {}
    try:
        _limit(path)
        checks.check_shard(path)
    except ShardError as error:
        answer = {"reason": error.reason, "advice": error.advice}
    except MemoryError:
        answer = {"reason": "asks for absurd amounts of memory: the file is damaged", "advice": ADVICE}
    except Exception:  # HDF5 answers damage with many kinds of error
        answer = {"reason": "cannot be decoded: the file is damaged", "advice": ADVICE}
    _tell(answer)
    os._exit(0)


def _tell(answer: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _limit(path: Path) -> None:
    """Bound what HDF5 may take: memory, time and no core file."""
    _lower(resource.RLIMIT_CPU, int(CPU_SECONDS + CPU_SECONDS_PER_BYTE * path.stat().st_size))
    _lower(resource.RLIMIT_CORE, 0)
    pages = Path("/proc/self/statm")
    if pages.is_file():
        _lower(resource.RLIMIT_AS, int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES)


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
