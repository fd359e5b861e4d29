"""`relo models`: what networks there are."""

from __future__ import annotations

import click

from relo.cli import common


@click.command("models", epilog="Example:  relo models")
@common.json_option
def command(as_json: bool) -> None:
    """List the networks with their parameter counts and their published results on the ReLoBlur test set."""
    from relo.models import list_models, model_info

    infos = [model_info(name) for name in list_models()]
    columns = (("psnr", 2), ("ssim", 4), ("psnr_w", 2), ("ssim_w", 4), ("psnr_a", 2))
    lines = [f"{'name':<16}{'parameters':>12}{'PSNR':>8}{'SSIM':>8}{'PSNR_w':>8}{'SSIM_w':>8}{'PSNR_a':>8}  source"]
    for info in infos:
        numbers = "".join(
            f"{info.published[key]:>8.{digits}f}" if key in info.published else f"{'-':>8}"
            for key, digits in columns
        )
        lines.append(f"{info.name:<16}{info.parameters:>12,}{numbers}  {info.source}")
    lines.append(
        "Scores: Li et al. 2023, table 1 (mimo_unet, lbag); the M2AENet paper, table 1, with newer masks (others)."
    )
    common.finish(
        as_json=as_json,
        done=len(infos),
        next_command="relo train lbag SHARDS",
        details={
            "models": [
                {
                    "name": info.name,
                    "parameters": info.parameters,
                    "source": info.source,
                    "published": info.published,
                }
                for info in infos
            ]
        },
        lines=lines,
    )
