"""Which network a state dict belongs to, told by its names and shapes alone.

A file can hold any names and shapes. What is read off here is no more than a proposal for `create_model`: whether
everything fits is found when the weights are loaded, which is strict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from relo.models.nafnet import MOST_STAGES
from relo.models.weights import without_prefix

Network = tuple[str, dict[str, Any]]

_RESTORMER_LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
_RESTORMER_EXPANSION = 2.66
_FFTFORMER_EXPANSION = 3.0
_BACKBONE = "backbone."
_KERNELS = ((3, 3, 3), (6, 3, 3))  # of a first convolution; 6 channels are an image and a short exposure


def recognise(state: Mapping[str, Tensor]) -> Network | None:
    """Tell which network a published state dict belongs to.

    Parameters
    ----------
    state : mapping of names to tensors
        Without wrappings, see `relo.models.weights.unwrap`.

    Returns
    -------
    (name, options) or None
        For `create_model`. MIMO-UNet and MIMO-UNet+ differ in depth and, in training only, in two dropouts: 8
        blocks a stage and fewer are taken for MIMO-UNet. What weights do not tell, such as the clamp of a gate,
        the range of local pooling or the side of a detector's patches, keeps its default.
    """
    state = without_prefix(state)
    found = _blurdm(state) or _network(state) or _blur_detector(state)
    # A network that wants a prior is of no use without what makes it.
    return None if found and "prior" in found[1] else found


def _network(state: Mapping[str, Tensor]) -> Network | None:
    readers = (_mimo_unet, _nafnet, _restormer, _stripformer, _fftformer, _loformer)
    return next((found for read in readers if (found := read(state))), None)


def _blurdm(state: Mapping[str, Tensor]) -> Network | None:
    """A diffusion beside one of the networks; without the length of its prior, which is always the same."""
    exposures = _shape(state, "diffusion.alphas", 1)
    backbone = {
        name.removeprefix(_BACKBONE): tensor for name, tensor in state.items() if name.startswith(_BACKBONE)
    }
    found = _network(backbone)
    if exposures is None or found is None or not found[1].get("prior"):
        return None
    name, options = found
    kept = {key: value for key, value in options.items() if key != "prior"}
    if any(key.startswith("sharp_encoder.") for key in state):
        kept["sharp_encoder"] = True
    return "blurdm", {"backbone": name, "steps": exposures[0] - 1, **kept}


def _mimo_unet(state: Mapping[str, Tensor]) -> Network | None:
    first = _shape(state, "Encoder.0.layers.0.main.0.main.0.weight", 4)
    last = _shape(state, "feat_extract.5.main.0.weight", 4)
    if first is None or last is None or last[0] not in (3, 4):
        return None
    options = {"num_res": _children(state, "Encoder.0.layers."), "width": first[0]}
    if last[0] == 4:
        return "lbag", options
    options |= _inputs(_shape(state, "feat_extract.0.main.0.weight", 4))
    options |= _prior(_shape(state, "Decoder.0.kv.weight", 2))
    return ("mimo_unet" if options["num_res"] <= 8 else "mimo_unet_plus"), options


def _nafnet(state: Mapping[str, Tensor]) -> Network | None:
    """NAFNet, or M2AENet, which has its names and more."""
    intro, ending = _shape(state, "intro.weight", 4), _shape(state, "ending.weight", 4)
    stages = _children(state, "downs.")  # a stage without blocks has no names in `encoders`
    if intro is None or ending is None or intro[1:] not in _KERNELS or ending != (3, intro[0], 3, 3):
        return None
    if not 1 <= stages <= MOST_STAGES:
        return None
    options: dict[str, Any] = {
        "width": intro[0],
        "enc_blocks": [_children(state, f"encoders.{stage}.") for stage in range(stages)],
        "middle_blocks": _children(state, "middle_blks."),
        "dec_blocks": [_children(state, f"decoders.{stage}.") for stage in range(stages)],
    }
    analyzer = _shape(state, "analyzer.weight", 4)
    if analyzer is None:
        return "nafnet", options | _inputs(intro)
    # The quadratic and the linear trajectory have 4 channels both; a learned one has 2 for each of its 9 steps.
    return "m2aenet", options | ({} if analyzer[0] == 4 else {"trajectory_form": "learned"})


def _restormer(state: Mapping[str, Tensor]) -> Network | None:
    first, last = _shape(state, "patch_embed.proj.weight", 4), _shape(state, "output.weight", 4)
    if first is None or last is None or first[1:] not in _KERNELS or last != (3, 2 * first[0], 3, 3):
        return None
    if "skip_conv.weight" in state:  # published for dual-pixel images: its six channels are no short exposure
        return None
    temperatures = [_shape(state, f"{level}.0.attn.temperature", 3) for level in _RESTORMER_LEVELS]
    widened = [_shape(state, f"{level}.0.ffn.project_in.weight", 4) for level in _RESTORMER_LEVELS]
    heads = [shape[0] for shape in temperatures if shape]
    hidden = [shape[0] // 2 for shape in widened if shape]
    if len(heads) != len(_RESTORMER_LEVELS) or len(hidden) != len(_RESTORMER_LEVELS):
        return None
    return "restormer", {
        "dim": first[0],
        "blocks": [_children(state, f"{level}.") for level in _RESTORMER_LEVELS],
        "refinement_blocks": _children(state, "refinement."),
        "heads": heads,
        "expansion": _expansion(first[0], hidden),
        "bias_free_norm": "latent.0.norm1.body.bias" not in state,
        **_inputs(first),
    }


def _stripformer(state: Mapping[str, Tensor]) -> Network | None:
    first = _shape(state, "encoder.en_layer1_1.0.weight", 4)
    if first is None or first[1:] != _KERNELS[0]:
        return None
    return "stripformer", {
        "width": first[0],
        "blocks": _children(state, "Trans_block_"),
        "decoder_blocks": _children(state, "decoder.de_block_"),
        **_prior(_shape(state, "Trans_block_1.kv.weight", 2)),
    }


def _fftformer(state: Mapping[str, Tensor]) -> Network | None:
    first, last = _shape(state, "patch_embed.proj.weight", 4), _shape(state, "output.weight", 4)
    hidden = _shape(state, "encoder_level1.0.ffn.fft", 5)
    if first is None or hidden is None or first[1:] != _KERNELS[0] or last != (3, first[0], 3, 3):
        return None
    widened = [_shape(state, f"encoder_level{level}.0.ffn.project_in.weight", 4) for level in (1, 2, 3)]
    return "fftformer", {
        "dim": first[0],
        "blocks": [_children(state, f"encoder_level{level}.") for level in (1, 2, 3)],
        "refinement_blocks": _children(state, "refinement."),
        "expansion": _expansion(first[0], [shape[0] // 2 for shape in widened if shape], _FFTFORMER_EXPANSION),
        **_prior(_shape(state, "decoder_level3.0.attn.kv.weight", 2)),
    }


def _loformer(state: Mapping[str, Tensor]) -> Network | None:
    first, last = _shape(state, "patch_embed.proj.weight", 4), _shape(state, "output.weight", 4)
    stages = ("encoders.0", "encoders.1", "encoders.2", "middle_blks")
    heads = [_shape(state, f"{stage}.0.trans1.attn.0.temperature", 3) for stage in stages]
    if first is None or first[1:] != _KERNELS[0] or last != (3, 2 * first[0], 3, 3) or None in heads:
        return None
    return "loformer", {
        "dim": first[0],
        "enc_blocks": [_children(state, f"encoders.{stage}.") for stage in range(3)],
        "middle_blocks": _children(state, "middle_blks."),
        "dec_blocks": [_children(state, f"decoders.{stage}.") for stage in range(3)],
        "heads": [shape[0] for shape in heads if shape],
        **_prior(_shape(state, "decoders.0.0.trans1.attn.0.kv.weight", 2)),
    }


def _blur_detector(state: Mapping[str, Tensor]) -> Network | None:
    first, last = _shape(state, "features.0.conv.weight", 4), _shape(state, "head.2.weight", 2)
    if first is None or last is None or first[1:] != (3, 3, 3) or last[0] != 2:
        return None
    return "exprdiff_detector", {"width": first[0]}


def _inputs(first: tuple[int, ...] | None) -> dict[str, int]:
    """Option for a network whose first convolution takes a short exposure too."""
    return {"in_channels": 6} if first and first[1:] == _KERNELS[1] else {}


def _prior(fusion: tuple[int, ...] | None) -> dict[str, int]:
    """Option for a network that a prior modulates."""
    return {"prior": fusion[1]} if fusion else {}


def _expansion(dim: int, hidden: list[int], published: float = _RESTORMER_EXPANSION) -> float:
    """Factor that, times the channels of each level and rounded down, gives its hidden channels."""
    channels = [dim << level for level in range(len(hidden))]
    if all(int(c * published) == count for c, count in zip(channels, hidden, strict=True)):
        return published
    # The least one, to six decimals: a quotient as it is may be rounded down to one channel too few.
    return math.ceil(1e6 * max(count / c for c, count in zip(channels, hidden, strict=True))) / 1e6


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...] | None:
    """Shape of a tensor, if it is there, has so many dimensions and none of them is empty."""
    tensor = state.get(name)
    if tensor is None or tensor.is_nested or tensor.ndim != dimensions or 0 in tensor.shape:
        return None
    return tuple(tensor.shape)


def _children(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different parts follow a prefix: the names there are count, not how large a number they hold."""
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})
