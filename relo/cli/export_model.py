"""`relo export-model`: a checkpoint as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relo import __version__
from relo.cli import common

if TYPE_CHECKING:
    from relo.models.export import Exported

_ADVICE = "Choose another place for the file."


@click.command("export-model", epilog="Example:  relo export-model runs/lbag lbag.onnx")
@click.argument("checkpoint", type=common.folder)
@click.argument("out", type=common.folder, metavar="OUT.onnx")
@click.option("--opset", type=int, help="Version of the ONNX operators, 18 to 23. [default: 20]")
@click.option("--model", metavar="NAME", help="Network, where CHECKPOINT does not tell; FILE.py:NAME for your own.")
@common.overwrite_option
@common.json_option
def command(
    checkpoint: Path, out: Path, opset: int | None, model: str | None, overwrite: bool, as_json: bool
) -> None:
    """Write the network of CHECKPOINT, a run folder or weights file, as one ONNX file.

    It takes float32 RGB images in [0, 1] of any batch, height and width under the name "blur" and gives "image",
    not clamped, and for networks with masks "mask". The file is checked and, where the package onnxruntime is
    installed, compared with PyTorch on two batches of other sizes. A large network takes a few minutes.
    """
    from relo.atomic import require_writable, unfinished, writing_to
    from relo.errors import ConfigError
    from relo.models.export import DEFAULT_OPSET, export_onnx
    from relo.training import load_checkpoint

    if out.suffix.lower() != ".onnx":
        raise ConfigError("is no name for an ONNX file", file=out, advice="Give one that ends in .onnx.")
    if out.exists() and (out.is_dir() or not overwrite):
        raise ConfigError("is there already", file=out, advice="Give another name, or --overwrite.")
    require_writable(out.parent, _ADVICE)
    loaded = load_checkpoint(checkpoint, model=model)
    metadata = {
        "relo_version": __version__,
        "model": loaded.name,
        "options": json.dumps(loaded.options, sort_keys=True),
    }
    with writing_to(out.parent, _ADVICE), unfinished(out) as part:
        result = export_onnx(loaded.model, part, opset=DEFAULT_OPSET if opset is None else opset, metadata=metadata)
    common.finish(
        as_json=as_json,
        done=1,
        out=out,
        details={"model": loaded.name, "options": loaded.options, **result._asdict()},
        lines=_lines(loaded.name, result),
    )


def _lines(name: str, result: Exported) -> list[str]:
    lines = [f"{name}: blur (batch, 3, height, width) to {' and '.join(result.outputs)}, opset {result.opset}"]
    if result.difference is None:
        return [*lines, "not compared with PyTorch: the package onnxruntime is not installed"]
    return [*lines, f"largest difference from PyTorch, of values of about [0, 1]: {result.difference:.1e}"]
