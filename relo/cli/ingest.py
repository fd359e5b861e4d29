"""`relo ingest`: two camera folders to a session."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relo.cli.common import finish, folder, json_option, progress_bar
from relo.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from relo.capture.ingest import IngestOptions, IngestPlan
    from relo.capture.ingest.placing import Placed

_EPILOG = "Examples:  relo ingest card_B card_S session --dry-run     relo ingest card_B card_S session --by time"

# Lines for people about files left out; --json holds all.
_LISTED = 20

_SECOND = 1_000_000_000
_LONGEST = 1e9


class _Seconds(click.ParamType):
    """A finite number of seconds, as whole nanoseconds."""

    name = "seconds"

    def __init__(self, *, signed: bool = False) -> None:
        self.signed = signed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        # Written so that NaN fails too.
        if not (-_LONGEST if self.signed else 0) <= seconds <= _LONGEST:
            kind = "a number of seconds" if self.signed else "a number of seconds, 0 or more"
            self.fail(f"'{value}' is not {kind}", param, ctx)
        return round(seconds * _SECOND)


@click.command(epilog=_EPILOG)
@click.argument("dir_b", type=folder)
@click.argument("dir_s", type=folder)
@click.argument("out", type=folder)
@click.option("--by", type=click.Choice(["name", "time", "csv"]), help="What pairs the files; name if not given.")
@click.option(
    "--csv", "csv_file", type=folder, help="CSV with columns blur, sharp[, scene, id, role]; implies --by csv."
)
@click.option("--tolerance", type=_Seconds(), metavar="SECONDS", help="By time: largest distance [default: 0.5].")
@click.option(
    "--offset",
    type=_Seconds(signed=True),
    metavar="SECONDS",
    help="By time: clock S minus clock B; found if not given.",
)
@click.option("--time-from", type=click.Choice(["exif", "mtime"]), help="Where times come from [default: exif].")
@click.option("--gap", type=_Seconds(), metavar="SECONDS", help="A longer pause starts a new scene.")
@click.option(
    "--scene", metavar="NAME", help="One name for everything, whatever the subfolders; with --gap NAME_00 ..."
)
@click.option("--keep-names", is_flag=True, help="Call pairs as camera B's files instead of numbering them.")
@click.option("--static", multiple=True, metavar="GLOB", help="Static frames [default: 'static' in the name].")
@click.option("--whiteboard", multiple=True, metavar="GLOB", help="Whiteboard frames [default: likewise].")
@click.option("--lightbox", multiple=True, metavar="GLOB", help="Lightbox frames [default: likewise].")
@click.option("--copy", "how", flag_value="copy", help="Copy; not given: hard links, copies where there are none.")
@click.option("--symlink", "how", flag_value="symlink", help="Symbolic links: they break when a source moves.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    dir_b: Path,
    dir_s: Path,
    out: Path,
    how: str | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the session OUT from the folders of camera B (blur) and camera S (sharp).

    Files are paired by name (the camera's marker aside: IMG_0001_B and IMG_0001_S), by time or by a CSV, never by
    position. Subfolders are scenes. Files without partner, or with two possible ones, are listed and left out; the
    exit code is then 3. The plan stands in OUT/ingest.csv, which --csv accepts. A rerun continues.
    """
    from relo.capture.ingest import place, plan_ingest
    from relo.capture.ingest.placing import Placed, refuse_foreign, refuse_overlap

    options = _options(given)
    refuse_overlap(out, dir_b, dir_s)
    with progress_bar("reading times", quiet=as_json) as progress:
        plan = plan_ingest(dir_b, dir_s, options, progress)
    if dry_run:
        refuse_foreign(plan, out)
        placed = Placed()
    else:
        with progress_bar("placing", quiet=as_json) as progress:
            placed = place(plan, out, how or "link", progress)  # type: ignore[arg-type]
    lines = _lines(plan)
    if dry_run:
        lines.append("nothing was written: leave out --dry-run to do it")
    else:
        lines.append(_placed(placed, how))
    finish(
        as_json=as_json,
        done=placed.linked + placed.symlinked + placed.copied,
        skipped=placed.skipped,
        quarantined=len(plan.left_out),
        out=None if dry_run else out,
        details=_details(plan, dry_run)
        | {"linked": placed.linked, "symlinked": placed.symlinked, "copied": placed.copied},
        lines=lines,
        next_command=None if dry_run else f"relo check {out}",
    )
    if plan.left_out:
        ctx.exit(EXIT_PARTIAL)


def _placed(placed: Placed, how: str | None) -> str:
    """What was done with the files."""
    kinds = {
        "hard links": placed.linked,
        "symbolic links": placed.symlinked,
        "copies" if how else "copies (hard links do not reach from these files to OUT)": placed.copied,
        "there already": placed.skipped,
    }
    return "files: " + ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)


def _options(given: dict[str, Any]) -> IngestOptions:
    """The options that were given, as a whole; one that would do nothing is wrong usage."""
    from relo.capture.ingest import IngestOptions
    from relo.capture.ingest.files import REFERENCES, RoleRule
    from relo.capture.ingest.table import bad_name

    by = given["by"] or ("csv" if given["csv_file"] else "name")
    if (by == "csv") != (given["csv_file"] is not None):
        raise click.UsageError("--by csv and --csv FILE belong together")
    for name in ("tolerance", "offset"):
        if given[name] is not None and by != "time":
            raise click.UsageError(f"--{name} needs --by time")
    if given["time_from"] and by != "time" and given["gap"] is None:
        raise click.UsageError("--time-from needs --by time or --gap")
    if given["scene"] is not None and (problem := bad_name(given["scene"])):
        raise click.BadParameter(f"'{given['scene']}' {problem}", param_hint="--scene")
    values = {
        "csv": given["csv_file"],
        "tolerance_ns": given["tolerance"],
        "offset_ns": given["offset"],
        "time_from": given["time_from"],
        "gap_ns": given["gap"],
        "scene": given["scene"],
    }
    return IngestOptions(
        by=by,  # type: ignore[arg-type]
        keep_names=given["keep_names"],
        rule=RoleRule({role: given[role] for role in REFERENCES if given[role]}),
        **{name: value for name, value in values.items() if value is not None},
    )


def _lines(plan: IngestPlan) -> list[str]:
    """The plan for people: scenes, references, offset, and what is left out."""
    lines = []
    for scene, counts in plan.counts().items():
        line = f"{scene}: {counts['pair']} pairs, {counts['static']} static, {counts['whiteboard']} whiteboard"
        example = next(
            (entry for entry in plan.entries if entry.scene == scene and entry.role == "pair"),
            None,
        )
        if example and example.blur and example.sharp:
            line += f" (first: {example.id} = {example.blur.name} + {example.sharp.name})"
        lines.append(line)
    lightbox = plan.lightbox()
    lines.append(f"lightbox: {lightbox['B']} of camera B, {lightbox['S']} of camera S")
    if plan.offset is not None:
        clock = plan.offset
        lines.append(
            f"clock of camera S minus clock of camera B: {clock.offset_ns / _SECOND:+.3f} s "
            f"({'given' if clock.given else 'found'}; {clock.pairs} pairs agree, spread "
            f"{clock.spread_ns / _SECOND:.3f} s, at most {clock.largest_ns / _SECOND:.3f} s)"
        )
    lines += [f"{item.kind}: {item}" for item in plan.left_out[:_LISTED]]
    if len(plan.left_out) > _LISTED:
        lines.append(f"... and {len(plan.left_out) - _LISTED} more files left out (--json lists them all)")
    return lines + [f"warning: {warning}" for warning in plan.warnings]


def _details(plan: IngestPlan, dry_run: bool) -> dict[str, Any]:
    clock = plan.offset
    return {
        "dry_run": dry_run,
        "scenes": {
            scene: {"pairs": counts["pair"], "static": counts["static"], "whiteboard": counts["whiteboard"]}
            for scene, counts in plan.counts().items()
        },
        "lightbox": plan.lightbox(),
        "offset": clock
        and {
            "seconds": clock.offset_ns / _SECOND,
            "given": clock.given,
            "pairs": clock.pairs,
            "spread": clock.spread_ns / _SECOND,
            "largest": clock.largest_ns / _SECOND,
            "drift": clock.drift_ns / _SECOND,
        },
        "plan": [
            {"scene": entry.scene, "id": entry.id, "role": entry.role, "blur": entry.blur, "sharp": entry.sharp}
            for entry in plan.entries
        ],
        "left_out": [{"file": str(item.file), "kind": item.kind, "reason": item.reason} for item in plan.left_out],
        "warnings": list(plan.warnings),
    }
