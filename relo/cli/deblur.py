"""`relo deblur`: restore whole photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL


@click.command("deblur", epilog="Example:  relo deblur run photo.jpg folder_of_raws -o deblurred")
@click.argument("checkpoint", type=common.folder)
@click.argument("images", type=common.folder, nargs=-1, required=True)
@click.option("-o", "--out", type=common.folder, required=True, help="Folder for the restored images.")
@click.option("--format", "image_format", type=click.Choice(["png", "tif", "jpg"]), help="Kind of all results.")
@click.option("--mask", "masks", is_flag=True, help="Write the predicted blur mask too, as NAME_mask.png.")
@click.option("--overwrite", is_flag=True, help="Restore again what is there already.")
@click.option("--model", help="Network, instead of the one that CHECKPOINT names: a name, or FILE.py:NAME.")
@click.option("--device", help="cpu, cuda, cuda:1, …; the GPU if there is one.")
@click.option("--tile", type=int, help="Side of the windows [px], to bound memory; 0 for the whole image.")
@click.option("--overlap", type=int, help="What neighbouring windows share [px]; 192 or half of --tile.")
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path,
    images: tuple[Path, ...],
    out: Path,
    image_format: Literal["png", "tif", "jpg"] | None,
    masks: bool,
    overwrite: bool,
    model: str | None,
    device: str | None,
    tile: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Restore IMAGES (PNG, TIFF, JPEG, RAW, or folders of them) with CHECKPOINT, a run folder or weights file.

    PNG and TIFF keep their kind and bit depth, JPEG becomes PNG, RAW becomes TIFF of 16 bits. EXIF and ICC profile
    are kept. Inputs are never overwritten, and results that are there already are skipped. An image for which the
    memory does not suffice is restored in windows that overlap.
    """
    from relo.training import deblur_files

    with common.progress_bar("deblurring", quiet=as_json) as progress:
        result = deblur_files(
            checkpoint,
            images,
            out,
            tile=tile,
            overlap=overlap,
            device=device,
            model=model,
            image_format=image_format,
            masks=masks,
            overwrite=overwrite,
            progress=progress,
        )
    for path, note in result.notes:
        common.say(f"Note: {path}: {note}")
    for _, reason in result.failed:
        common.say(f"Error: {reason}")
    common.finish(
        as_json=as_json,
        done=len(result.written),
        skipped=len(result.skipped),
        failed=len(result.failed),
        out=out if result.written or result.skipped else None,
        details={
            "written": [str(path) for path in result.written],
            "skipped_files": [str(path) for path in result.skipped],
            "notes": [[str(path), note] for path, note in result.notes],
            "errors": {str(path): reason for path, reason in result.failed},
        },
    )
    if result.failed:
        ctx.exit(EXIT_PARTIAL)
