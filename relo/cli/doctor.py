"""`relo doctor`: versions, traps, disk, GPU."""

from __future__ import annotations

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL


@click.command("doctor", epilog="Example:  relo doctor")
@common.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Versions, known traps, disk and GPU, to paste into an issue. Exit code 3 where something is wrong."""
    from dataclasses import asdict

    from relo.doctor import diagnose

    found = diagnose()
    lines = []
    for section, facts in found.facts.items():
        lines.append(section)
        lines += [f"  {name:<23} {text}" for name, text in facts.items()]
        lines.append("")
    for number, finding in enumerate(found.findings, 1):
        lines += [f"{number}. {finding.problem}.", f"   {finding.advice}", ""]
    if not found.findings:
        lines += ["Nothing is wrong.", ""]
    common.finish(
        as_json=as_json,
        done=len(found.facts["checks"]),
        failed=len(found.findings),
        next_command="relo doctor" if found.findings else "relo demo",
        details={"facts": found.facts, "findings": [asdict(finding) for finding in found.findings]},
        lines=lines,
    )
    if found.findings:
        ctx.exit(EXIT_PARTIAL)
