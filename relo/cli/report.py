"""`relo report`: the HTML quality report of a dataset."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from relo.cli import common


@click.command("report", epilog="Example:  relo report raw_dir-shards")
@click.argument("src", type=common.folder)
@common.json_option
def command(src: Path, as_json: bool) -> None:
    """Write report.html into the dataset folder SRC: one page, no network needed to read it."""
    from relo.report import write_report
    from relo.shards.reader import read_index

    with common.progress_bar("report", quiet=as_json) as progress:
        path = write_report(src, progress=progress)
    index = read_index(src)
    quarantined = index.get("quarantined", 0)
    common.finish(
        as_json=as_json,
        done=sum(entry.get("pairs", 0) for entry in index["shards"]),
        quarantined=quarantined,
        out=path,
        next_command=f"relo train lbag {shlex.quote(str(src))}",
        details={"bytes": path.stat().st_size},
    )
