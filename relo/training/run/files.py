"""The files of a run folder: their names, and whether a run may begin or go on in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relo.config import build_config, read_yaml
from relo.errors import TrainingError
from relo.training.checkpoint import BEST_NAME, FILE_NAME, find_weights
from relo.training.recipe import Recipe, list_recipes, what_changes_the_result
from relo.training.run.metrics_file import keep_lines_until

RECIPE = "recipe.yaml"
STAGES = "stages.yaml"  # of a run in several stages, whose folders hold the recipe of each
RUN = "run.json"
LAST = "last.ckpt"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"


def require_unused(out: Path, state: str = LAST) -> None:
    """Refuse a folder that holds a training run.

    Parameters
    ----------
    out : Path
    state : str
        Name of the file that a run of this kind is resumed from.

    Raises
    ------
    TrainingError
    """
    if (out / state).exists() or (out / FILE_NAME).exists():
        raise TrainingError(
            "holds a training run already",
            file=out,
            advice="Continue it with --resume, or give another folder (-o).",
        )


def may_resume(out: Path, state: str = LAST, advice: str = "") -> bool:
    """Whether there is something to resume; without, the folder must hold no weights that would be lost.

    Parameters
    ----------
    out : Path
    state : str
        Name of the file that a run of this kind is resumed from.
    advice : str
        What else can be done where that is missing.

    Raises
    ------
    TrainingError
        The weights are left, but not the larger file, removed for its size.
    """
    if (out / state).is_file():
        return True
    if (out / FILE_NAME).exists():
        raise TrainingError(
            f"holds weights, but no {state} to resume from",
            file=out,
            advice=f"Put it back, or give another folder (-o){advice}.",
        )
    return False


def require_same(out: Path, now: Mapping[str, Any], before: Mapping[str, Any], written_in: str) -> None:
    """Refuse to go on with a run whose settings were others.

    Parameters
    ----------
    out : Path
    now, before : mapping
        The settings that change the result.
    written_in : str
        Where the user finds those of before.

    Raises
    ------
    TrainingError
    """
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise TrainingError(
            f"was trained with another {', '.join(changed)}",
            file=out,
            advice=f"Resume with the settings in {written_in}, or give another folder (-o).",
        )


def require_same_dataset(out: Path, now: Any, before: Any) -> None:
    """Refuse to go on with a run on other data, told by fingerprints.

    Raises
    ------
    TrainingError
    """
    if now != before:
        raise TrainingError(
            "was trained on another dataset", file=out, advice="Give the same dataset, or another folder (-o)."
        )


def clear(out: Path) -> None:
    """Remove what a run that has saved no weights left behind."""
    for stale in (out / METRICS, out / BEST_NAME, *(out / SAMPLES).glob("step_*.png")):
        stale.unlink(missing_ok=True)


def resume_step(out: Path, recipe: Recipe, record: dict[str, Any]) -> int:
    """Check that `out` holds the same run, and drop the metrics that a run without the interruption would not have.

    Parameters
    ----------
    out : Path
        It has a `last.ckpt`.
    recipe : Recipe
    record : dict
        What run.json would tell about this run.

    Returns
    -------
    int
        The steps that are done.

    Raises
    ------
    TrainingError
        The run had other settings or data, or its files are damaged.
    """
    require_same_settings(out, recipe)
    try:
        earlier = json.loads((out / RUN).read_text(encoding="utf-8"))
        trained_on = _fingerprints(earlier)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(out / RUN) from error
    step = steps_done(out)
    require_same_dataset(out, _fingerprints(record), trained_on)
    if earlier.get("started_from") != record.get("started_from"):
        raise TrainingError(
            "was started from other weights than the stage before it has now",
            file=out,
            advice="Put the weights of that stage back, or remove this folder to train its stage anew.",
        )
    if step < recipe.steps:
        keep_lines_until(out / METRICS, step)
    return step


def require_same_settings(out: Path, recipe: Recipe) -> None:
    """`require_same` for the recipe that is in the run folder.

    Raises
    ------
    TrainingError
        They differ in more than how the run is carried out.
    """
    before = what_changes_the_result(build_config(Recipe, read_yaml(out / RECIPE), str(out / RECIPE)))
    written_in = f"its {RECIPE} (of a run in stages: {STAGES})"
    require_same(out, what_changes_the_result(recipe), before, written_in)


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


def steps_done(out: Path) -> int:
    """Steps after which the last checkpoint of a run was written.

    Raises
    ------
    TrainingError
        It cannot be read.
    """
    import torch

    try:
        step = int(torch.load(out / LAST, map_location="cpu", weights_only=True)["global_step"])
        if step < 1:
            raise ValueError(f"a checkpoint of {step} steps")
    # A damaged checkpoint can fail in any way its bytes happen to spell; nothing of it is executed.
    except Exception as error:
        raise _damaged(out / LAST) from error
    return step


def _damaged(path: Path) -> TrainingError:
    return TrainingError("is damaged and cannot be read", file=path, advice="Give another folder (-o).")
