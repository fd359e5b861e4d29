"""`relo check`: what is in a session, what is missing, what is inconsistent."""

from __future__ import annotations

from pathlib import Path

import click

from relo.cli.common import finish, folder, json_option, progress_bar
from relo.errors import EXIT_PARTIAL


@click.command(epilog="Example:  relo check raw_dir")
@click.argument("raw_dir", type=folder)
@json_option
@click.pass_context
def command(ctx: click.Context, raw_dir: Path, as_json: bool) -> None:
    """Decode every frame of the session RAW_DIR and tell what would stop 'relo process'.

    Exit code 0 when nothing is wrong, 3 when something is.
    """
    from relo.capture.check import check_session
    from relo.capture.session import open_session

    session = open_session(raw_dir)
    with progress_bar("checking") as progress:
        result = check_session(session, progress)
    lines = [f"{name}: {result.good[name]} of {result.pairs[name]} pairs can be processed" for name in result.pairs]
    lines += [f"problem: {problem}" for problem in result.problems]
    lines += [f"warning: {warning}" for warning in result.warnings]
    if not result.problems:
        lines.append("nothing is wrong")
    done = sum(result.good.values())
    details = {
        "scenes": {name: {"pairs": result.pairs[name], "good": result.good[name]} for name in result.pairs},
        "problems": [str(problem) for problem in result.problems],
        "warnings": result.warnings,
    }
    finish(
        as_json=as_json,
        done=done,
        quarantined=sum(result.pairs.values()) - done,
        details=details,
        lines=lines,
        next_command=f"relo process {raw_dir}" if done else None,
    )
    if result.problems:
        ctx.exit(EXIT_PARTIAL)
