"""`relo masks`: compute blur masks anew; give them to an image editor and take them back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL, EXIT_USAGE, ReloError

if TYPE_CHECKING:
    import numpy as np

    from relo.capture.session import Problem
    from relo.shards.mask_stores import MaskPair, MaskStore

_SHOWN = 20


class MasksCommand(click.Command):
    """`relo masks SRC [OUT]`, unless the first word is "export" or "import"."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Hand over to the command that the first word names."""
        if args and args[0] in _OTHERS:
            return _OTHERS[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the other commands before the examples."""
        with formatter.section("Other commands"):
            formatter.write_dl(
                [(f"{ctx.info_name} {name}", other.get_short_help_str(100)) for name, other in _OTHERS.items()]
            )
        super().format_epilog(ctx, formatter)


@click.command(
    "masks",
    cls=MasksCommand,
    epilog="""\b
Examples:  relo masks raw_dir-shards --sheet masks.png
           relo masks ReLoBlur out --method lbfmg
           relo masks raw_dir-shards remasked --set pair.threshold=5""",
)
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder, required=False)
@click.option(
    "--method",
    type=click.Choice(["fused", "lbfmg", "pair"]),
    help="lbfmg as published, pair: the difference of the two frames, fused: both (default).",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting of the masks, for example --set var_threshold=24. May be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace masks that were imported, and files of a layout, too.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Write a contact sheet: blur | sharp | mask on blur of up to 40 pairs.",
)
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    src: Path,
    out: Path | None,
    method: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Compute blur masks anew for the shards SRC, or for a folder SRC in the ReLoBlur layout.

    Shards change in place, or are copied to OUT. For a layout, masks go to masks/<split>/sNN/MM/NN.png
    in OUT, or beside the folder dataset. Masks that were imported by hand are kept, and so is every file
    that is there already. A folder that is called export or import is given as ./export.
    """
    from relo.config import load_config
    from relo.masks.config import MaskConfig
    from relo.parallel import one_opencv_thread
    from relo.shards import schema
    from relo.shards.mask_stores import open_masks
    from relo.shards.remask import make_masks

    config = load_config(MaskConfig, None, overrides, {} if method is None else {"method": method})
    store = open_masks(src, out)
    with common.progress_bar("masks", quiet=as_json) as progress, one_opencv_thread():
        run = make_masks(store, config, overwrite=overwrite, progress=progress)
    if run.done or out is not None:
        _renew_report(src, run.store.location, as_json)
    if sheet is not None:
        _write_sheet(run.store, run.problems, sheet)
    _tell(run.problems)
    numbers = _numbers(run.store)
    target = src if run.store.src == src else run.store.location
    # There is nothing to inspect in a layout.
    shards = target.suffix == ".h5" or (target / schema.DATASET_FILE).is_file()
    words = "relo inspect" if shards and not numbers["flags"] else "relo masks export"
    common.finish(
        as_json=as_json,
        done=run.done,
        skipped=run.skipped,
        failed=len(run.problems),
        out=run.store.location,
        details={"method": config.method, **numbers, "sheet": sheet, "problems": _entries(run.problems)},
        lines=_summary_lines(numbers),
        next_command=f"{words} {shlex.quote(str(target))}" + (" DIR" if words.endswith("export") else ""),
    )
    if run.problems:
        ctx.exit(EXIT_PARTIAL)


@click.command(
    "export",
    epilog="""\b
Examples:  relo masks export raw_dir-shards to_edit
           relo masks export ReLoBlur to_edit --overwrite""",
)
@click.argument("src", type=common.folder)
@click.argument("folder", metavar="DIR", type=common.folder)
@common.overwrite_option
@common.json_option
@click.pass_context
def export_command(ctx: click.Context, src: Path, folder: Path, overwrite: bool, as_json: bool) -> None:
    """Write the masks of SRC to DIR as pictures to edit.

    DIR/<scene>/<id>_mask.png is the mask, 255 blurred, 0 not; <id>_overlay.png shows it on the blurred
    frame and is for looking only. 'relo masks import SRC DIR' takes back what was changed.
    """
    from relo.shards.mask_export import export_masks
    from relo.shards.mask_stores import open_masks

    store = open_masks(src)
    with common.progress_bar("export", quiet=as_json) as progress:
        result = export_masks(store, folder, _overlay, overwrite=overwrite, progress=progress)
    _tell(result.problems)
    common.finish(
        as_json=as_json,
        done=result.done,
        failed=len(result.problems),
        out=folder,
        details={"problems": _entries(result.problems)},
        next_command=f"relo masks import {shlex.quote(str(src))} {shlex.quote(str(folder))}",
    )
    if result.problems:
        ctx.exit(EXIT_PARTIAL if result.done else EXIT_USAGE)


@click.command(
    "import",
    epilog="""\b
Examples:  relo masks import raw_dir-shards to_edit
           relo masks import reloblur-shards ReLoBlur/masks with-published-masks""",
)
@click.argument("src", type=common.folder)
@click.argument("folder", metavar="DIR", type=common.folder)
@click.argument("out", type=common.folder, required=False)
@click.option("--all", "take_all", is_flag=True, help="Take every file, also those that have not changed.")
@click.option("--strict", is_flag=True, help="Take nothing if any file is bad or missing.")
@common.json_option
@click.pass_context
def import_command(
    ctx: click.Context, src: Path, folder: Path, out: Path | None, take_all: bool, strict: bool, as_json: bool
) -> None:
    """Take masks for SRC from DIR: an export folder, or a published tree <split>/sNN/MM/NN.png.

    Of an export, files that have changed are taken. A file that is missing, damaged or of another size is
    listed and its pair keeps its mask. The exit code is 2 if nothing could be taken.
    """
    from relo.shards.mask_import import import_masks
    from relo.shards.mask_stores import open_masks

    store = open_masks(src, out)
    with common.progress_bar("import", quiet=as_json) as progress:
        result = import_masks(store, folder, take_all=take_all, strict=strict, progress=progress)
    if result.taken:
        _renew_report(src, result.store.location, as_json)
    for note in result.notes[:_SHOWN]:
        common.say(f"note: {note}")
    if len(result.notes) > _SHOWN:
        common.say(f"and {len(result.notes) - _SHOWN} more notes; --json gives all")
    _tell(result.problems)
    details = {"taken": result.taken, "notes": result.notes, "problems": _entries(result.problems)}
    nothing = [] if result.taken else ["nothing was taken: " + _why_nothing(result.problems, strict)]
    common.finish(
        as_json=as_json,
        done=len(result.taken),
        skipped=result.unchanged,
        failed=len(result.problems),
        out=result.store.location if result.taken else None,
        details=details,
        lines=[*(f"taken: {name}" for name in result.taken[:_SHOWN]), *nothing],
        next_command=f"relo masks export {shlex.quote(str(src))} DIR" if not result.taken else None,
    )
    if result.problems and (strict or not result.taken):
        ctx.exit(EXIT_USAGE)


_OTHERS: dict[str, click.Command] = {"export": export_command, "import": import_command}


def _why_nothing(problems: Sequence[Problem], strict: bool) -> str:
    if not problems:
        return "no file has changed since it was exported or imported"
    return "with --strict no file may be bad" if strict else "no file can be used"


def _overlay(pair: MaskPair) -> np.ndarray:
    """Blurred frame tinted by the mask, full size."""
    from relo.report.pictures import mask_overlay

    height, width = pair.size
    return mask_overlay(pair.blur, pair.mask, pair.valid, width, height)


def _write_sheet(store: MaskStore[Any], problems: Sequence[Problem], sheet: Path) -> None:
    from math import isfinite

    from relo import atomic
    from relo.report.contact_sheet import contact_sheet
    from relo.report.pictures import png

    bad = {(problem.scene, problem.pair) for problem in problems}
    good = [pair for pair in store.pairs if (pair.scene, pair.id) not in bad and isfinite(store.coverage(pair))]
    if not good:
        raise ReloError("holds no mask to draw", file=store.src, advice="Leave --sheet out.")
    data = png(contact_sheet(good, overlay=True, remark=lambda pair: " ".join(store.flags(pair))))
    try:
        with atomic.unfinished(sheet) as part:
            part.write_bytes(data)
    except OSError as error:
        advice = "Give another file; the masks themselves are done."
        raise ReloError(f"cannot be written ({error.strerror})", file=sheet, advice=advice) from error


def _renew_report(src: Path, location: Path, as_json: bool) -> None:
    """Write the report of changed shards again, where there was one."""
    from relo.report import write_report
    from relo.shards import schema

    before, after = (path if path.is_dir() else path.parent for path in (src, location))
    if (before / schema.REPORT_FILE).is_file() and (after / schema.DATASET_FILE).is_file():
        with common.progress_bar("report", quiet=as_json) as progress:
            write_report(after, progress=progress)


def _numbers(store: MaskStore[Any]) -> dict[str, Any]:
    from relo.masks.quality import PAPER_COVERAGE
    from relo.shards.remask import mask_summary

    return {**mask_summary(store), "paper_mean_coverage": PAPER_COVERAGE}


def _summary_lines(numbers: dict[str, Any]) -> list[str]:
    mean = numbers["mean_coverage"]
    flags = ", ".join(f"{flag} {count}" for flag, count in numbers["flags"].items())
    lines = [f"pairs     {numbers['pairs']}, with a mask {numbers['masks']}, imported {numbers['imported']}"]
    if mean is not None:
        lines.append(f"coverage  mean {100 * mean:.2f} % (ReLoBlur: {100 * numbers['paper_mean_coverage']:.2f} %)")
    return [*lines, f"flagged   {flags or 'none'}", ""]


def _tell(problems: Sequence[Problem]) -> None:
    for problem in problems[:_SHOWN]:
        common.say(f"left out: {problem.scene}{'/' if problem.pair else ''}{problem.pair}: {problem}")
    if len(problems) > _SHOWN:
        common.say(f"and {len(problems) - _SHOWN} more; --json gives all")


def _entries(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [
        {"scene": item.scene, "pair": item.pair, "file": str(item.file), "reason": item.reason} for item in problems
    ]
