"""`relo train`: a recipe and shards to a run folder with a trained model."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import click

from relo.cli import common


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

    RECIPE is a name (lbag, lbag-tiny, mimo_unet, mimo_unet-tiny) or a YAML file. A part of the training
    scenes is held out for validation; the test split is never touched.
    """
    from relo.training import load_recipe, train

    settings = load_recipe(recipe, [*overrides, *([] if seed is None else [f"seed={seed}"])])
    out = out or Path("runs") / settings.name
    try:
        with common.progress_bar("training", quiet=as_json) as progress:
            result = train(settings, src, out, resume=resume, progress=progress)
    except KeyboardInterrupt:
        common.say("Stopped after a whole step. Add --resume to the command to continue.")
        raise
    validation = {name: round(value, 4) for name, value in result.validation.items() if math.isfinite(value)}
    loss = None if math.isnan(result.loss) else round(result.loss, 6)
    lines = [f"trained {result.steps} steps" + ("" if loss is None else f", last loss {loss}")]
    if {"psnr_w", "psnr_w_input"} <= validation.keys():
        gain = validation["psnr_w"] - validation["psnr_w_input"]
        lines.append(f"validation: PSNR_w {validation['psnr_w']:.2f} dB, {gain:+.2f} dB over the input")
    common.finish(
        as_json=as_json,
        done=result.steps,
        out=result.run,
        next_command=shlex.join(["relo", "evaluate", str(result.run), str(src)]),
        details={"loss": loss, "validation": validation, "notes": list(result.notes)},
        lines=lines + [f"note: {note}" for note in result.notes],
    )
