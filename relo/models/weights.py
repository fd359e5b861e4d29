"""Reading weights: safetensors and pickled torch files, published wrappings; nothing in a file is executed.

A pickled file is only ever read with `weights_only=True`, which builds tensors and plain containers
and refuses everything else.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from relo.errors import TrainingError

# Published wrappings: {"model": sd}, {"state_dict": {"model": sd}}, {"params": sd}; where a file holds both the
# moving average and the last weights, the published scores are those of the average.
WRAPPERS = ("state_dict", "model", "params_ema", "params")
# Published files of BlurDM hold a network in parts; each has its place in relo's.
PARTS = {"model_state": "backbone.", "model_dm_state": "diffusion.", "model_le_state": "sharp_encoder."}
# Left by data-parallel training, and by the trainer that writes last.ckpt. Where that holds averaged weights beside
# the last ones, the average is what is validated and saved.
PREFIXES = ("module.", "average.", "model.")


@runtime_checkable
class WarmStarting(Protocol):
    """A network that may start from the weights of a simpler one.

    `lbag` from MIMO-UNet+ ("LBAG+", Li et al. 2023, table 3), all but its six head tensors; `m2aenet` from NAFNet.
    """

    def untrained_names(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of this network's tensors that keep their initial values; empty for a state dict of its own."""
        ...


@runtime_checkable
class Renaming(Protocol):
    """A network that may be given the weights of a part of it, as `blurdm` those of its backbone."""

    def own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Bring a state dict to the names of this network, and leave out what it has no use for."""
        ...


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Put published or own weights into `model`, strictly.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place, only if everything fits.
    source : path or mapping
        A safetensors or pickled torch file, or a state dict; `model`, `state_dict.model`, `params` and
        `params_ema` wrappings and a `module.` or `model.` prefix are taken off. Of BlurDM's files `model_state`,
        `model_dm_state` and `model_le_state` are its backbone, diffusion and sharp encoder; each of these modules
        by itself takes its part of such a file.

    Returns
    -------
    tuple of str
        Names of parameters that keep their initial values: empty, except where a network starts from the weights
        of a simpler one, see `WarmStarting`.

    Raises
    ------
    TrainingError
        The file cannot be read safely, its names or shapes differ (the first differing names are given), it
        holds NaN or infinite weights, or tensors that are sparse, nested, quantised, complex or on the meta device.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    state = unwrap(source) if isinstance(source, Mapping) else read_state_dict(Path(source))
    expected = model.state_dict()
    if not state.keys() & expected.keys():  # a network may itself have names that begin so
        state = without_prefix(state)
    if not state.keys() & expected.keys():
        state = _part_with(expected, state)
    if isinstance(model, Renaming):
        state = dict(model.own_names(state))
    unusual = next((name for name, tensor in state.items() if not _is_plain(tensor, expected.get(name))), None)
    if unusual:
        raise TrainingError(
            f"{unusual} is sparse, nested, quantised, complex, of whole numbers or without values",
            file=path,
            advice="Save its state dict as plain real tensors.",
        )
    kept = model.untrained_names(state) if isinstance(model, WarmStarting) else ()
    state = {name: tensor for name, tensor in state.items() if name not in kept}
    wanted = {name: tensor for name, tensor in expected.items() if name not in kept}
    problem = _difference(wanted, state)
    if problem:
        raise TrainingError(
            f"weights do not fit this network: {problem}",
            file=path,
            advice="Choose the model and options they were trained with.",
        )
    broken = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise TrainingError(
            f"{broken} holds NaN or infinite weights",
            file=path,
            advice="Take an earlier checkpoint of that training.",
        )
    model.load_state_dict(state, strict=not kept)
    return kept


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, on the CPU.

    Raises
    ------
    TrainingError
        The file is missing, truncated, of another kind, or holds Python objects.
    """
    if not path.is_file():
        raise TrainingError("does not exist", file=path, advice="Give a .safetensors, .pkl, .pt or .ckpt file.")
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():  # torch tells of old ways of writing, which it reads all the same
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle can fail in any way its bytes happen to spell; nothing of it is executed.
    except Exception as error:
        raise TrainingError(
            "holds no readable tensors: damaged, no weights file, or Python objects, which are never loaded",
            file=path,
            advice="Download it again, or save its state dict as safetensors.",
        ) from error
    if not isinstance(content, Mapping):
        raise TrainingError(f"holds a {type(content).__name__}, expected a state dict", file=path)
    try:
        return unwrap(content)
    except TrainingError as error:
        raise TrainingError(error.reason, file=path) from error


def unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take the published wrappings off a state dict.

    Raises
    ------
    TrainingError
        What is inside is not a mapping of names to tensors.
    """
    opened = 0
    while not any(isinstance(value, Tensor) for value in content.values()):
        # A pickle can make a mapping hold itself: no published file has more than two wrappings.
        if opened == len(WRAPPERS):
            raise TrainingError("no state dict inside, only wrappings")
        opened += 1
        parts = {part: content[part] for part in PARTS if isinstance(content.get(part), Mapping)}
        if parts:
            content = _joined(parts)
            continue
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            keys = ", ".join(map(str, list(content)[:5])) or "none"
            raise TrainingError(f"no state dict inside (keys: {keys})")
        content = inner
    state = {str(name): value for name, value in content.items()}
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise TrainingError(f"'{strangers[0]}' is not a tensor")
    return state


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One state dict of the parts of BlurDM; a backbone alone keeps its own names."""
    if parts.keys() == {"model_state"}:
        return dict(parts["model_state"])
    return {PARTS[part] + name: value for part in parts for name, value in without_prefix(parts[part]).items()}


def _part_with(expected: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the weights of a BlurDM, the part of the expected names; `state` where it is none or has no such part."""
    if not all(name.startswith(tuple(PARTS.values())) for name in state):
        return state
    for prefix in PARTS.values():
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if part.keys() & expected.keys():
            return part
    return state


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what data-parallel training or relo's trainer has put before every name; the first prefix wins."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in state) and all(name.startswith(PREFIXES) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return dict(state)


def is_safetensors(path: Path) -> bool:
    """Whether a file is, by its name or its first bytes, a safetensors file."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return path.suffix == ".safetensors" or head[8:9] == b"{"


def _is_plain(tensor: Tensor, wanted: Tensor | None) -> bool:
    return (
        not tensor.is_nested
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_quantized
        and not tensor.is_complex()
        # Integers would be converted silently, and most weights become 0.
        and (wanted is None or tensor.is_floating_point() == wanted.is_floating_point())
    )


def _difference(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
        if names
    ]
    return "; ".join(parts)
