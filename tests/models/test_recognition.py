"""The network is told by names and shapes; whatever else a file holds is no network, and costs nothing."""

import time
import warnings

import pytest
import torch

from relo.models import create_model, load_weights
from relo.models.recognition import recognise

NAFNET = {"width": 4, "enc_blocks": [1, 2, 0], "middle_blocks": 3, "dec_blocks": [1, 0, 2]}
RESTORMER = {
    "dim": 8, "blocks": [1, 2, 1, 3], "refinement_blocks": 2, "heads": [1, 2, 2, 4], "expansion": 2.66,
    "bias_free_norm": False,
}  # fmt: skip
NETWORKS = [
    ("mimo_unet", {"num_res": 8, "width": 4}),
    ("mimo_unet_plus", {"num_res": 20, "width": 2}),
    ("lbag", {"num_res": 3, "width": 6}),
    ("nafnet", NAFNET),
    ("nafnet", NAFNET | {"enc_blocks": [1], "middle_blocks": 0, "dec_blocks": [1]}),
    ("m2aenet", NAFNET | {"enc_blocks": [1, 0, 2]}),
    ("m2aenet", NAFNET | {"enc_blocks": [1, 0, 2], "trajectory_form": "learned"}),
    ("restormer", RESTORMER),
    ("restormer", RESTORMER | {"bias_free_norm": True, "refinement_blocks": 0}),
]


def state_of(name, **options):
    with torch.device("meta"):
        return create_model(name, **options).state_dict()


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_network_and_its_options_are_told(name, options, prefix):
    state = {prefix + key: tensor for key, tensor in state_of(name, **options).items()}
    assert recognise(state) == (name, options)


@pytest.mark.parametrize("name", ["nafnet", "m2aenet", "restormer", "mimo_unet", "mimo_unet_plus", "lbag"])
def test_published_sizes_are_told(name):
    state = state_of(name)
    found = recognise(state)
    assert found is not None and found[0] == name
    assert {key: tensor.shape for key, tensor in state_of(*found[:1], **found[1]).items()} == {
        key: tensor.shape for key, tensor in state.items()
    }


@pytest.mark.parametrize("expansion", [1.0, 2.0, 2.3, 2.659, 3.14159, 4.0])
@pytest.mark.parametrize("dim", [6, 48])
def test_another_expansion_gives_the_same_shapes(expansion, dim):
    options = RESTORMER | {"dim": dim, "heads": [1, 1, 1, 1], "expansion": expansion}
    state = state_of("restormer", **options)
    found = recognise(state)
    assert found is not None
    assert {key: tensor.shape for key, tensor in state_of("restormer", **found[1]).items()} == {
        key: tensor.shape for key, tensor in state.items()
    }


def nested():
    with warnings.catch_warnings():  # that torch may change them
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(3, 3, 3), torch.zeros(2, 3, 3)])


ODD = {
    "a number": torch.tensor(1.0),
    "a vector": torch.zeros(4),
    "nothing": torch.zeros(0, 3, 3, 3),
    "other sides": torch.zeros(5, 2, 3, 3),
    "sparse": torch.zeros(4, 3, 3, 3).to_sparse(),
    "nested": nested(),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    ("name", "options", "telling"),
    [
        (
            "mimo_unet",
            {"num_res": 1, "width": 2},
            ["Encoder.0.layers.0.main.0.main.0.weight", "feat_extract.5.main.0.weight"],
        ),
        ("nafnet", NAFNET, ["intro.weight", "ending.weight"]),
        ("m2aenet", NAFNET | {"enc_blocks": [1, 1, 1]}, ["intro.weight", "analyzer.weight"]),
        (
            "restormer",
            RESTORMER,
            [
                "patch_embed.proj.weight",
                "output.weight",
                "latent.0.attn.temperature",
                "encoder_level2.0.ffn.project_in.weight",
            ],
        ),
    ],
)
def test_odd_tensors_are_no_network_or_fail_to_load(odd, name, options, telling):
    """None, or a proposal that the strict loading refuses: nothing in between."""
    from relo.errors import ConfigError, TrainingError

    state = create_model(name, **options).state_dict()
    for key in telling:
        for changed in (state | {key: ODD[odd]}, {other: state[other] for other in state if other != key}):
            found = recognise(changed)
            if found is not None:
                with pytest.raises((ConfigError, TrainingError)):
                    load_weights(create_model(found[0], **found[1]), changed)


def test_strangers_are_not_recognised():
    assert recognise({}) is None
    assert recognise({"weight": torch.zeros(3)}) is None
    gray = {"intro.weight": torch.zeros(4, 1, 3, 3), "ending.weight": torch.zeros(1, 4, 3, 3)}
    assert recognise(gray | {"downs.0.weight": torch.zeros(8, 4, 2, 2)}) is None
    dual_pixel = state_of("restormer", **RESTORMER)
    dual_pixel["patch_embed.proj.weight"] = torch.zeros(8, 6, 3, 3)
    dual_pixel["skip_conv.weight"] = torch.zeros(16, 8, 1, 1)
    assert recognise(dual_pixel) is None


@pytest.mark.parametrize(
    ("name", "options", "huge"),
    [
        ("nafnet", NAFNET, "encoders.0.999999999999.beta"),
        ("nafnet", NAFNET, "encoders.999999999999.0.beta"),
        ("restormer", RESTORMER, "latent.999999999999.attn.temperature"),
        ("lbag", {"num_res": 1, "width": 2}, "Encoder.0.layers.999999999999.main.0.main.0.weight"),
    ],
)
def test_huge_numbers_in_names_are_counted_as_one(name, options, huge):
    state = create_model(name, **options).state_dict() | {huge: torch.zeros(1)}
    found = recognise(state)
    assert found is not None and found[0] == name
    numbers = [number for value in found[1].values() for number in (value if isinstance(value, list) else [value])]
    assert max(numbers) <= 8


def test_many_names_take_no_longer_than_they_are_many():
    state = state_of("nafnet", **NAFNET)
    state |= {f"downs.{number}.weight": torch.zeros(1) for number in range(100_000)}
    start = time.process_time()
    assert recognise(state) is None, "no network has so many stages"
    assert time.process_time() - start < 2
