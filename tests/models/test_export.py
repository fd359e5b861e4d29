"""ONNX files: what onnxruntime computes, at any size; what the file says; what cannot be exported."""

import importlib.util
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from support.named_weights import named_weights
from torch import nn

import relo
from relo.errors import ConfigError, MissingExtraError, TrainingError
from relo.models import Restoration, create_model, load_weights
from relo.models.export import INPUT, export_onnx

# As small as they can be: recording a block takes seconds.
NETWORKS = {
    "mimo_unet_plus": {"num_res": 1, "width": 4},
    "nafnet": {"width": 4, "enc_blocks": [1], "middle_blocks": 0, "dec_blocks": [1], "local_pooling": 40},
    "m2aenet": {"width": 4, "enc_blocks": [0, 1], "middle_blocks": 0, "dec_blocks": [0, 0]},
    "restormer": {"dim": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 0, "heads": [1, 2, 1, 1]},
    "blurdm": {"num_res": 1, "width": 4},
}
SIZES = [(1, 1, 1), (2, 7, 10), (1, 64, 48), (3, 33, 95)]  # the local pooling's window, 60 px, lies among them


LONG = ("m2aenet", "restormer")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in NETWORKS],
)
def exported(request, tmp_path_factory):
    model = create_model(request.param, **NETWORKS[request.param])
    parameters = named_weights(dict(model.named_parameters()), 0.5, torch.float32)
    load_weights(model, model.state_dict() | parameters)  # buffers, such as a schedule, stay what they are
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return model, path, export_onnx(model, path, metadata={"model": request.param})


def run(path, blur):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"blur": blur.numpy()})]


def test_onnxruntime_computes_the_same_at_any_size(exported):
    model, path, result = exported
    assert model.training, "left as it was"
    assert getattr(model, "pruned", True)
    assert result.difference is not None and result.difference < 1e-4
    model.eval()
    for size in SIZES:
        blur = torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            restored = model(blur)
        expected = [restored.image, *restored.masks[-1:]]
        assert result.outputs == ("image", "mask")[: len(expected)]
        assert (expected[0] - blur).abs().max() > 0.01, "the network must do something"
        for found, tensor in zip(run(path, blur), expected, strict=True):
            torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-4)
    model.train()


def test_the_file_says_what_it_is(exported):
    model, path, result = exported
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert [opset.version for opset in file.opset_import if not opset.domain] == [result.opset]
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert metadata.keys() == {"input", "model"}
    assert metadata["input"] == INPUT
    channels = {"blur": 3, "image": 3, "mask": 1}
    for value in (*file.graph.input, *file.graph.output):
        axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert axes == ["batch", channels[value.name], "height", "width"]
    assert str(Path(relo.__file__).parent).encode() not in path.read_bytes()
    assert path.stat().st_size < 1.5 * sum(4 * tensor.numel() for tensor in model.state_dict().values()) + 300_000


class Own(nn.Module):
    """What a user might write."""

    def __init__(self, function):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.function = function

    def forward(self, blur):
        return self.function(blur, self.gain)


def plain(blur, gain):
    return Restoration(blur * gain, (), ())


def halves_rounded_up(blur, gain):
    height, width = (-(-side // 2) for side in blur.shape[-2:])
    return Restoration(blur + gain * blur[..., :height, :width].mean(), (), ())


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_the_wanted_one(opset, tmp_path):
    assert export_onnx(Own(plain), tmp_path / "a.onnx", opset=opset).opset == opset
    assert {entry.version for entry in onnx.load(tmp_path / "a.onnx").opset_import} == {opset}


def test_sizes_are_divided_as_python_divides_them(tmp_path):
    assert export_onnx(Own(halves_rounded_up), tmp_path / "a.onnx").difference < 1e-6
    blur = torch.arange(27.0).view(1, 3, 3, 3)
    (found,) = run(tmp_path / "a.onnx", blur)
    torch.testing.assert_close(found, halves_rounded_up(blur, 0.5).image)


def by_value(blur, gain):
    return Restoration(blur if blur.mean() > 0.5 else blur * gain, (), ())


def by_size(blur, gain):
    return Restoration(blur if blur.shape[-1] > 50 else blur * gain, (), ())


def by_large_size(blur, gain):
    return Restoration(blur if blur.shape[-2] > 110 else blur * gain, (), ())


def no_number(blur, gain):
    return Restoration(blur * gain / 0, (), ())


def no_restoration(blur, gain):
    return blur * gain


def no_operator(blur, gain):
    return Restoration(blur * gain * torch.linalg.svdvals(blur).amax(), (), ())


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (by_value, r"cannot be exported to ONNX \(.*must not depend on the size"),
        (by_size, r"differs from PyTorch by 0\..*must not depend on the size"),
        (by_large_size, r"differs from PyTorch by 0\..*must not depend on the size"),
        (no_number, r"differs from PyTorch by nan"),
        (no_restoration, r"cannot be run .*'image'.*relo.models.Restoration"),
        (no_operator, r"cannot be exported to ONNX \(.*svd"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(function, match, tmp_path, capfd):
    with pytest.raises(TrainingError, match=match) as caught:
        export_onnx(Own(function), tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("opset", [0, 17, 24, 99])
def test_other_opsets_are_refused(opset, tmp_path):
    with pytest.raises(ConfigError, match="opset must be 18 to 23"):
        export_onnx(Own(plain), tmp_path / "a.onnx", opset=opset)


def without(package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    without(package, monkeypatch)
    with pytest.raises(MissingExtraError, match=rf"'{package}' .*relo\[export\]"):
        export_onnx(Own(plain), tmp_path / "a.onnx")


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    without("onnxruntime", monkeypatch)
    assert export_onnx(Own(plain), tmp_path / "a.onnx").difference is None
    onnx.checker.check_model(str(tmp_path / "a.onnx"))
