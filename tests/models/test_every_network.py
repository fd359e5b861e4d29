"""What every restoring network must do, each in a small form: a new network is one line of `NETWORKS`."""

import pytest
import torch
from support.named_weights import named_weights

from relo.errors import ConfigError
from relo.models import create_model, list_models, load_weights, model_options

NETWORKS = {
    "mimo_unet": {"num_res": 1, "width": 4, "prior": 16},
    "mimo_unet_plus": {"num_res": 1, "width": 4},
    "lbag": {"num_res": 1, "width": 4},
    "nafnet": {
        "width": 4, "enc_blocks": [1, 0, 2], "middle_blocks": 1, "dec_blocks": [1, 2, 1], "local_pooling": 8,
    },
    "restormer": {"dim": 8, "blocks": [1, 2, 1, 1], "refinement_blocks": 2, "heads": [1, 2, 2, 4]},
    "m2aenet": {"width": 4, "enc_blocks": [1, 1], "middle_blocks": 1, "dec_blocks": [1, 1]},
    "stripformer": {"width": 4, "blocks": 2, "decoder_blocks": 2, "prior": 16},
    "fftformer": {"dim": 6, "blocks": [1, 2, 1], "refinement_blocks": 1, "expansion": 2.5, "prior": 16},
    "loformer": {
        "dim": 4, "enc_blocks": [1, 2, 1], "middle_blocks": 1, "dec_blocks": [2, 1, 1], "heads": [1, 2, 2, 4],
        "prior": 16, "tile": 64,
    },
    "blurdm": {"num_res": 1, "width": 4},
}  # fmt: skip
# Of other sizes than a network in the table, or no network that restores.
ALIKE = {"loformer_s", "loformer_b", "loformer_l", "exprdiff_detector"}
FUSING = [name for name in NETWORKS if "prior" in model_options(name)]


def network(name, dtype=torch.float32):
    """The network in evaluation mode, with weights told by their names."""
    model = create_model(name, **NETWORKS[name])
    load_weights(model, model.state_dict() | named_weights(dict(model.named_parameters()), 0.5, torch.float32))
    return model.to(dtype).eval()


def inputs(name, *size, dtype=torch.float32):
    """Images of (N, H, W), and a prior for a network that was built for one."""
    generator = torch.Generator().manual_seed(0)
    blur = torch.rand(size[0], 3, *size[1:], dtype=dtype, generator=generator)
    length = NETWORKS[name].get("prior", 0)
    return (blur, torch.randn(size[0], length, dtype=dtype, generator=generator)) if length else (blur,)


def test_every_network_is_tried():
    assert set(NETWORKS) == set(list_models()) - ALIKE


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (2, 9), (8, 8), (33, 17)])
def test_any_size_goes_in_and_comes_out(name, height, width):
    given = inputs(name, 2, height, width)
    with torch.inference_mode():
        restored = network(name)(*given)
    assert restored.image.shape == given[0].shape
    assert restored.image.isfinite().all()
    for images, channels in ((restored.scales, 3), (restored.masks, 1)):
        for level, image in enumerate(reversed(images)):
            assert image.shape == (2, channels, -(-height >> level), -(-width >> level))
    assert not restored.scales or restored.scales[-1] is restored.image


@pytest.mark.parametrize("name", NETWORKS)
def test_images_of_a_batch_do_not_see_each_other(name):
    model, given = network(name, torch.float64), inputs(name, 3, 32, 73, dtype=torch.float64)
    with torch.inference_mode():
        together = model(*given).image
        alone = torch.cat([model(*(tensor[i : i + 1] for tensor in given)).image for i in range(3)])
    assert (together - given[0]).abs().max() > 0.01, "the network must do something"
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_runs_in_half_precision_and_without_values(name):
    model, given = network(name), inputs(name, 1, 40, 72)
    with torch.inference_mode():
        exact = model(*given).image
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(*given).image.float(), exact, rtol=0.05, atol=0.05)
        low = network(name, torch.bfloat16)(*(tensor.bfloat16() for tensor in given)).image
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)
        assert model.to("meta")(*(tensor.to("meta") for tensor in given)).image.shape == exact.shape


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.zeros(3, 8, 8), "N, 3, H, W"),
        (torch.zeros(1, 1, 8, 8), "N, 3, H, W"),
        (torch.zeros(1, 3, 0, 8), "N, 3, H, W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating"),
    ],
)
def test_what_are_no_images_is_refused(name, bad, match):
    with pytest.raises(ValueError, match=match):
        network(name)(bad)


@pytest.mark.parametrize("name", FUSING)
@pytest.mark.parametrize(
    ("built", "given", "match"),
    [(0, (2, 16), "without prior"), (16, (2, 15), r"\(2, 16\)"), (16, (1, 16), r"\(2, 16\)")],
)
def test_a_prior_that_does_not_fit_is_refused(name, built, given, match):
    model = create_model(name, **(NETWORKS[name] | {"prior": built}))
    with pytest.raises(ValueError, match=match):
        model(torch.rand(2, 3, 8, 8), torch.zeros(given))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("mimo_unet", {"num_res": 0}, "num_res must be 1 to 256"),
        ("mimo_unet", {"num_res": 10**9}, "num_res must be 1 to 256"),
        ("mimo_unet", {"width": 10**7}, "model mimo_unet: "),
        ("mimo_unet_plus", {"dropout": 1.0}, "dropout"),
        ("lbag", {"width": 7}, "even width"),
        ("lbag", {"clamp_gate": 1.5}, "clamp_gate"),
        ("lbag", {"width": 10**30}, "model lbag: "),
        ("nafnet", {"width": 0}, "width must be positive"),
        ("nafnet", {"enc_blocks": []}, "stages"),
        ("nafnet", {"enc_blocks": [1, 1]}, "as many decoder stages"),
        ("nafnet", {"middle_blocks": -1}, "blocks must be 0 to 256"),
        ("nafnet", {"enc_blocks": [1, 1, 10**9]}, "blocks must be 0 to 256"),
        ("nafnet", {"local_pooling": -1}, "local_pooling"),
        ("nafnet", {"local_pooling": 2}, "local_pooling"),
        ("restormer", {"dim": 9}, "even dim"),
        ("restormer", {"dim": 0}, "even dim"),
        ("restormer", {"blocks": [1, 1, 1]}, "4 numbers of blocks"),
        ("restormer", {"blocks": [1, 0, 1, 1]}, "blocks must be 1 to 256"),
        ("restormer", {"blocks": [1, 1, 1, 10**9]}, "blocks must be 1 to 256"),
        ("restormer", {"refinement_blocks": -1}, "refinement_blocks must be 0 to 256"),
        ("restormer", {"heads": [1, 2, 3, 4]}, "do not divide"),
        ("restormer", {"heads": [0, 1, 1, 1]}, "do not divide"),
        ("restormer", {"expansion": float("nan")}, "expansion"),
        ("restormer", {"expansion": 0.0}, "expansion"),
        ("restormer", {"expansion": 1e9}, "expansion"),
        ("m2aenet", {"temperature": 0.0}, "temperature must be positive"),
        ("stripformer", {"width": 5}, "even width"),
        ("stripformer", {"width": 0}, "even width"),
        ("stripformer", {"blocks": 0}, "blocks must be 1 to 256"),
        ("stripformer", {"blocks": 10**9}, "blocks must be 1 to 256"),
        ("stripformer", {"decoder_blocks": -1}, "decoder_blocks must be 1 to 256"),
        ("fftformer", {"dim": 0}, "positive dim"),
        ("fftformer", {"blocks": [1, 1]}, "3 numbers of blocks"),
        ("fftformer", {"blocks": [1, 0, 1]}, "blocks must be 1 to 256"),
        ("fftformer", {"blocks": [1, 1, 10**9]}, "blocks must be 1 to 256"),
        ("fftformer", {"refinement_blocks": -1}, "refinement_blocks must be 0 to 256"),
        ("fftformer", {"expansion": float("nan")}, "expansion"),
        ("fftformer", {"expansion": 0.0}, "expansion"),
        ("loformer", {"dim": 5}, "even dim"),
        ("loformer", {"dim": 0}, "even dim"),
        ("loformer", {"enc_blocks": [1, 1]}, "3 numbers of blocks"),
        ("loformer", {"dec_blocks": [1, 0, 1]}, "blocks must be 1 to 256"),
        ("loformer", {"middle_blocks": 10**9}, "blocks must be 1 to 256"),
        ("loformer", {"heads": [1, 2, 3, 4]}, "do not divide"),
        ("loformer", {"heads": [1, 2, 4]}, "4 of heads"),
        ("loformer", {"tile": 32}, "multiple of 8 from 64 px"),
        ("loformer", {"tile": 100}, "multiple of 8 from 64 px"),
        ("loformer", {"tile": -64}, "multiple of 8 from 64 px"),
        *((name, {"dim": 10**9}, f"model {name}: ") for name in ("restormer", "fftformer", "loformer")),
        *((name, {"width": 10**9}, f"model {name}: ") for name in ("nafnet", "stripformer")),
        *((name, {"prior": -3}, "prior must be the length of a prior, or 0 for none, got -3") for name in FUSING),
    ],
)
def test_impossible_options_are_one_line(name, options, match):
    with pytest.raises(ConfigError, match=match) as caught:
        create_model(name, **(NETWORKS[name] | options))
    assert "\n" not in str(caught.value)
