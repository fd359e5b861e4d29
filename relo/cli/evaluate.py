"""`relo evaluate`: the published metrics of a checkpoint, input beside output."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from relo.cli import common

LABELS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "psnr_w": "PSNR_w [dB]", "ssim_w": "SSIM_w"}


@click.command("evaluate", epilog="Example:  relo evaluate run raw_dir-shards")
@click.argument("checkpoint", type=common.folder)
@click.argument("src", type=common.folder)
@click.option("--split", default="test", show_default=True, help="Split to score.")
@click.option(
    "-o", "--out", type=common.folder, help="Folder for evaluation.csv and .json. [default: beside the checkpoint]"
)
@common.json_option
def command(checkpoint: Path, src: Path, split: str, out: Path | None, as_json: bool) -> None:
    """Score CHECKPOINT, a run folder or its model.safetensors, on SRC, a folder of shards.

    PSNR, SSIM and both weighted by the blur mask, under the protocol of the ReLoBlur code, for the
    blurred input and for the restored output.
    """
    from relo.training import evaluate

    with common.progress_bar("evaluating", quiet=as_json) as progress:
        result = evaluate(checkpoint, src, split=split, progress=progress)
    out = out or result.checkpoint.parent
    result.write(out)
    content = result.to_json()
    content.pop("rows")
    common.finish(
        as_json=as_json,
        done=len(result.rows),
        out=out,
        next_command=f"relo deblur {shlex.quote(str(checkpoint))} IMAGE... -o restored",
        details=content,
        lines=[*_table(content), *(f"note: {note}" for note in result.notes)],
    )


def _table(content: dict[str, Any]) -> list[str]:
    """Aligned lines: metric, input, output, gain; a number that could not be had is a dash."""
    lines = [f"{content['model']} on split {content['split']}:", f"{'':12}{'input':>10}{'output':>10}{'gain':>10}"]
    for metric, label in LABELS.items():
        before, after = (content["overall"][f"{metric}_{side}"] for side in ("input", "output"))
        gain = None if before is None or after is None else after - before
        values = (f"{before:.4f}" if before is not None else "-", f"{after:.4f}" if after is not None else "-")
        lines.append(f"{label:12}{values[0]:>10}{values[1]:>10}{f'{gain:+.4f}' if gain is not None else '-':>10}")
        if content["excluded"][metric]:
            lines[-1] += f"   ({content['excluded'][metric]} images without a mask left out)"
    return lines
