"""The same session and settings give the same bytes: elsewhere, in several processes, resumed after a signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.program import command, environment, relo_process

from relo.atomic import file_sha256
from relo.locks import LOCK_FILE


def shards(out: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(out.glob("*.h5"))}


def dataset(out: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(out.iterdir()) if path.name != "report.html"}


@pytest.fixture
def session(small_session: Path, tmp_path: Path) -> Path:
    """The same session in another folder, under another name, with other times of its files."""
    return Path(shutil.copytree(small_session, tmp_path / "elsewhere" / "t", copy_function=shutil.copyfile))


def test_elsewhere_and_in_two_processes(small_shards: Path, session: Path):
    answer = relo_process("process", "t", "--jobs", 2, "--json", cwd=session.parent)
    assert answer.code == 0, answer
    assert answer.json["done"] == 6
    assert answer.json["out"] == "t-shards"
    assert dataset(session.with_name("t-shards")) == dataset(small_shards)


def test_with_one_thread(small_shards: Path, session: Path):
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    assert relo_process("process", session, **one).code == 0
    assert dataset(session.with_name("t-shards")) == dataset(small_shards)


def test_with_four_threads(small_shards: Path, session: Path):
    four = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "4")
    assert relo_process("process", session, **four).code == 0
    assert dataset(session.with_name("t-shards")) == dataset(small_shards)


def test_simulated_again(small_session: Path, tmp_path: Path):
    arguments = ("--scenes", 2, "--pairs", 3, "--size", "270x180", "--seed", 3)
    assert relo_process("simulate", "s", *arguments, cwd=tmp_path, OPENBLAS_NUM_THREADS="4").code == 0
    files = sorted(path.relative_to(small_session) for path in small_session.rglob("*") if path.is_file())
    assert len(files) > 20
    for file in files:
        assert file_sha256(tmp_path / "s" / file) == file_sha256(small_session / file), file


def interrupt(session: Path, jobs: int, number: signal.Signals, seen: str) -> tuple[int, str]:
    """Start `relo process`, send it a signal once the file `seen` is there; return code and standard error."""
    process = subprocess.Popen(
        command("process", session, "--jobs", jobs),
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(session.parent.glob(seen)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    # The terminal sends Ctrl-C to all processes of the command; a scheduler kills the one it knows.
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_and_again(small_shards: Path, session: Path, jobs: int):
    code, err = interrupt(session, jobs, signal.SIGINT, "t-shards/*.h5.part")
    out = session.with_name("t-shards")
    assert code == 130, err
    assert (
        err.strip() == "Interrupted. What was finished is kept; the same command continues (train: with --resume)."
    )
    assert not list(out.glob("*.part"))
    assert not (out / "dataset.json").exists()
    assert relo_process("process", session).code == 0
    assert dataset(out) == dataset(small_shards)


def test_ctrl_c_while_the_workers_start(small_shards: Path, session: Path):
    code, err = interrupt(session, 2, signal.SIGINT, "t-shards")
    assert code == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_again(small_shards: Path, session: Path, jobs: int):
    code, _ = interrupt(session, jobs, signal.SIGKILL, "t-shards/*.h5.part")
    out = session.with_name("t-shards")
    assert code == -signal.SIGKILL
    # The workers of a killed parent go, too: they could write beside the next run.
    time.sleep(0.3)
    left = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert left.pop(LOCK_FILE), "nobody was there to remove it; the next run takes it over"
    assert left and all(name.endswith(".h5.part") or name in shards(small_shards) for name in left)
    time.sleep(0.7)
    assert {name: (out / name).stat().st_mtime_ns for name in left} == left
    assert relo_process("process", session).code == 0
    assert dataset(out) == dataset(small_shards)
