"""`relo export`: shards to a folder in a public layout."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from relo.shards.exporting.plan import Layout

_SHOWN = 20


@click.command(
    "export",
    epilog="""\b
Examples:  relo export reloblur raw_dir-shards raw_dir-reloblur
           relo export webdataset raw_dir-shards tars --pairs 200 --split train""",
)
@click.argument("layout", type=click.Choice(["reloblur", "pairs", "webdataset"]))
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder)
@click.option("--split", metavar="NAME", help="Only this split.")
@click.option("--pairs", type=click.IntRange(min=1), help="webdataset: pairs a tar file at most; 100 if not given.")
@common.overwrite_option
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    layout: Layout,
    src: Path,
    out: Path,
    split: str | None,
    pairs: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the dataset folder or shard SRC as PNG files, laid out as LAYOUT, to OUT. No pixel changes.

    reloblur: dataset/train/s01/00/03_blur.png, 03_sharp.png, masks/train/s01/00/03.png. pairs:
    train/blur/scene/03.png, and so on. webdataset: tar files of key.blur.png, .sharp.png, .mask.png, .json.
    'relo import' takes the first two back as they were. A rerun continues.
    """
    from relo.errors import ConfigError
    from relo.shards.exporting.job import PAIRS_A_TAR, export_layout

    if pairs is not None and layout != "webdataset":
        raise ConfigError(f"the layout {layout} knows no --pairs")
    with common.progress_bar("export", quiet=as_json) as progress:
        result = export_layout(
            layout,
            src,
            out,
            split=split,
            pairs_a_tar=pairs or PAIRS_A_TAR,
            overwrite=overwrite,
            progress=progress,
        )
    for note in result.notes:
        common.say(f"note: {note}")
    for problem in result.problems[:_SHOWN]:
        common.say(f"failed: {problem.scene}/{problem.pair}: {problem}")
    if layout == "webdataset" or result.problems:
        following = f"relo inspect {shlex.quote(str(src))} --verify"
    else:
        following = f"relo import {layout} {shlex.quote(str(out))} SHARDS"
    common.finish(
        as_json=as_json,
        done=result.done,
        skipped=result.skipped,
        failed=len(result.problems),
        out=result.out,
        details={
            "layout": layout,
            "notes": result.notes,
            "problems": [
                {"scene": item.scene, "pair": item.pair, "file": str(item.file), "reason": item.reason}
                for item in result.problems
            ],
        },
        lines=["everything was done before; nothing to do"] if result.skipped and not result.done else [],
        next_command=following,
    )
    if result.problems:
        ctx.exit(EXIT_PARTIAL)
