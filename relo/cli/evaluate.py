"""`relo evaluate`: the published metrics of a checkpoint, input beside output."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relo.cli import common
from relo.cli.common import INSTANT
from relo.errors import ConfigError
from relo.training.protocols import PROTOCOLS

if TYPE_CHECKING:
    from relo.training import Checkpoint, Evaluation

# Label, decimals, and why an image may have no value.
METRICS = {
    "psnr": ("PSNR [dB]", 2, ""),
    "ssim": ("SSIM", 4, ""),
    "psnr_w": ("PSNR_w [dB]", 2, "without a mask"),
    "ssim_w": ("SSIM_w", 4, "without a mask"),
    "psnr_a": ("PSNR_a [dB]", 2, "that cannot be aligned"),
    "psnr_static": ("static [dB]", 2, "without a static area"),
    "mask_iou": ("mask IoU", 3, "without a mask"),
    "niqe": ("NIQE (lower)", 3, "too small or flat"),
    "clipiqa_plus": ("CLIPIQA+", 4, "too small"),
    "musiq_paq2piq": ("MUSIQ-PAQ2PIQ", 2, "too small"),
}
BY_SCENE = ("psnr", "psnr_w", "ssim_w", "niqe")
LABEL = max(len(label) for label, *_ in METRICS.values()) + 1
PROTOCOL_HELP = "; ".join(f"{name}: {protocol.summary}" for name, protocol in PROTOCOLS.items())


@click.command(
    "evaluate",
    epilog="Examples:  relo evaluate run raw_dir-shards   |   relo evaluate LBAG.ckpt reloblur-shards --aligned",
)
@click.argument("checkpoint", type=common.folder)
@click.argument("src", type=common.folder)
@click.option("--split", default="test", show_default=True, help="Split to score.")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="reloblur",
    show_default=True,
    help=f"Whose evaluation to follow. {PROTOCOL_HELP}.",
)
@click.option("--aligned", is_flag=True, help="Also PSNR_a, after alignment: seconds of a core for each image.")
@click.option("--model", metavar="NAME", help="Network, where CHECKPOINT does not tell; FILE.py:NAME for your own.")
@click.option("--device", help="cpu, cuda, cuda:1, …; the GPU if there is one.")
@click.option(
    "--worst",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the worst images to write as pictures.",
)
@click.option(
    "-o",
    "--out",
    type=common.folder,
    help="Folder for evaluation.csv, evaluation.json and worst/, replacing older ones. [default: the checkpoint's]",
)
@common.json_option
def command(
    checkpoint: Path,
    src: Path,
    split: str,
    protocol: str,
    aligned: bool,
    model: str | None,
    device: str | None,
    worst: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score CHECKPOINT, a run folder or weights, on SRC, a folder of shards.

    PSNR and SSIM of the blurred input and of the restored output: of whole images, weighted by the blur mask
    (PSNR_w, SSIM_w) and of the area outside of it (static); and how well a predicted mask overlaps the true one.

    Protocol exprdiff restores and scores crops instead of whole images, and adds metrics that need no sharp image:
    NIQE and, if you have installed pyiqa, CLIPIQA+ and MUSIQ-PAQ2PIQ.

    A blur detector is scored by the patches it tells right, under no protocol.
    """
    from relo.atomic import require_writable
    from relo.models.exprdiff.detector import BlurDetector
    from relo.parallel import reuse_freed_memory
    from relo.training import evaluate
    from relo.training.checkpoint import find_weights, load_checkpoint

    if str(checkpoint) == INSTANT:
        raise ConfigError(
            f"{INSTANT} cannot be scored here: it needs masks and short exposures",
            advice=f"Restore photographs with relo deblur {INSTANT}.",
        )
    out = out or find_weights(checkpoint).parent
    require_writable(out, "Choose another folder with -o.")  # before hours of work, not after
    reuse_freed_memory()
    loaded = load_checkpoint(checkpoint, model=model)
    if isinstance(loaded.model, BlurDetector):
        _score_detector(loaded, src, split, device, out, as_json)
        return
    with common.progress_bar("evaluating", quiet=as_json) as progress:
        result = evaluate(
            loaded,
            src,
            split=split,
            protocol=protocol,
            aligned=aligned,
            worst=worst,
            device=device,
            progress=progress,
        )
    result.write(out)
    content = result.to_json()
    content.pop("rows")
    common.finish(
        as_json=as_json,
        done=len(result.rows),
        out=out,
        next_command=f"relo deblur {shlex.quote(str(checkpoint))} IMAGE... -o restored",
        details=content,
        lines=[*_overall(result), *_by_scene(result, content), *(f"note: {note}" for note in result.notes)],
    )


def _score_detector(
    loaded: Checkpoint, src: Path, split: str, device: str | None, out: Path, as_json: bool
) -> None:
    """Score a blur detector, and print what was found."""
    from relo.training.detector_evaluation import evaluate_detector

    with common.progress_bar("evaluating", quiet=as_json) as progress:
        result = evaluate_detector(loaded, src, split=split, device=device, progress=progress)
    result.write(out)
    common.finish(
        as_json=as_json,
        done=len(result.images),
        out=out,
        next_command=f"relo deblur exprdiff-instant IMAGE --short SHORT --detector {shlex.quote(str(loaded.path))}",
        details=result.to_json(),
        lines=result.lines(),
    )


def _overall(result: Evaluation) -> list[str]:
    """Aligned lines: metric, input, output, gain."""
    lines = [
        f"{result.model} on split {result.split}, protocol {result.protocol}:",
        f"{'':{LABEL}}{'input':>10}{'output':>10}{'gain':>10}",
    ]
    unit = "crops" if result.crops else "images"
    for metric, (label, decimals, reason) in METRICS.items():
        if metric not in result.excluded:
            continue
        if metric in result.overall:
            line = f"{label:{LABEL}}{'':10}{_number(result.overall[metric], decimals):>10}{'':10}"
        else:
            before, after = (result.overall[f"{metric}_{side}"] for side in ("input", "output"))
            numbers = [_number(before, decimals), _number(after, decimals), _number(after - before, decimals, "+")]
            line = f"{label:{LABEL}}" + "".join(f"{number:>10}" for number in numbers)
        if result.excluded[metric]:
            line += f"   ({result.excluded[metric]} {unit} {reason} left out)"
        lines.append(line.rstrip())
    return lines


def _by_scene(result: Evaluation, content: dict[str, Any]) -> list[str]:
    """Aligned lines: scene, number of images, input and output of a few metrics; none for a single scene."""
    if len(result.scenes) < 2:
        return []
    width = max(5, *(len(scene) for scene in result.scenes))
    metrics = [metric for metric in BY_SCENE if metric in result.excluded]
    labels = [METRICS[metric][0] for metric in metrics]
    lines = [f"{'scene':{width}}{'images':>8}" + "".join(f"{label:>20}" for label in labels)]
    for scene, means in result.scenes.items():
        line = f"{scene:{width}}{content['images_by_scene'][scene]:>8}"
        for metric in metrics:
            decimals = METRICS[metric][1]
            before, after = (_number(means[f"{metric}_{side}"], decimals) for side in ("input", "output"))
            line += f"{f'{before} > {after}':>20}"
        lines.append(line)
    return lines


def _number(value: float, decimals: int, sign: str = "") -> str:
    """A number that is undefined is a dash."""
    return "-" if math.isnan(value) else f"{value:{sign}.{decimals}f}"
