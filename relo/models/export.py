"""Networks as ONNX files that take images of any size, checked and compared with PyTorch.

Padding and cropping are part of the graph, so that the file alone restores an image.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from relo.errors import ConfigError, MissingExtraError, TrainingError
from relo.models.restoration import Restoration, takes_short

if TYPE_CHECKING:
    import onnx

OPSETS = (18, 23)  # first and last version of the ONNX operators that torch writes
DEFAULT_OPSET = 20
TOLERANCE = 1e-3  # between PyTorch and the file, for values of about [0, 1]
INPUT = "RGB in [0, 1], float32, (batch, 3, height, width); any batch, height and width"
# Sizes (N, H, W) to record and to compare: odd and of no common divisor, so that every padding is used. The sides
# recorded are so large that no axis inside a network has length 1, which torch.export would take for a constant: at
# an eighth of its size, LoFormer cuts an image of up to 64 px into a single window of 8 x 8 frequencies. Those
# compared are both smaller and larger, along each side: a constant in the file shows on one of them.
_RECORDED = (2, 75, 101)
_COMPARED = ((1, 130, 45), (3, 24, 114))
_AXES = ("batch", None, "height", "width")  # of the input and of every output
_ADVICE = "What it computes must not depend on the size of the image, or on values that Python asks for."
_NOISY = ("torch", "torch.fx", "torch.onnx", "onnxscript", "onnx_ir")  # loggers of steps that matter to no user


class Exported(NamedTuple):
    """What was written.

    Attributes
    ----------
    opset : int
        Version of the ONNX operators.
    outputs : tuple of str
        "image" (N, 3, H, W), not clamped; for networks with masks also "mask" (N, 1, H, W).
    difference : float or None
        Largest difference from PyTorch of any output, over two batches of other sizes than the recorded one, as a
        share of the largest value where that is above 1; None where the package onnxruntime is not installed.
    """

    opset: int
    outputs: tuple[str, ...]
    difference: float | None


def export_onnx(
    model: nn.Module, path: Path, *, opset: int = DEFAULT_OPSET, metadata: Mapping[str, str] | None = None
) -> Exported:
    """Write a network as one ONNX file with dynamic batch, height and width.

    Parameters
    ----------
    model : torch.nn.Module
        Maps (N, 3, H, W) to a `Restoration`; left as it is. It is exported as in evaluation mode, in float32, and
        where it has an attribute `pruned`, which says that only pixels of a mask are computed, without that.
    path : Path
        Written only if everything succeeds, but not atomically: to replace a file, give a temporary name.
    opset : int
        See `OPSETS`.
    metadata : mapping of str to str
        Further entries of the file's metadata; "input" tells what the network expects.

    Returns
    -------
    Exported

    Raises
    ------
    ConfigError
        There is no such opset.
    MissingExtraError
        `onnx` or `onnxscript` is not installed.
    TrainingError
        The network cannot be exported, or the file does not compute the same.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ConfigError(f"opset must be {OPSETS[0]} to {OPSETS[1]}, got {opset}")
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export")
    plain: Any = copy.deepcopy(model).cpu().float().eval()
    if hasattr(plain, "pruned"):
        plain.pruned = False
    network = _Tensors(plain)
    outputs = _outputs(network)
    with _quiet():
        file = _convert(network, outputs, opset)
    _describe(file, {"input": INPUT, **(metadata or {})})
    content = _checked(file)
    difference = _difference(network, content) if importlib.util.find_spec("onnxruntime") else None
    path.write_bytes(content)
    return Exported(opset, outputs, difference)


class _Tensors(nn.Module):
    """The network with its results as plain tensors: the image and, where there is one, the full-size mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, blur: Tensor) -> tuple[Tensor, ...]:
        restored: Restoration = self.model(blur)
        return (restored.image, *restored.masks[-1:])

    def images(self, size: tuple[int, int, int]) -> Tensor:
        """A batch to try the network with: noise, always the same."""
        batch, height, width = size
        channels = 6 if takes_short(self.model) else 3
        return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def _outputs(network: _Tensors) -> tuple[str, ...]:
    """Names of what the network gives, having run it once."""
    try:
        with torch.inference_mode():
            count = len(network(network.images(_RECORDED)))
    except Exception as error:  # whatever a network of the user's own raises
        reason = f"the network cannot be run on float32 RGB images on the CPU ({_first_line(error)})"
        raise TrainingError(reason, advice="It must map (N, 3, H, W) to a relo.models.Restoration.") from error
    return ("image", "mask")[:count]


def _convert(network: _Tensors, outputs: tuple[str, ...], opset: int) -> onnx.ModelProto:
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad():
            program = torch.export.export(
                network,
                (network.images(_RECORDED),),
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
                strict=False,
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=["blur"],
                output_names=list(outputs),
                external_data=False,
                verbose=False,
                custom_translation_table={operator.floordiv: _floor_divide},
            )
        assert exported is not None
        return exported.model_proto
    # Whatever torch raises for one of the many things that it cannot record, and a network of the user's own.
    except Exception as error:
        reason = f"the network cannot be exported to ONNX ({_first_line(error.__cause__ or error)})"
        raise TrainingError(reason, advice=_ADVICE) from error


def _floor_divide(a: Any, b: Any) -> Any:
    """Python's a // b for sizes; torch writes ONNX's division, which rounds towards 0: -(-45 // 2) would be 22."""
    from onnxscript import opset18 as op

    return op.Div(op.Sub(a, op.Mod(a, b)), b)


def _describe(file: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Name the axes, add the metadata, and remove what torch notes at each node: lines of Python files."""
    for node in file.graph.node:
        del node.metadata_props[:]
    for function in file.functions:
        for node in function.node:
            del node.metadata_props[:]
    for value in (*file.graph.input, *file.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES, strict=True):
            if name:
                axis.dim_param = name
    del file.metadata_props[:]
    for key, text in metadata.items():
        file.metadata_props.add(key=key, value=text)


def _checked(file: onnx.ModelProto) -> bytes:
    """Content of the file, which is valid ONNX."""
    import onnx

    content = file.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TrainingError(f"the exported file is no valid ONNX ({_first_line(error)})") from error
    return content


def _difference(network: _Tensors, content: bytes) -> float:
    """Largest difference between PyTorch and onnxruntime, see `Exported`.

    Raises
    ------
    TrainingError
        It is above the tolerance, onnxruntime fails, or the shapes differ.
    """
    import onnxruntime

    differences = []
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for size in _COMPARED:
            images = network.images(size)
            with torch.inference_mode():
                expected = network(images)
            for tensor, array in zip(expected, session.run(None, {"blur": images.numpy()}), strict=True):
                found = torch.from_numpy(array)
                if found.shape != tensor.shape:
                    raise ValueError(f"{tuple(found.shape)} instead of {tuple(tensor.shape)} for {size}")
                differences.append((found - tensor).abs().max() / tensor.abs().max().clamp(min=1))
    except Exception as error:  # onnxruntime raises its own errors, which are of no public class
        raise TrainingError(f"the exported file cannot be run ({_first_line(error)})", advice=_ADVICE) from error
    largest = float(torch.stack(differences).max())
    if not largest <= TOLERANCE:  # NaN too
        raise TrainingError(f"the exported file differs from PyTorch by {largest:.2g}", advice=_ADVICE)
    return largest


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what torch, onnxscript and their dependencies print, log and warn of."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # torch prints a graph that it cannot export.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
