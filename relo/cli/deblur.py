"""`relo deblur`: restore whole photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from relo.cli import common
from relo.cli.common import INSTANT
from relo.errors import EXIT_PARTIAL, ConfigError

if TYPE_CHECKING:
    from relo.training import DeblurResult
    from relo.training.diffusion.restoration import Restorer
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
    help="With --only-blurred or --short: where the blur is. A grey PNG, or a folder of NAME_mask.png or NAME.png.",
)
@click.option(
    "--short",
    type=common.folder,
    help=f"The short exposure, or a folder with one of each name: for {INSTANT} and networks that see one.",
)
@click.option(
    "--detector",
    type=common.folder,
    help=f"With {INSTANT} or a run of exprdiff: a run of exprdiff-detector, instead of --mask-from.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="With a run of exprdiff: steps, strength, guidance_scale, tile, precision, base, … May be repeated.",
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
    short: Path | None,
    detector: Path | None,
    overrides: tuple[str, ...],
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

    "exprdiff-instant" instead of CHECKPOINT needs no training: it restores blurred areas from a second, short
    exposure of the same moment (--short), in seconds, and leaves all other pixels untouched. The short exposure may
    be darker, noisy, and displaced by up to 64 px. Where the blur is, --mask-from or --detector tells. A run of
    exprdiff is used in the same way.
    """
    from relo.parallel import reuse_freed_memory
    from relo.training.diffusion.restoration import is_guide

    reuse_freed_memory()
    instant = str(checkpoint) == INSTANT
    with common.progress_bar("deblurring", quiet=as_json) as progress:
        if instant or is_guide(checkpoint):
            what = INSTANT if instant else "a run of exprdiff"
            _refuse(
                f"cannot be used with {what}",
                {
                    "--only-blurred": only_blurred,
                    "--compare": compare,
                    "--model": model is not None,
                    "--tile": tile is not None,
                    "--overlap": overlap is not None,
                    "--set": instant and bool(overrides),
                },
            )
            from relo.training.inference.short_exposures import deblur_with_short, with_guide

            if short is None:
                raise ConfigError(f"{what} needs short exposures", advice="Give a file or a folder with --short.")
            result = deblur_with_short(
                images,
                short,
                out,
                mask_from=mask_from,
                detector=detector,
                device=device,
                image_format=image_format,
                masks=masks,
                overwrite=overwrite,
                restore=None if instant else with_guide(_restorer(checkpoint, overrides, device)),
                progress=progress,
            )
        else:
            if not checkpoint.exists():
                raise ConfigError(
                    "does not exist", file=checkpoint, advice=f"Give a run folder, a weights file, or {INSTANT}."
                )
            _refuse(f"is for {INSTANT} and runs of exprdiff only", {"--detector": detector is not None})
            _refuse("is for runs of exprdiff only", {"--set": bool(overrides)})
            from relo.training import deblur_files

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
                short=short,
                compare=compare,
                progress=progress,
            )
    _tell(ctx, result, out, as_json)


def _refuse(why: str, options: dict[str, bool]) -> None:
    for name, is_given in options.items():
        if is_given:
            raise ConfigError(f"{name} {why}", advice="Leave it out.")


def _restorer(run: Path, overrides: tuple[str, ...], device: str | None) -> Restorer:
    """Guide and base model of a run, loaded once for all photographs."""
    from relo.config import apply_overrides, build_config
    from relo.training.diffusion.restoration import DiffusionOptions, load_restorer

    values = apply_overrides({} if device is None else {"device": device}, overrides)
    return load_restorer(run, build_config(DiffusionOptions, values, "--set"))


def _tell(ctx: click.Context, result: DeblurResult, out: Path, as_json: bool) -> None:
    """Notes, failures, counts; leave with 3 where a photograph failed."""
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
