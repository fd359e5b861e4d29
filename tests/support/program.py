"""Run the `relo` program as a user would, in this process (fast) or in one of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Answer:
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as the one JSON object it must be."""
        result = json.loads(self.out)
        assert isinstance(result, dict)
        assert self.out.count("\n") == 1, "one line, so that one can read it in a shell script"
        return result

    def error(self, *words: object) -> str:
        """The one line "Error: ..." of a run that was refused; it must hold every one of `words`."""
        lines = [line for line in self.err.splitlines() if line]
        assert self.code == 2, self
        assert self.out == "", self
        assert len(lines) == 1 and lines[0].startswith("Error: "), self
        for word in words:
            assert str(word) in lines[0], self
        return lines[0]


def relo(*arguments: object) -> Answer:
    """Run `relo ARGUMENTS` within this process."""
    from relo.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code
    assert isinstance(code, int)
    return Answer(code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    """Command line of `python -m relo ARGUMENTS`."""
    return [sys.executable, "-m", "relo", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without limits on threads, and with `changes`."""
    return {name: value for name, value in os.environ.items() if name not in _THREADS} | changes


def relo_process(*arguments: object, cwd: Path | None = None, **variables: str) -> Answer:
    """Run `relo ARGUMENTS` in a process of its own, with environment `variables`."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=300
    )
    return Answer(done.returncode, done.stdout, done.stderr)
