"""`relo process`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from relo.shards.build import Plan

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
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Cores to use; all that memory allows if not given.")
@click.option("--part", metavar="I/N", help="Only part I of N of the scenes: for the jobs of an array.")
@click.option("--scheduler", metavar="ADDRESS", help="Process on a running dask cluster, as tcp://host:8786.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, how long it takes and how much room it needs."
)
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
    jobs: int | None,
    part: str | None,
    scheduler: str | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Process the session RAW_DIR into shards and a report in OUT (default: RAW_DIR-shards).

    Colour correction, photometric alignment, demosaicing, ISP, geometric alignment, blur masks, short
    exposures. A rerun continues where the last one stopped; pairs that cannot be used are listed with the
    reason, and the exit code is then 3.
    """
    if scheduler is None and not dry_run and jobs != 1 and len(list(raw_dir.glob("scenes/*/"))) > 1:
        from relo.parallel import prepare_workers

        prepare_workers(["relo.shards.scene"])  # they import beside us
    if scheduler is not None and jobs is not None:
        raise click.UsageError("--jobs is for this machine; with --scheduler its workers decide.")
    from relo.atomic import writing_to
    from relo.config import load_config
    from relo.parallel import reuse_freed_memory
    from relo.report import write_report
    from relo.resources import usable_cores
    from relo.shards.build import plan_session, process_session
    from relo.shards.config import ProcessConfig, parse_splits
    from relo.shards.parts import parse_part
    from relo.shards.schema import REPORT_FILE

    given: dict[str, Any] = {"split": parse_splits(splits)}
    if seed is not None:
        given["seed"] = seed
    config = load_config(ProcessConfig, config_file, overrides, given)
    chosen = None if part is None else parse_part(part)
    if dry_run:
        _tell_plan(raw_dir, plan_session(raw_dir, out, config, jobs=jobs, part=chosen), as_json)
        return
    reuse_freed_memory()
    with progress_bar("processing") as progress:
        result = process_session(
            raw_dir,
            out,
            config,
            jobs=jobs,
            part=chosen,
            scheduler=scheduler,
            overwrite=overwrite,
            progress=progress,
            announce=say_that_it_compiles,
        )
    report = result.out / REPORT_FILE
    if result.complete and (result.changed or not report.is_file()):
        with progress_bar("report") as progress, writing_to(result.out, "Mend that, run the same command again."):
            write_report(result.out, threads=jobs or usable_cores(), progress=progress)
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
        details={
            "shards": [path.name for path in result.shards],
            "report": str(report) if result.complete else None,
        },
        lines=[
            *lines,
            f"report: {report}" if result.complete else "the report is written by the part that ends last",
        ],
        next_command=f"relo train lbag-tiny {result.out}" if usable else f"relo check {raw_dir}",
    )
    if result.quarantined or result.failed:
        ctx.exit(EXIT_PARTIAL)


def _tell_plan(raw_dir: Path, plan: Plan, as_json: bool) -> None:
    """Print what a run would do."""
    from collections import Counter

    from relo.shards.estimate import missing_space
    from relo.units import in_bytes, in_time

    expected, workers = plan.estimate, plan.workers
    by_split = Counter[str]()
    for scene, pairs in plan.scenes.items():
        by_split[plan.splits[scene]] += pairs
    seconds = expected.cpu_seconds / (workers.processes * workers.threads)
    size = "unknown: no frame could be read" if expected.size is None else "{1}x{0}".format(*expected.size)
    lines = [
        f"scenes   {len(plan.scenes)}",
        f"pairs    {expected.pairs} ({', '.join(f'{name} {count}' for name, count in sorted(by_split.items()))})",
        f"frames   {size}",
        f"time     about {in_time(seconds)}, {in_time(expected.cpu_seconds)} of one core",
        f"workers  {workers.processes} of {workers.threads} threads",
        f"memory   about {in_bytes(expected.worker_memory * workers.processes)}",
        f"disk     about {in_bytes(expected.disk)}, {in_bytes(plan.free)} are free",
    ]
    for warning in (workers.note, missing_space(expected.disk, plan.free)):
        if warning:
            lines.append(f"warning  {warning}")
    finish(
        as_json=as_json,
        out=plan.out,
        lines=[*lines, "", "nothing was written"],
        details={
            "dry_run": True,
            "scenes": plan.scenes,
            "splits": plan.splits,
            "pairs": expected.pairs,
            "seconds": seconds,
            "cpu_seconds": expected.cpu_seconds,
            "disk_bytes": expected.disk,
            "free_bytes": plan.free,
            "memory_bytes": expected.worker_memory * workers.processes,
            "workers": workers.processes,
            "threads": workers.threads,
        },
        next_command=f"relo process {raw_dir}",
    )
