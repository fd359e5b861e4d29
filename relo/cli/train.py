"""`relo train`: a recipe and shards to a run folder with a trained model."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relo.cli import common

if TYPE_CHECKING:
    from relo.training import TrainingResult


@click.command("train", epilog="Example:  relo train lbag-tiny raw_dir-shards -o run --set steps=2000")
@click.argument("recipe")
@click.argument("src", type=common.folder)
@click.option("-o", "--out", type=common.folder, help="Run folder. [default: runs/NAME of the recipe]")
@click.option("--resume", is_flag=True, help="Continue the run in the folder from its last checkpoint.")
@click.option("--seed", type=click.IntRange(min=0), help="Same as --set seed=N.")
@common.set_option
@common.json_option
def command(
    recipe: str,
    src: Path,
    out: Path | None,
    resume: bool,
    seed: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a model on the train split of SRC, a folder of shards.

    RECIPE is a name (fftformer, lbag, lbag_plus, loformer, m2aenet, mimo_unet, mimo_unet_plus, nafnet, nafnet_64,
    restormer, stripformer; blurdm_mimo_unet_plus, _stripformer, _fftformer, _loformer_s, in three stages;
    mimo_unet_short, nafnet_short, restormer_short, which see a short exposure too; exprdiff-detector, which learns
    from the masks where blur is; exprdiff, which guides a diffusion model and needs --set base=SDXL; with -tiny for
    a laptop, all but nafnet_64, mimo_unet_short and restormer_short) or a YAML file. A part of the training scenes
    is held out for validation; the test split is never touched.

    The run folder gets model.safetensors (weights of the last step), best.safetensors (of the best validation),
    metrics.jsonl, pictures of each validation in samples, and a log for TensorBoard. Ctrl-C finishes the step and
    saves; --resume goes on from there.

    Several processes or GPUs train one model under torchrun:

    torchrun --nproc-per-node 2 -m relo train lbag SRC
    """
    from relo.parallel import reuse_freed_memory
    from relo.training import list_recipes, load_recipe, train
    from relo.training.diffusion.recipe import RECIPES, is_diffusion_recipe
    from relo.training.recipe import unknown_recipe
    from relo.training.run.distributed import Processes

    known = (*list_recipes(), *RECIPES)
    if recipe not in known and not recipe.endswith((".yaml", ".yml")):
        raise unknown_recipe(recipe, known)
    overrides = (*overrides, *([] if seed is None else [f"seed={seed}"]))
    if is_diffusion_recipe(recipe):
        _train_guide(recipe, src, out, resume, overrides, as_json)
        return
    first = Processes.of_torchrun().is_first
    settings = load_recipe(recipe, overrides)
    out = out or Path("runs") / settings.name
    reuse_freed_memory()
    try:
        with common.progress_bar("training", quiet=as_json or not first) as progress:
            announce = common.say if first and not as_json else None
            result = train(settings, src, out, resume=resume, progress=progress, announce=announce)
    except KeyboardInterrupt:
        if first:
            _say_what_was_saved(out)
        raise
    if not first:
        return
    validation = {name: round(value, 4) for name, value in result.validation.items() if math.isfinite(value)}
    loss = None if math.isnan(result.loss) else round(result.loss, 6)
    speed = None if math.isnan(result.steps_per_second) else round(result.steps_per_second, 3)
    common.finish(
        as_json=as_json,
        done=result.steps,
        out=result.run,
        next_command=shlex.join(["relo", "evaluate", str(result.run), str(src)]),
        details={
            "loss": loss,
            "steps_per_second": speed,
            "validation": validation,
            "last": str(result.checkpoint),
            "best": None if result.best is None else str(result.best),
            "notes": list(result.notes),
        },
        lines=_lines(result, validation, loss),
    )


def _train_guide(
    recipe: str, src: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Train what guides a diffusion model; no network that `relo evaluate` could restore images with."""
    from relo.parallel import reuse_freed_memory
    from relo.training.diffusion.recipe import load_diffusion_recipe
    from relo.training.diffusion.trainer import train_exprdiff

    settings = load_diffusion_recipe(recipe, overrides)
    out = out or Path("runs") / settings.name
    reuse_freed_memory()
    try:
        with common.progress_bar("training", quiet=as_json) as progress:
            announce = None if as_json else common.say
            result = train_exprdiff(settings, src, out, resume=resume, progress=progress, announce=announce)
    except KeyboardInterrupt:
        _say_what_was_saved(out)
        raise
    loss = None if math.isnan(result.loss) else round(result.loss, 6)
    command = ["relo", "deblur", str(result.run), "PHOTO", "--short", "SHORT", "--mask-from", "MASK", "-o", "DIR"]
    common.finish(
        as_json=as_json,
        done=result.steps,
        out=result.run,
        next_command=shlex.join(command),
        details={
            "loss": loss,
            "steps_per_second": None if math.isnan(result.steps_per_second) else round(result.steps_per_second, 3),
            "last": str(result.checkpoint),
            "notes": list(result.notes),
        },
        lines=[
            f"trained {result.steps} steps" + ("" if loss is None else f", last loss {loss}"),
            f"weights: {result.checkpoint}",
            *(f"note: {note}" for note in result.notes),
        ],
    )


def _say_what_was_saved(out: Path) -> None:
    if any(out.rglob("last.*")):
        common.say("Stopped after a whole step. Add --resume to the command to continue.")


def _lines(result: TrainingResult, validation: dict[str, float], loss: float | None) -> list[str]:
    lines = [f"trained {result.steps} steps" + ("" if loss is None else f", last loss {loss}")]
    if {"psnr_w", "psnr_w_input"} <= validation.keys():
        gain = validation["psnr_w"] - validation["psnr_w_input"]
        lines.append(f"validation: PSNR_w {validation['psnr_w']:.2f} dB, {gain:+.2f} dB over the input")
    if {"accuracy", "majority"} <= validation.keys():
        shares = ", ".join(
            f"{name} {validation[name]:.4f}" for name in ("precision", "recall") if name in validation
        )
        lines.append(
            f"validation: patch accuracy {validation['accuracy']:.4f}, "
            f"of saying the same of all {validation['majority']:.4f}" + (f"; {shares}" if shares else "")
        )
    lines.append(f"last weights: {result.checkpoint}")
    if result.best is not None:
        lines.append(f"best weights: {result.best}")
    lines.append(f"curves and pictures: {shlex.join(['tensorboard', '--logdir', str(result.run)])}")
    return lines + [f"note: {note}" for note in result.notes]
