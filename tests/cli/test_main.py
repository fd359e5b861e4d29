"""The program itself: verbs, exit codes, messages on one line, pipes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
from support.program import command, environment, relo, relo_process

import relo as package
from relo.cli import main as program
from relo.errors import ReloError


@pytest.mark.parametrize("verb", program.VERBS)
def test_every_verb_explains_itself(verb: str):
    answer = relo(verb, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: relo {verb} ")
    assert re.search(rf"Examples?:.*relo {verb}", answer.out, re.DOTALL), answer.out
    assert "--json" in answer.out


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_group_lists_every_verb(option: str):
    answer = relo(option)
    assert answer.code == 0
    for verb, line in program.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line.split()[0])}", answer.out, re.MULTILINE), verb


def test_version():
    answer = relo("--version")
    assert (answer.code, answer.out) == (0, f"relo, version {package.__version__}\n")


def test_python_m_relo_and_the_script_are_one_program(tmp_path: Path):
    answer = relo_process("check", tmp_path)
    assert answer.code == 2
    assert answer.err.startswith(f"Error: {tmp_path}: holds no scene")
    script = subprocess.run(
        [Path(command()[0]).with_name("relo"), "check", tmp_path], capture_output=True, text=True
    )
    assert (script.returncode, script.stderr) == (answer.code, answer.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("proces",), "Did you mean 'process'?"),
        (("qqq",), "No such command 'qqq'"),
        (("process",), "Missing argument 'RAW_DIR'"),
        (("process", "s", "--jobs", "0"), "--jobs"),
        (("process", "s", "--nonsense"), "--nonsense"),
        (("simulate", "s", "--size", "big"), "WIDTHxHEIGHT"),
        ((), "Usage: relo"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    answer = relo(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def leave_by(monkeypatch: pytest.MonkeyPatch, error: BaseException):
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(program.LazyGroup, "get_command", lambda *_: fail)
    return relo("plan")


def test_a_user_error_is_one_line(monkeypatch: pytest.MonkeyPatch):
    answer = leave_by(monkeypatch, ReloError("is wet", file="a.dng", advice="Dry it."))
    assert (answer.code, answer.out, answer.err) == (2, "", "Error: a.dng: is wet. Dry it.\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, error: BaseException):
    answer = leave_by(monkeypatch, error)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.strip().startswith("Interrupted.") and answer.err.strip().count("\n") == 0


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ZeroDivisionError):
        leave_by(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize("arguments", [("--help",), ("models",), ("process", "--help")])
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...]):
    """As in `relo models | head -1`, where head is the faster."""
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), err) == (0, "")
