"""`relo process`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relo.cli.common import (
    finish,
    folder,
    json_option,
    overwrite_option,
    progress_bar,
    say,
    say_that_it_compiles,
    set_option,
)
from relo.errors import EXIT_PARTIAL

_EPILOG = """Examples:  relo process raw_dir     relo process raw_dir out --split test=0.2 --set shards.bits=16"""


@click.command(epilog=_EPILOG)
@click.argument("raw_dir", type=folder)
@click.argument("out", type=folder, required=False)
@click.option("--config", "config_file", type=folder, help="YAML file with settings.")
@set_option
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=SCENES",
    help="Scenes (test=scene_01,scene_02) or share of the scenes (test=0.2) of a split; the rest is 'train'.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of short exposures and random splits.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@overwrite_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    raw_dir: Path,
    out: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    splits: tuple[str, ...],
    seed: int | None,
    jobs: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Process the session RAW_DIR into shards and a report in OUT (default: RAW_DIR-shards).

    Colour correction, photometric alignment, demosaicing, ISP, geometric alignment, blur masks, short
    exposures. A rerun continues where the last one stopped; pairs that cannot be used are listed with the
    reason, and the exit code is then 3.
    """
    from relo.config import load_config
    from relo.parallel import reuse_freed_memory
    from relo.report import write_report
    from relo.shards.build import process_session
    from relo.shards.config import ProcessConfig, parse_split
    from relo.shards.schema import REPORT_FILE

    given: dict[str, Any] = {"split": {}}
    for text in splits:
        given["split"] |= parse_split(text)
    if seed is not None:
        given["seed"] = seed
    config = load_config(ProcessConfig, config_file, overrides, given)
    reuse_freed_memory()
    with progress_bar("processing") as progress:
        result = process_session(
            raw_dir, out, config, jobs=jobs, overwrite=overwrite, progress=progress, announce=say_that_it_compiles
        )
    report = result.out / REPORT_FILE
    if result.changed or not report.is_file():
        with progress_bar("report") as progress:
            write_report(result.out, progress=progress)
    for note in result.notes:
        say(f"note: {note}")
    for problem in result.quarantined:
        say(f"quarantined: {problem.scene}{'/' if problem.pair else ''}{problem.pair}: {problem}")
    usable = result.done + result.skipped
    lines = ["everything was done before; nothing to do"] if not result.done and result.skipped else []
    finish(
        as_json=as_json,
        done=result.done,
        skipped=result.skipped,
        quarantined=len(result.quarantined),
        failed=result.failed,
        out=result.out,
        details={"shards": [path.name for path in result.shards], "report": str(report)},
        lines=[*lines, f"report: {report}"],
        next_command=f"relo train lbag-tiny {result.out}" if usable else f"relo check {raw_dir}",
    )
    if result.quarantined or result.failed:
        ctx.exit(EXIT_PARTIAL)
