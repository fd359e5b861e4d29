"""What every verb shares: the `--json` and `--set` options, a progress bar, the closing summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from relo.progress import Progress

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting, for example --set shards.bits=16. May be repeated.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")

folder = click.Path(path_type=Path)

# In place of a checkpoint: short exposures are enough, nothing has to be trained.
INSTANT = "exprdiff-instant"


def parse_size(text: str) -> tuple[int, int]:
    """Read "538x359" as (width, height).

    Raises
    ------
    click.BadParameter
        The text is no size.
    """
    width, separator, height = text.lower().replace("×", "x").partition("x")
    if not separator or not width.strip().isdigit() or not height.strip().isdigit():
        raise click.BadParameter(f"'{text}' is no size; write WIDTHxHEIGHT, for example 538x359")
    return int(width), int(height)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a callback `(done, total, what)` that draws a bar with the remaining time on standard error.

    Where standard error is no terminal a line is printed now and then instead, so that a log stays readable.
    """
    if quiet:
        yield lambda done, total, what: None
        return
    if not sys.stderr.isatty():
        yield _line_progress(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)


def _line_progress(title: str, interval_s: float = 10.0) -> Progress:
    import time

    last = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval_s:
            last = now
            click.echo(f"{title}: {done}/{total} {what}", err=True)

    return report


def say(text: str) -> None:
    """A line for people, on standard error so that `--json` keeps standard output clean."""
    click.echo(text, err=True)


def say_that_it_compiles() -> None:
    """Why nothing seems to happen, the first time."""
    say("compiling the numerical kernels, once on this machine (about 20 s)")


def finish(
    *,
    as_json: bool,
    done: int = 0,
    skipped: int = 0,
    quarantined: int = 0,
    failed: int = 0,
    out: Path | None = None,
    next_command: str | None = None,
    details: Mapping[str, Any] | None = None,
    lines: list[str] | None = None,
) -> None:
    """Close a verb: counts, where the output is, and the next command; or the same as one JSON object.

    Parameters
    ----------
    details : mapping, optional
        Further entries of the JSON object.
    lines : list of str, optional
        Further lines for people, printed before the counts.
    """
    if as_json:
        result: dict[str, Any] = {"done": done, "skipped": skipped, "quarantined": quarantined, "failed": failed}
        result["out"] = None if out is None else str(out)
        result |= dict(details or {})
        result["next"] = next_command
        click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False, default=str))
        return
    for line in lines or []:
        click.echo(line)
    click.echo(f"done {done}, skipped {skipped}, quarantined {quarantined}, failed {failed}")
    if out is not None:
        click.echo(f"output: {out}")
    if next_command:
        click.echo(f"next:   {next_command}")
