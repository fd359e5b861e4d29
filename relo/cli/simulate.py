"""`relo simulate`: a simulated session."""

from __future__ import annotations

from pathlib import Path

import click

from relo.cli.common import finish, folder, json_option, parse_size, progress_bar, set_option


@click.command(epilog="Example:  relo simulate session --scenes 2 --pairs 4 --size 538x359 --seed 11")
@click.argument("out", type=folder)
@click.option("--scenes", type=click.IntRange(1, 9999), help="Number of scenes [default: 2].")
@click.option("--pairs", type=click.IntRange(1, 9999), help="Pairs a scene [default: 4].")
@click.option("--size", "size_text", metavar="WIDTHxHEIGHT", help="Sensor size [default: 2152x1436].")
@click.option("--bits", type=click.Choice(["12", "14"]), help="Bit depth of the RAW files [default: 14].")
@click.option("--pattern", type=click.Choice(["RGGB", "BGGR", "GRBG", "GBRG"]), help="CFA pattern [default: RGGB].")
@click.option("--seed", type=click.IntRange(min=0), help="Fixes every byte [default: 0].")
@click.option("--config", "config_file", type=folder, help="YAML file with settings.")
@click.option("--preset", help="Settings that come with relo: bench, on which small networks learn in minutes.")
@set_option
@json_option
def command(
    out: Path,
    scenes: int | None,
    pairs: int | None,
    size_text: str | None,
    bits: str | None,
    pattern: str | None,
    seed: int | None,
    config_file: Path | None,
    preset: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a simulated session to the new folder OUT: real DNG files, and the truth in truth.h5.

    The hard cases are switched on by --set, for example --set highlights=true --set parallax_px=0.8.
    """
    from relo.capture.simulator import PRESETS, SimulationConfig, simulate_session
    from relo.config import load_config
    from relo.errors import ConfigError

    if preset and config_file:
        raise ConfigError("--preset and --config exclude each other", advice="Override single settings with --set.")
    if preset and preset not in PRESETS:
        raise ConfigError(f"there is no preset '{preset}'", advice=f"Known: {', '.join(PRESETS)}.")
    config_file = PRESETS[preset] if preset else config_file
    width, height = parse_size(size_text) if size_text else (None, None)
    given = {
        "scenes": scenes,
        "pairs": pairs,
        "width": width,
        "height": height,
        "bits": int(bits) if bits else None,
        "pattern": pattern,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = load_config(SimulationConfig, config_file, overrides, given)
    with progress_bar("simulating") as progress:
        simulate_session(out, config, progress=progress)
    finish(as_json=as_json, done=config.scenes * config.pairs, out=out, next_command=f"relo process {out}")
