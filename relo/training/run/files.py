"""The files of a run folder: their names, who may write them, and where a resumed run begins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relo.atomic import write_text
from relo.config import build_config, read_yaml
from relo.errors import TrainingError
from relo.training.checkpoint import BEST_NAME, FILE_NAME, find_weights
from relo.training.recipe import Recipe, list_recipes, what_changes_the_result

RECIPE = "recipe.yaml"
STAGES = "stages.yaml"  # of a run in several stages, whose folders hold the recipe of each
RUN = "run.json"
LAST = "last.ckpt"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"


def claim(out: Path) -> int:
    """Refuse a folder that holds trained weights; clear what a run without any left behind.

    Returns
    -------
    int
        0, the steps that are done.

    Raises
    ------
    TrainingError
        The folder holds a training run.
    """
    if (out / LAST).exists() or (out / FILE_NAME).exists():
        raise TrainingError(
            "holds a training run already",
            file=out,
            advice="Continue it with --resume, or give another folder (-o).",
        )
    for stale in (out / METRICS, out / BEST_NAME, *(out / SAMPLES).glob("step_*.png")):
        stale.unlink(missing_ok=True)
    return 0


def resume_step(out: Path, recipe: Recipe, record: dict[str, Any]) -> int:
    """Check that `out` holds the same run, and drop the metrics that a run without the interruption would not have.

    These are the lines from after the last checkpoint, and those that only the end of the run has brought about.

    Parameters
    ----------
    out : Path
    recipe : Recipe
    record : dict
        What run.json would tell about this run.

    Returns
    -------
    int
        The steps that are done; 0 where there is nothing to resume.

    Raises
    ------
    TrainingError
        The run had other settings or data, or its files are damaged.
    """
    if not (out / LAST).is_file():
        _require_no_weights(out)
        return claim(out)
    require_same_settings(out, recipe)
    try:
        earlier = json.loads((out / RUN).read_text(encoding="utf-8"))
        trained_on = _fingerprints(earlier)
        step = _steps_of(out / LAST)
    # A damaged checkpoint can fail in any way its bytes happen to spell; nothing of it is executed.
    except Exception as error:
        raise TrainingError(
            "is damaged: run.json or last.ckpt cannot be read", file=out, advice="Give another folder (-o)."
        ) from error
    if trained_on != _fingerprints(record):
        raise TrainingError(
            "was trained on another dataset",
            file=out,
            advice="Give the same dataset, or another folder (-o).",
        )
    if earlier.get("started_from") != record.get("started_from"):
        raise TrainingError(
            "was started from other weights than the stage before it has now",
            file=out,
            advice="Remove the folder to train this stage anew, or give another folder (-o).",
        )
    if step < recipe.steps:
        _drop_lines(out / METRICS, step)
    return step


def require_same_settings(out: Path, recipe: Recipe) -> None:
    """Refuse to go on with a run whose settings were others.

    Raises
    ------
    TrainingError
        They differ in more than how the run is carried out.
    """
    before = what_changes_the_result(build_config(Recipe, read_yaml(out / RECIPE), str(out / RECIPE)))
    now = what_changes_the_result(recipe)
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise TrainingError(
            f"was trained with another {', '.join(changed)}",
            file=out,
            advice=f"Resume with the settings in its {RECIPE}, of a run in stages in {STAGES} beside it, "
            "or give another folder (-o).",
        )


def _require_no_weights(out: Path) -> None:
    """Refuse to resume a run of which the weights are left, but not the larger file, removed for its size."""
    if (out / FILE_NAME).exists():
        raise TrainingError(
            f"holds weights, but no {LAST} to resume from",
            file=out,
            advice=f"Put it back, or train from these weights elsewhere: -o OTHER --set model.weights={out}.",
        )


def require_all_before(folders: Sequence[Path]) -> None:
    """Refuse to go on with a run in stages that lacks one before another that was begun.

    Raises
    ------
    TrainingError
    """
    begun = [(folder / LAST).is_file() for folder in folders]
    for index, folder in enumerate(folders):
        if not begun[index] and any(begun[index:]):
            raise TrainingError(
                f"holds no {LAST}, though a later stage was begun",
                file=folder,
                advice="Put its files back, or give another folder (-o).",
            )


def weights_file(source: str | Path) -> Path:
    """Return the file of weights to start from; of a run folder its best weights, else its last.

    Raises
    ------
    TrainingError
        There is none; the message says where to get it.
    """
    try:
        return find_weights(source)
    except TrainingError as error:
        raise TrainingError(error.reason, file=error.file, advice=_where_from(Path(source))) from None


def _where_from(path: Path) -> str:
    if path.name in list_recipes():
        return f"Train it first: relo train {path.name} SRC -o {path}; or give others: --set model.weights=PATH."
    origin = "The authors of MIMO-UNet publish it: github.com/chosj95/MIMO-UNet. " if path.suffix == ".pkl" else ""
    return f"{origin}Give a file or a run folder: --set model.weights=PATH; or null to start from none."


def _fingerprints(record: dict[str, Any]) -> list[str]:
    """Of all that a run draws from; runs of before there were sources tell of none."""
    return [part["fingerprint"] for part in (record["dataset"], *record.get("sources", ()))]


def _steps_of(checkpoint: Path) -> int:
    import torch

    step = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    if step < 1:
        raise ValueError(f"a checkpoint of {step} steps")
    return step


def _drop_lines(metrics: Path, step: int) -> None:
    if not metrics.is_file():
        return
    kept = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            wanted = line["step"] <= step and not line.get("closing")
        # What a run that was killed was just writing, after its last checkpoint.
        except (ValueError, TypeError, KeyError):
            break
        if wanted:
            kept.append(text)
    write_text(metrics, "".join(line + "\n" for line in kept))
