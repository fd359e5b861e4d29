"""`relo calibrate`: colour correction from the lightbox frames."""

from __future__ import annotations

from pathlib import Path

import click

from relo.cli.common import finish, folder, json_option, overwrite_option, say, set_option

_EPILOG = """Examples:  relo calibrate raw_dir     relo calibrate raw_dir --set colour.degree=5 --overwrite"""


@click.command(epilog=_EPILOG)
@click.argument("raw_dir", type=folder)
@click.option("--config", "config_file", type=folder, help="YAML file with settings.")
@set_option
@overwrite_option
@json_option
def command(
    raw_dir: Path, config_file: Path | None, overrides: tuple[str, ...], overwrite: bool, as_json: bool
) -> None:
    """Measure the colour casts of the session RAW_DIR from its lightbox frames.

    Writes RAW_DIR/calibration/colour.json, which 'relo process' then uses in place of the frames (they may
    be moved away), and colour.png, the frames before and after the correction.
    """
    from relo.capture.session import open_session
    from relo.config import load_config
    from relo.errors import ConfigError
    from relo.postprocess.lightbox import warnings, write_calibration
    from relo.shards.config import ProcessConfig

    config = load_config(ProcessConfig, config_file, overrides).colour
    if not config.enabled:
        raise ConfigError("colour.enabled=false leaves nothing to calibrate")
    result = write_calibration(open_session(raw_dir), config, overwrite=overwrite)
    for warning in warnings(result.casts, config):
        say(f"warning: {warning}")
    lines = ["camera, channel: alpha; left on the patches peak to peak, RMS; RMS leaving one patch out"]
    details: dict[str, object] = {"picture": str(result.picture), "cameras": {}}
    for camera, cast in sorted(result.casts.items()):
        for channel, name in enumerate(("red", "green", "blue")):
            low, high = cast.alpha_range[channel]
            lines.append(
                f"{camera} {name:6}{low:.3f} to {high:.3f}; {100 * cast.residual_peak_to_peak[channel]:.2f} %, "
                f"{100 * cast.residual_rms[channel]:.3f} %; {100 * cast.leave_one_out[channel]:.3f} %"
            )
        details["cameras"][camera] = {  # type: ignore[index]
            "degree": cast.degree,
            "alpha_range": cast.alpha_range.tolist(),
            "residual_peak_to_peak": cast.residual_peak_to_peak.tolist(),
            "residual_rms": cast.residual_rms.tolist(),
            "leave_one_out": cast.leave_one_out.tolist(),
            "green_ratio": cast.green_ratio,
            "notes": list(cast.notes),
        }
    finish(
        as_json=as_json,
        done=len(result.casts) if result.changed else 0,
        skipped=0 if result.changed else len(result.casts),
        out=result.file,
        details=details,
        lines=[*lines, f"picture: {result.picture}"],
        next_command=f"relo process {raw_dir}",
    )
