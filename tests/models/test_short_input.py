"""Networks that are given a short exposure behind the blurred image."""

import onnxruntime
import pytest
import torch
from support.named_weights import named_weights

from relo.errors import ConfigError
from relo.models import create_model, load_weights
from relo.models.export import export_onnx
from relo.models.recognition import recognise
from relo.models.restoration import takes_short
from relo.training.inference.memory_estimate import peak_bytes
from relo.training.inference.whole_image import restore

SMALL = {
    "mimo_unet": {"num_res": 1, "width": 4},
    "mimo_unet_plus": {"num_res": 9, "width": 4, "dropout": 0.1},
    "nafnet": {"width": 4, "enc_blocks": [1, 1], "middle_blocks": 1, "dec_blocks": [1, 1]},
    "restormer": {"dim": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 0, "heads": [1, 1, 1, 1]},
}
FIRST = {"nafnet": "intro.weight", "restormer": "patch_embed.proj.weight"}


def network(name, **options):
    model = create_model(name, **SMALL[name], **options).double().eval()
    load_weights(model, named_weights(model.state_dict(), 0.7))
    return model


@pytest.mark.parametrize("name", SMALL)
def test_both_images_matter_and_the_result_is_one(name):
    model = network(name, in_channels=6)
    blur, short = torch.rand(2, 2, 3, 19, 26, dtype=torch.float64)
    with torch.no_grad():
        restored = model(torch.cat([blur, short], 1))
        assert restored.image.shape == blur.shape
        for parts in ((short, short), (blur, blur)):
            assert (model(torch.cat(parts, 1)).image - restored.image).abs().max() > 1e-3
        for scale, image in zip((4, 2, 1), restored.scales, strict=False):
            assert image.shape == (2, 3, -(-19 // scale), -(-26 // scale))
    with pytest.raises(ValueError, match=r"\(N, 6, H, W\)"):
        model(blur)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_told_from_a_network_of_one_image(name):
    assert takes_short(network(name, in_channels=6))
    assert not takes_short(network(name))
    assert not takes_short(torch.nn.Identity()), "a network of the user's own need not say anything"


@pytest.mark.parametrize("name", SMALL)
def test_what_is_restored_is_added_to_the_blurred_image(name):
    model = network(name, in_channels=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        both = torch.rand(1, 6, 16, 16, dtype=torch.float64)
        assert torch.equal(model(both).image, both[:, :3])


@pytest.mark.parametrize("name", FIRST)
def test_without_weights_for_the_short_exposure_it_is_the_network_of_one_image(name):
    one, both = network(name), network(name, in_channels=6)
    state = dict(one.state_dict())
    state[FIRST[name]] = torch.cat([state[FIRST[name]], torch.zeros_like(state[FIRST[name]])], 1)
    load_weights(both, state)
    blur, short = torch.rand(2, 1, 3, 21, 30, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(both(torch.cat([blur, short], 1)).image, one(blur).image)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_recognised_by_its_shapes(name):
    options = SMALL[name] | {"in_channels": 6}
    with torch.device("meta"):
        state = create_model(name, **options).state_dict()
        found, told = recognise(state)
        rebuilt = create_model(found, **told).state_dict()
    assert (found, told["in_channels"]) == (name, 6)
    assert {key: value.shape for key, value in rebuilt.items()} == {
        key: value.shape for key, value in state.items()
    }


@pytest.mark.parametrize("options", [{"in_channels": 4}, {"in_channels": 6, "width": 2}])
def test_impossible_inputs_are_one_line(options):
    with pytest.raises(ConfigError, match=r"in_channels must be 3, or 6|width must be above 3"):
        create_model("mimo_unet", **options)


def test_it_is_restored_in_windows_and_its_memory_estimated():
    model = network("nafnet", in_channels=6)
    both = torch.rand(1, 6, 150, 170)
    assert restore(model.float(), both, tile=128).image.shape == (1, 3, 150, 170)
    assert peak_bytes(model, tuple(both.shape)) > both.numel() * 4


def test_onnx_takes_six_channels(tmp_path):
    model = network("nafnet", in_channels=6).float()
    export_onnx(model, tmp_path / "net.onnx")
    both = torch.rand(1, 6, 33, 18)
    session = onnxruntime.InferenceSession((tmp_path / "net.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(session.run(None, {"blur": both.numpy()})[0]), model(both).image, atol=1e-4, rtol=0
        )
