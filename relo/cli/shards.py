"""`relo shards`: merge, split, thin out and repack dataset folders without reprocessing."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relo.cli import common

if TYPE_CHECKING:
    from relo.shards.rearranging.job import Reorganised

_EPILOG = """\b
Examples:  relo shards merge monday tuesday both --prefix mon_ --prefix tue_
           relo shards split both with-test --split test=0.2
           relo shards drop both good --flag misaligned --pair 'desk/00*'
           relo shards reshard good packed --pairs 128"""

_licence = click.option("--license", "licence", metavar="TEXT", default="", help="Of the frames, if it changes.")


@click.group("shards", epilog=_EPILOG)
def command() -> None:
    """Merge, split, thin out or repack dataset folders, without reprocessing: images are copied as they are stored.

    OUT is a new folder; what was there before stays as it is. Each command takes --json and --overwrite.
    """


@command.command(
    "merge",
    short_help="Several datasets into one folder.",
    epilog="Example:  relo shards merge monday tuesday both",
)
@click.argument("src", type=common.folder, nargs=-1, required=True)
@click.argument("out", type=common.folder)
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="TEXT",
    help="Put before the names of a source's scenes; once for each SRC, '' for none.",
)
@_licence
@common.overwrite_option
@common.json_option
def merge(
    src: tuple[Path, ...], out: Path, prefixes: tuple[str, ...], licence: str, overwrite: bool, as_json: bool
) -> None:
    """Put the shards of several datasets SRC into one folder OUT.

    Scenes of one name must agree in split and frame size, and pairs of one name must be equal to the bit; --prefix
    tells scenes apart that are only called alike.
    """
    from relo.shards.rearranging.merge import merge_datasets

    _report(
        lambda progress: merge_datasets(
            src, out, prefixes=prefixes, licence=licence, overwrite=overwrite, progress=progress
        ),
        as_json,
    )


@command.command(
    "split",
    short_help="Move scenes to other splits.",
    epilog="Example:  relo shards split both with-test --split test=scene_01,scene_02",
)
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder)
@click.option(
    "--split",
    "splits",
    multiple=True,
    required=True,
    metavar="NAME=SCENES",
    help="Scenes (test=scene_01,scene_02) or a share of 'train' (test=0.2) that go to a split; the rest stays.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the shares.")
@click.option("--anew", is_flag=True, help="Forget the present splits: the rest is 'train'.")
@_licence
@common.overwrite_option
@common.json_option
def split(
    src: Path,
    out: Path,
    splits: tuple[str, ...],
    seed: int,
    anew: bool,
    licence: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Move scenes of SRC to other splits in OUT; a scene is never in two."""
    from relo.shards.config import parse_splits
    from relo.shards.rearranging.operations import split_dataset

    _report(
        lambda progress: split_dataset(
            src,
            out,
            parse_splits(splits),
            seed=seed,
            anew=anew,
            licence=licence,
            overwrite=overwrite,
            progress=progress,
        ),
        as_json,
    )


@command.command(
    "drop",
    short_help="Leave pairs out.",
    epilog="Example:  relo shards drop both good --flag misaligned --pair 'desk/00*'",
)
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder)
@click.option("--pair", "pairs", multiple=True, metavar="GLOB", help="Pairs by scene/id, as in 'desk/00*'.")
@click.option("--scene", "scenes", multiple=True, metavar="GLOB", help="Scenes by name.")
@click.option("--flag", "flags", multiple=True, metavar="FLAG", help="Pairs with this flag, see relo inspect.")
@click.option(
    "--list",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file with one scene/id or scene a line; lines that begin with # are remarks.",
)
@_licence
@common.overwrite_option
@common.json_option
def drop(
    src: Path,
    out: Path,
    pairs: tuple[str, ...],
    scenes: tuple[str, ...],
    flags: tuple[str, ...],
    file: Path | None,
    licence: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Leave pairs of SRC out of OUT; each option may be repeated, and a pair goes that fits any of them.

    quarantine.jsonl says which, and by which rule. A rule that fits no pair is an error.
    """
    from relo.shards.rearranging.operations import drop_pairs

    _report(
        lambda progress: drop_pairs(
            src,
            out,
            pairs=pairs,
            scenes=scenes,
            flags=flags,
            listed=_names(file) if file else (),
            licence=licence,
            overwrite=overwrite,
            progress=progress,
        ),
        as_json,
    )


@command.command(
    "reshard",
    short_help="Larger or smaller shards.",
    epilog="Example:  relo shards reshard good packed --pairs 128",
)
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder)
@click.option("--pairs", type=click.IntRange(1, 4096), required=True, help="Pairs a shard at most.")
@_licence
@common.overwrite_option
@common.json_option
def reshard(src: Path, out: Path, pairs: int, licence: str, overwrite: bool, as_json: bool) -> None:
    """Store the pairs of SRC in larger or smaller shards; a shard still holds one scene."""
    from relo.shards.rearranging.operations import reshard_dataset

    _report(
        lambda progress: reshard_dataset(src, out, pairs, licence=licence, overwrite=overwrite, progress=progress),
        as_json,
    )


def _names(file: Path) -> list[str]:
    from relo.errors import ConfigError

    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot be read", file=file, advice="Give a text file.") from error
    return [line for line in lines if line and not line.startswith("#")]


def _report(work: Callable[[Any], Reorganised], as_json: bool) -> None:
    """Do the work and close the verb."""
    with common.progress_bar("copying", quiet=as_json) as progress:
        result = work(progress)
    for note in result.notes:
        common.say(f"note: {note}")
    lines = ["everything was done before; nothing to do"] if result.skipped else []
    if result.dropped:
        lines.append(f"dropped {result.dropped}, listed in quarantine.jsonl")
    common.finish(
        as_json=as_json,
        done=result.done,
        skipped=result.skipped,
        out=result.out,
        details={
            "dropped": result.dropped,
            "shards": [path.name for path in result.shards],
            "notes": result.notes,
        },
        lines=lines,
        next_command=f"relo inspect {shlex.quote(str(result.out))} --verify",
    )
