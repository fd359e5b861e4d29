"""`relo import`: public datasets to shards. The module's name has an underscore because "import" is Python's."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL

_SHOWN = 20


@click.command(
    "import",
    epilog="""\b
Examples:  relo import reloblur ReLoBlur reloblur-shards --mask-version v1 --license 'CC BY-NC-SA 4.0'
           relo import gopro GOPRO_Large gopro-shards -j 4
           relo import pairs photos shards --blur input --sharp target --split test=0.1""",
)
@click.argument("layout", type=click.Choice(["reloblur", "gopro", "realblur", "pairs"]))
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder)
@click.option("--masks", type=common.folder, metavar="DIR", help="reloblur, pairs: folder of the masks.")
@click.option("--mask-version", metavar="NAME", help="Which masks: v1, annotated, or a name of your own.")
@click.option(
    "--mask-threshold",
    type=click.IntRange(0, 254),
    default=0,
    show_default=True,
    help="A pixel counts as blurred above this value, of 255.",
)
@click.option("--blur", metavar="DIR", help="pairs: folder of the blurred frames.")
@click.option("--sharp", metavar="DIR", help="pairs: folder of the sharp frames.")
@click.option("--scene", metavar="NAME", default="", help="pairs: scene of frames in no folder of a scene.")
@click.option("--gamma", is_flag=True, help="gopro: blurred frames from blur_gamma.")
@click.option("--variant", type=click.Choice(["J", "R"]), help="realblur: which rendering, where both are there.")
@click.option("--bits", type=click.Choice(["8", "16"]), help="Depth of the images; that of the files if not given.")
@click.option("--convert", is_flag=True, help="Take grey, palette and alpha images as RGB.")
@click.option("--pairs", type=click.IntRange(1, 4096), default=64, show_default=True, help="Pairs a shard at most.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=SCENES",
    help="Move scenes (test=s01/00,s02/00) or a share of 'train' (val=0.1); the rest stays where its folder is.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the shares.")
@click.option("--license", "licence", metavar="TEXT", default="", help="Of the frames, for dataset.json and card.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@common.overwrite_option
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    layout: str,
    src: Path,
    out: Path,
    masks: Path | None,
    mask_version: str | None,
    mask_threshold: int,
    blur: str | None,
    sharp: str | None,
    scene: str,
    gamma: bool,
    variant: str | None,
    bits: str | None,
    convert: bool,
    pairs: int,
    splits: tuple[str, ...],
    seed: int,
    licence: str,
    jobs: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Store the public dataset SRC, laid out as LAYOUT, as shards in OUT. No pixel changes.

    reloblur: dataset/train/s01/00/03_blur.png, 03_sharp.png, masks/train/s01/00/03.png. gopro: as published, or
    flattened to train/blur and train/sharp. realblur: with its lists, or the folders. pairs: two folders with equal
    names. Pairs that cannot be used are listed with the reason, and the exit code is then 3. A rerun continues.
    """
    from relo.config import build_config
    from relo.parallel import reuse_freed_memory
    from relo.shards.config import parse_splits
    from relo.shards.importing.config import ONES, ImportConfig
    from relo.shards.importing.job import import_layout

    settings = {
        "layout": layout,
        "bits": int(bits) if bits else None,
        "pairs": pairs,
        "masks": {"version": mask_version or "", "threshold": mask_threshold},
        "convert": convert,
        "gamma": gamma,
        "variant": variant or "",
        "scene": scene,
        "split": parse_splits(splits),
        "seed": seed,
    }
    config = build_config(ImportConfig, settings, "options")
    reuse_freed_memory()
    with common.progress_bar("import", quiet=as_json) as progress:
        result = import_layout(
            src,
            out,
            config,
            masks=masks,
            blur=blur,
            sharp=sharp,
            licence=licence,
            jobs=jobs,
            overwrite=overwrite,
            progress=progress,
        )
    for note in result.notes:
        common.say(f"note: {note}")
    for problem in result.quarantined[:_SHOWN]:
        common.say(f"quarantined: {problem.scene}{'/' if problem.pair else ''}{problem.pair}: {problem}")
    if len(result.quarantined) > _SHOWN:
        common.say(f"and {len(result.quarantined) - _SHOWN} more, see {out / 'quarantine.jsonl'}")
    usable = result.done + result.skipped
    quoted = shlex.quote(str(out))
    common.finish(
        as_json=as_json,
        done=result.done,
        skipped=result.skipped,
        quarantined=len(result.quarantined),
        out=result.out,
        details={
            "layout": layout,
            "mask_version": result.mask_version,
            "shards": [path.name for path in result.shards],
            "notes": result.notes,
        },
        lines=["everything was done before; nothing to do"] if result.skipped and not result.done else [],
        next_command=_next(quoted, layout, result.mask_version == ONES) if usable else None,
    )
    if result.quarantined:
        ctx.exit(EXIT_PARTIAL)


def _next(out: str, layout: str, without_masks: bool) -> str:
    """GoPro and RealBlur are blurred everywhere; of others the masks are wanted."""
    if without_masks and layout in ("reloblur", "pairs"):
        return f"relo masks {out}"
    return f"relo inspect {out} --sheet sheet.png"
