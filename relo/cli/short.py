"""`relo short`: synthetic short exposures for shards, or for a folder in the ReLoBlur layout."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from relo.cli import common
from relo.errors import EXIT_PARTIAL, ConfigError, ShardError

if TYPE_CHECKING:
    import h5py

    from relo.capture.session import Problem
    from relo.postprocess.short import ShortExposureConfig
    from relo.progress import Progress
    from relo.shards import Shard
    from relo.shards.layouts.reloblur import LayoutPair

_PARAMETERS_FILE = "short.json"
_EPILOG = "Example:  relo short raw_dir-shards --model physical --set 'ratio=[0.05,0.2]'"


class _Outcome(NamedTuple):
    out: Path
    done: int
    skipped: int
    problems: list[Problem]
    next_command: str | None


@click.command("short", epilog=_EPILOG)
@click.argument("src", type=common.folder)
@click.argument("out", type=common.folder, required=False)
@click.option("--model", type=click.Choice(["hsv", "physical"]), help="How they are made; hsv if not given.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting, for example --set brighten=0.5. May be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--overwrite", is_flag=True, help="Make again what was made before.")
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    src: Path,
    out: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make synthetic short exposures from the sharp frames of SRC.

    SRC is a dataset folder or a shard: /short and its numbers in /pairs are replaced, in place or in a copy in the
    folder OUT. Or it is a folder in the ReLoBlur layout (dataset/train/s01/01/00_sharp.png): images go to
    OUT/short/train/s01/01/00.png, beside the folder 'dataset' if OUT is not given, the parameters of each to
    OUT/short/short.json. What was made with the same settings is kept.
    """
    from relo.config import load_config
    from relo.postprocess.short import ShortExposureConfig
    from relo.shards.layouts.reloblur import is_layout
    from relo.shards.schema import DATASET_FILE

    config = load_config(ShortExposureConfig, None, overrides, {"model": model} if model else {})
    if not config.enabled:
        raise ConfigError("--set enabled=false leaves nothing to do")
    with common.progress_bar("short exposures", quiet=as_json) as progress:
        if (src / DATASET_FILE).is_file() or src.is_file():
            outcome = _short_of_shards(src, out, config, seed, overwrite, progress)
        elif is_layout(src):
            outcome = _short_of_layout(src, out, config, seed, overwrite, progress)
        else:
            reason = "is neither a dataset folder nor laid out like ReLoBlur" if src.is_dir() else "does not exist"
            advice = "Give what 'relo process' has made, or a folder that holds dataset/train/s01/01/00_sharp.png."
            raise ShardError(reason, file=src, advice=advice)
    for problem in outcome.problems:
        common.say(f"quarantined: {problem.scene}/{problem.pair}: {problem}")
    common.finish(
        as_json=as_json,
        done=outcome.done,
        skipped=outcome.skipped,
        quarantined=len(outcome.problems),
        out=outcome.out,
        lines=["everything was done before; nothing to do"] if outcome.skipped and not outcome.done else [],
        details={"model": config.model, "seed": seed},
        next_command=outcome.next_command,
    )
    if outcome.problems:
        ctx.exit(EXIT_PARTIAL)


def _settings(config: ShortExposureConfig, seed: int) -> dict[str, Any]:
    """What decides the short exposures of given sharp frames."""
    return {"seed": seed, **config.model_dump(mode="json", exclude={"enabled"})}


def _short_of_shards(
    src: Path, out: Path | None, config: ShortExposureConfig, seed: int, overwrite: bool, progress: Progress
) -> _Outcome:
    from relo.config import canonical_json
    from relo.shards import open_dataset
    from relo.shards.rewrite import rewrite_shards

    settings = canonical_json(_settings(config, seed))
    total = len(open_dataset(src))
    done = 0

    def step(what: str, pairs: int = 1) -> None:
        nonlocal done
        done += pairs
        progress(done, total, what)

    def edit(file: h5py.File, shard: Shard) -> None:
        _store_short(file, shard, config, seed, step)
        file.attrs["short_config"] = settings

    def made_before(shard: Shard) -> bool:
        same = not overwrite and "short" in shard.file and shard.attrs.get("short_config") == settings
        if same:
            step(shard.scene, shard.count)
        return same

    result = rewrite_shards(src, out, edit, skip=made_before)
    made = result.shards[0] if src.is_file() else result.out
    following = "inspect" if src.is_file() else "report"
    return _Outcome(made, result.done, result.skipped, [], f"relo {following} {shlex.quote(str(made))}")


def _store_short(
    file: h5py.File, shard: Shard, config: ShortExposureConfig, seed: int, step: Callable[[str], None]
) -> None:
    """Replace /short and its columns of /pairs in the open copy `file` of `shard`."""
    from relo.postprocess.short import draw_parameters, exposure_ratio, pair_generator, short_exposure
    from relo.shards import Sample, tiles
    from relo.shards.rewrite import set_columns

    if "short" not in file:
        tiles.create_images(file, "short", shard.size, file["sharp"].dtype, shard.count)
    columns: dict[str, list[float]] = {}
    for index in range(shard.count):
        sample = Sample(shard, index)
        row = sample.row
        rng = pair_generator(seed, sample.scene, sample.id)
        known = exposure_ratio(row.get("t_long"), row.get("t_short"))
        parameters = draw_parameters(config, rng, exposure_ratio=known)
        tiles.write_image(file["short"], index, short_exposure(sample.sharp, rng, **parameters.keywords()))
        for name, value in parameters.columns().items():
            columns.setdefault(name, []).append(value)
        step(f"{sample.scene}/{sample.id}")
    set_columns(file, columns)


def _short_of_layout(
    src: Path, out: Path | None, config: ShortExposureConfig, seed: int, overwrite: bool, progress: Progress
) -> _Outcome:
    from relo import atomic, locks
    from relo.capture.session import Problem
    from relo.images import ImageError, read_image, write_image
    from relo.postprocess.short import draw_parameters, pair_generator, short_exposure
    from relo.shards.layouts.reloblur import base_folder, find_pairs, short_path

    pairs, problems = find_pairs(src)
    out = base_folder(src) if out is None else out
    folder = out / "short"
    drawn = {pair: draw_parameters(config, pair_generator(seed, pair.scene, pair.id)) for pair in pairs}
    done = skipped = 0
    with (
        atomic.writing_to(folder, "Mend that and run the same command again: it continues."),
        locks.locked(folder),
    ):
        if overwrite:
            for pair in pairs:
                short_path(pair, out).unlink(missing_ok=True)
        else:
            _refuse_other_settings(folder, _settings(config, seed))
        # First, so that a run that is stopped leaves no image of which nobody knows how it was made.
        _write_parameters(folder, config, seed, drawn)
        for number, pair in enumerate(pairs, 1):
            target = short_path(pair, out)
            if target.is_file():
                skipped += 1
                continue
            rng = pair_generator(seed, pair.scene, pair.id)
            draw_parameters(config, rng)  # the noise is drawn from where this leaves the generator
            try:
                sharp = read_image(pair.sharp)
            except ImageError as error:
                problems.append(Problem.from_error(error, pair.sharp, pair.scene, pair.id, "read"))
                del drawn[pair]
            else:
                write_image(target, short_exposure(sharp, rng, **drawn[pair].keywords()))
                done += 1
            progress(number, len(pairs), f"{pair.split}/{pair.scene}/{pair.id}")
        _write_parameters(folder, config, seed, drawn)
    return _Outcome(folder, done, skipped, problems, None)


def _refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Images of two kinds must not be mixed: only those of the same settings are added to."""
    path = folder / _PARAMETERS_FILE
    advice = "Give another output folder, or --overwrite."
    if not path.is_file():
        if any(path.name[0] != "." for path in folder.iterdir()):
            raise ConfigError(f"holds files but no {_PARAMETERS_FILE}", file=folder, advice=advice)
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("is damaged", file=path, advice=advice) from error
    if earlier != settings:
        keys = [key for key in settings if not isinstance(earlier, dict) or earlier.get(key) != settings[key]]
        raise ConfigError(f"was made with other settings ({', '.join(keys)})", file=path, advice=advice)


def _write_parameters(folder: Path, config: ShortExposureConfig, seed: int, drawn: dict[LayoutPair, Any]) -> None:
    """Write settings and the parameters of each pair to `short.json`."""
    from dataclasses import asdict

    from relo import atomic

    pairs = {
        f"{pair.split}/{pair.scene}/{pair.id}": {k: v for k, v in asdict(parameters).items() if v is not None}
        for pair, parameters in drawn.items()
    }
    content = {"settings": _settings(config, seed), "pairs": pairs}
    atomic.write_text(folder / _PARAMETERS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
