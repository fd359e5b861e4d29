"""`relo demo`: the whole line on a simulated session, in a few minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from relo.cli.common import finish, folder, json_option, overwrite_option, progress_bar, say, say_that_it_compiles
from relo.errors import ConfigError

_OURS = ("session", "shards", "run", "evaluation", "photo", "deblurred")


@click.command(epilog="Example:  relo demo")
@click.argument("out", type=folder, default="relo-demo")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the session.")
@click.option("--steps", type=click.IntRange(min=1), default=800, show_default=True, help="Training steps.")
@overwrite_option
@json_option
def command(out: Path, seed: int, steps: int, overwrite: bool, as_json: bool) -> None:
    """Simulate, process, train briefly, evaluate, deblur and report in the folder OUT; no downloads.

    Each step is one verb of relo, and the line that runs it by hand is printed.
    """
    from relo.capture.simulator import PRESETS, SimulationConfig, simulate_session
    from relo.config import load_config
    from relo.images import write_image
    from relo.report import write_report
    from relo.shards import ProcessConfig, open_dataset, process_session
    from relo.training import deblur_files, evaluate, load_recipe, train

    session, shards, run, scores, photo, deblurred = (out / name for name in _OURS)
    _claim(out, overwrite)

    say(f"$ relo simulate {session} --preset bench --scenes 3 --pairs 6 --seed {seed}")
    with progress_bar("simulating") as progress:
        config = load_config(SimulationConfig, PRESETS["bench"], given={"scenes": 3, "pairs": 6, "seed": seed})
        simulate_session(session, config, progress=progress)

    say(f"$ relo process {session} {shards} --split test=scene_02")
    with progress_bar("processing") as progress:
        split: dict[str, float | list[str]] = {"test": ["scene_02"]}
        processed = process_session(
            session, shards, ProcessConfig(split=split), progress=progress, announce=say_that_it_compiles
        )
    with progress_bar("report") as progress:
        report = write_report(shards, progress=progress)

    # Two training scenes are too few to set one aside; a shorter run lowers its rate earlier.
    recipe = load_recipe("lbag-tiny")
    milestones = sorted({max(1, step * steps // recipe.steps) for step in recipe.milestones})
    settings = ["val_fraction=0", f"steps={steps}", f"milestones={milestones}".replace(" ", "")]
    say(f"$ relo train lbag-tiny {shards} -o {run}{''.join(f' --set {setting}' for setting in settings)}")
    with progress_bar("training") as progress:
        training = train(load_recipe("lbag-tiny", settings), shards, run, progress=progress)

    say(f"$ relo evaluate {run} {shards} -o {scores}")
    with progress_bar("evaluating") as progress:
        evaluation = evaluate(run, shards, progress=progress)
    evaluation.write(scores)

    sample = open_dataset(shards, split="test")[0]
    write_image(photo / "blurred.png", sample.blur)
    say(f"$ relo deblur {run} {photo / 'blurred.png'} -o {deblurred}")
    with progress_bar("deblurring") as progress:
        restored = deblur_files(run, [photo / "blurred.png"], deblurred, progress=progress)

    overall = evaluation.overall
    lines = [
        f"{name:7}{overall[key + '_input']:8.3f} -> {overall[key + '_output']:8.3f}   blurred input -> restored"
        for name, key in (("PSNR", "psnr"), ("SSIM", "ssim"), ("PSNR_w", "psnr_w"), ("SSIM_w", "ssim_w"))
    ]
    lines += [f"shards:     {shards}", f"checkpoint: {training.checkpoint}", f"report:     {report}"]
    lines += [f"photograph: {path}" for path in restored.written]
    finish(
        as_json=as_json,
        done=processed.done,
        quarantined=len(processed.quarantined),
        failed=processed.failed,
        out=out,
        details={
            "shards": str(shards),
            "checkpoint": str(training.checkpoint),
            "report": str(report),
            "evaluation": evaluation.to_json()["overall"],
        },
        lines=lines,
        next_command="relo process YOUR_SESSION   (docs/sessions.md says how its folders look)",
    )


def _claim(out: Path, overwrite: bool) -> None:
    """Make `out` an empty folder; only what a demo has written is ever removed from it."""
    if out.exists() and not out.is_dir():
        raise ConfigError("is a file, the demo needs a folder", file=out)
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if there and not overwrite:
        raise ConfigError("is not empty", file=out, advice="Give another folder, or --overwrite.")
    if set(there) - set(_OURS):
        raise ConfigError(
            f"holds other files ({', '.join(sorted(set(there) - set(_OURS))[:3])})",
            file=out,
            advice="Give another folder.",
        )
    for name in there:
        shutil.rmtree(out / name)
