"""`relo inspect`: contents and statistics of shards, their integrity, a contact sheet."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL
from relo.units import in_bytes

if TYPE_CHECKING:
    from relo.shards.inspect import Damage, Inspection


@click.command("inspect", epilog="Example:  relo inspect raw_dir-shards --verify")
@click.argument("src", type=common.folder)
@click.option(
    "--verify",
    is_flag=True,
    help="Recompute every checksum and decode every image; damage gives exit code 3.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Write a contact sheet: blur | sharp | mask of up to 40 pairs.",
)
@common.json_option
@click.pass_context
def command(ctx: click.Context, src: Path, verify: bool, sheet: Path | None, as_json: bool) -> None:
    """Show what the dataset folder or shard SRC holds."""
    from relo.shards.inspect import inspect_shards, verify_shards

    found = inspect_shards(src)
    damage = list(found.damage)
    if verify:
        with common.progress_bar("verify", quiet=as_json) as progress:
            damage = verify_shards(src, progress)
    if sheet is not None:
        _write_sheet(src, sheet)
    damaged = len({(item.file, item.pair) for item in damage})
    done = found.pairs - len({(item.file, item.pair) for item in damage if item.pair})
    quoted = shlex.quote(str(src))
    following = f"relo report {quoted}" if verify else f"relo inspect {quoted} --verify"
    common.finish(
        as_json=as_json,
        done=done,
        quarantined=found.quarantined,
        failed=damaged,
        out=sheet,
        next_command="relo process RAW_DIR" if damage else following,
        details=_details(found, damage, verify),
        lines=_lines(found, damage, verify),
    )
    if damage:
        ctx.exit(EXIT_PARTIAL)


def _write_sheet(src: Path, sheet: Path) -> None:
    from relo import atomic
    from relo.errors import ShardError
    from relo.report.contact_sheet import contact_sheet
    from relo.report.pictures import png
    from relo.shards import open_dataset

    dataset = open_dataset(src)
    if not len(dataset):
        raise ShardError("holds no pair to draw", file=src, advice="Leave --sheet out.")
    data = png(contact_sheet(dataset))
    with atomic.unfinished(sheet) as part:
        part.write_bytes(data)


def _details(found: Inspection, damage: list[Damage], verified: bool) -> dict[str, Any]:
    from dataclasses import asdict

    shards = []
    for shard in found.shards:
        entry = asdict(shard)
        for key in ("coverage", "flags"):
            del entry[key]
        shards.append(entry)
    coverage = found.coverage
    return {
        "shards": shards,
        "pairs": found.pairs,
        "scenes": found.scenes,
        "splits": found.splits,
        "bytes": found.bytes,
        "coverage": None if coverage is None else dict(zip(("mean", "min", "max"), coverage, strict=True)),
        "flags": found.flags,
        "verified": verified,
        "damage": [asdict(item) for item in damage],
    }


def _lines(found: Inspection, damage: list[Damage], verified: bool) -> list[str]:
    heads = ("shard", "scene", "split", "pairs", "size", "bits", "short", "disk", "config")
    rows = [
        (
            shard.file,
            shard.scene,
            shard.split,
            str(shard.pairs),
            f"{shard.width}x{shard.height}",
            str(shard.bits),
            "yes" if shard.short else "no",
            in_bytes(shard.bytes),
            shard.config_sha256[:12] or "-",
        )
        for shard in found.shards
    ]
    lines = _table(heads, rows, right={3, 4, 5, 7}) if rows else ["no shard"]
    splits = ", ".join(f"{split} {count}" for split, count in found.splits.items()) or "none"
    lines += [
        "",
        f"scenes    {len(found.scenes)}",
        f"pairs     {found.pairs} ({splits})",
        f"on disk   {in_bytes(found.bytes)}",
    ]
    coverage = found.coverage
    if coverage is not None:
        mean, low, high = (100 * value for value in coverage)
        lines.append(f"coverage  mean {mean:.2f} %, from {low:.2f} % to {high:.2f} % (ReLoBlur: mean 11.75 %)")
    flags = ", ".join(f"{flag} {count}" for flag, count in found.flags.items())
    lines.append(f"flags     {flags or 'none'}")
    if verified and not damage:
        lines.append("verified  every checksum agrees, every image can be decoded")
    lines += [f"damaged   {item}" for item in damage]
    return [*lines, ""]


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: set[int]) -> list[str]:
    """Columns padded to their widest cell; those in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    ]
