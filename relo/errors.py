"""The errors a user can cause, and the exit codes the command line gives for them."""

from __future__ import annotations

from pathlib import Path

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130


class ReloError(Exception):
    """Something the user can mend, told on one line: file, what is wrong, what to do.

    Parameters
    ----------
    reason : str
        What is wrong; the whole message where the other two are not given.
    file : path, optional
        The file or folder it is about.
    advice : str, optional
        What the user can do.
    """

    def __init__(self, reason: str, *, file: str | Path | None = None, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.file = None if file is None else Path(file)
        self.advice = advice

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}: "
        return f"{where}{self.reason}. {self.advice}" if self.advice else f"{where}{self.reason}"


class ConfigError(ReloError):
    """A configuration file, an override or an option is wrong."""


class CaptureError(ReloError):
    """A RAW file or a session folder is missing, damaged or inconsistent."""


class ProcessError(ReloError):
    """A correction cannot be computed from these frames."""


class ShardError(ReloError):
    """A shard or a dataset folder is missing, damaged or of another format."""


class TrainingError(ReloError):
    """A recipe, a checkpoint or a training set cannot be used."""


class MissingExtraError(ReloError):
    """An optional package is needed that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package '{package}' is not installed",
            advice=f"Install it with  pip install -c constraints.txt 'relo[{extra}]'",
        )
