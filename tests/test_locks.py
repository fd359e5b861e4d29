"""Lock files: one run a folder, parts of one division side by side, and nothing stale."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relo import locks
from relo.errors import ReloError

HOLD = """
import sys, time
from pathlib import Path
from relo.locks import locked
part = tuple(map(int, sys.argv[2:])) or None
with locked(Path(sys.argv[1]), part):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *part: int) -> subprocess.Popen[str]:
    """Another process that keeps `folder` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *map(str, part)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path: Path):
    with locks.locked(tmp_path):
        content = json.loads((tmp_path / locks.LOCK_FILE).read_text())
        assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_refused_and_told_who_is_there(tmp_path: Path):
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(ReloError, match=f"process {process.pid} on {socket.gethostname()}"),
            locks.locked(tmp_path),
        ):
            pass
        assert (tmp_path / locks.LOCK_FILE).exists(), "the lock of the other one stays"
    finally:
        end(process)


def test_what_a_killed_run_has_left_is_taken_over(tmp_path: Path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / locks.LOCK_FILE).exists()
    with locks.locked(tmp_path):
        assert json.loads((tmp_path / locks.LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_parts_of_one_division_run_side_by_side(tmp_path: Path):
    process = holder(tmp_path, 1, 3)
    try:
        with locks.locked(tmp_path, (2, 3)):
            pass
        for part in (None, (1, 3), (1, 2)):
            with pytest.raises(ReloError, match="another relo"), locks.locked(tmp_path, part):
                pass
    finally:
        end(process)
    for part in (None, (1, 3), (1, 2)):
        with locks.locked(tmp_path, part):
            pass


def test_no_part_beside_a_whole_run(tmp_path: Path):
    process = holder(tmp_path)
    try:
        with pytest.raises(ReloError, match="another relo"), locks.locked(tmp_path, (1, 2)):
            pass
    finally:
        end(process)


def test_the_index_lock_waits(tmp_path: Path):
    code = HOLD.replace("locked(Path(sys.argv[1]), part)", "index_locked(Path(sys.argv[1]))").replace("60", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("import locked", "import index_locked"), str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    started = time.monotonic()
    with locks.index_locked(tmp_path):
        assert time.monotonic() - started > 0.3
    process.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_the_file_tells(tmp_path: Path):
    file = tmp_path / locks.LOCK_FILE
    content = {"host": socket.gethostname(), "pid": os.getppid(), "since": "now"}
    file.write_text(json.dumps(content))
    with pytest.raises(ReloError, match="another relo"), locks.locked(tmp_path):
        pass
    file.write_text(json.dumps(content | {"host": "elsewhere"}))
    with pytest.raises(ReloError, match=r"elsewhere.* remove \.relo\.lock"), locks.locked(tmp_path):
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for text in (json.dumps(content | {"pid": dead.pid}), "no JSON"):
        file.write_text(text)
        with locks.locked(tmp_path):
            pass
        assert not file.exists()
