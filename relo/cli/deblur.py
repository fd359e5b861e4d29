"""`relo deblur`: restore whole photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from relo.training.inference.in_memory import RegionReport
    from relo.training.inference.region_inference import Difference


@click.command("deblur", epilog="Example:  relo deblur run photo.jpg folder_of_raws -o deblurred")
@click.argument("checkpoint", type=common.folder)
@click.argument("images", type=common.folder, nargs=-1, required=True)
@click.option("-o", "--out", type=common.folder, required=True, help="Folder for the restored images.")
@click.option("--format", "image_format", type=click.Choice(["png", "tif", "jpg"]), help="Kind of all results.")
@click.option("--mask", "masks", is_flag=True, help="Write the blur mask too, as NAME_mask.png.")
@click.option("--only-blurred", is_flag=True, help="Restore around blur only; leave other pixels untouched.")
@click.option(
    "--mask-from",
    type=common.folder,
    help="With --only-blurred: where the blur is. A grey PNG, or a folder with NAME_mask.png or NAME.png.",
)
@click.option(
    "--compare", is_flag=True, help="With --only-blurred: restore whole images too, and report the difference."
)
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
    only_blurred: bool,
    mask_from: Path | None,
    compare: bool,
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

    --only-blurred takes less time. It is not exact for networks that look far or at the image as a whole: --compare
    tells by how much.
    """
    from relo.parallel import reuse_freed_memory
    from relo.training import deblur_files

    reuse_freed_memory()
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
            only_blurred=only_blurred,
            mask_from=mask_from,
            compare=compare,
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
            "regions": {str(path): _plain(report) for path, report in result.regions},
        },
        lines=[
            *(f"{path}: {_told(report)}" for path, report in result.regions),
            *(["what is there already was left as it is; --overwrite restores it again"] if result.skipped else []),
        ],
    )
    if result.failed:
        ctx.exit(EXIT_PARTIAL)


def _told(report: RegionReport) -> str:
    return f"{report.blurred:.1%} blurred, {report.computed:.1%} computed"


def _plain(report: RegionReport) -> dict[str, Any]:
    found = report.comparison
    differences = None
    if found is not None:
        differences = {
            "everywhere": _numbers(found.everywhere),
            "blurred": None if found.blurred is None else _numbers(found.blurred),
        }
    return {"blurred": report.blurred, "computed": report.computed, "difference": differences}


def _numbers(difference: Difference) -> dict[str, float | None]:
    """Maximum and RMS in units of the 8-bit scale; the PSNR of equal images, infinite, has no number in JSON."""
    psnr = difference.psnr if difference.maximum else None
    return {"max": difference.maximum, "rms": difference.rms, "psnr": psnr}
