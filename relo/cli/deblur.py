"""`relo deblur`: restore whole photographs."""

from __future__ import annotations

from pathlib import Path

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL


@click.command("deblur", epilog="Example:  relo deblur run photo.jpg -o deblurred")
@click.argument("checkpoint", type=common.folder)
@click.argument("images", type=common.folder, nargs=-1, required=True)
@click.option("-o", "--out", type=common.folder, required=True, help="Folder for the restored images.")
@click.option("--tile", type=click.IntRange(min=4), help="Side of the windows [px], to bound memory.")
@common.json_option
@click.pass_context
def command(
    ctx: click.Context, checkpoint: Path, images: tuple[Path, ...], out: Path, tile: int | None, as_json: bool
) -> None:
    """Restore IMAGES (PNG, TIFF, JPEG, or folders of them) with CHECKPOINT, a run folder or model.safetensors.

    Results keep name and bit depth: TIFF for TIFF, PNG otherwise. Inputs are never overwritten.
    """
    from relo.training import deblur_files

    with common.progress_bar("deblurring", quiet=as_json) as progress:
        result = deblur_files(checkpoint, images, out, tile=tile, progress=progress)
    for _, reason in result.failed:
        common.say(f"Error: {reason}")
    common.finish(
        as_json=as_json,
        done=len(result.written),
        failed=len(result.failed),
        out=out if result.written else None,
        details={
            "written": [str(path) for path in result.written],
            "errors": {str(path): reason for path, reason in result.failed},
        },
    )
    if result.failed:
        ctx.exit(EXIT_PARTIAL)
