"""relo export-model: a checkpoint to an ONNX file that stands for itself."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.program import relo

import relo as package
from relo.models import create_model
from relo.training import load_checkpoint, save_checkpoint

OPTIONS = {"num_res": 1, "width": 4, "clamp_gate": 0.2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, create_model("lbag", **OPTIONS), "lbag", OPTIONS, {})
    return path


@pytest.fixture(scope="module")
def answer(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "below" / "lbag.onnx"
    return out, relo("export-model", checkpoint.parent, out, "--opset", 21, "--json")


def test_the_file_restores_as_the_checkpoint_does(checkpoint, answer):
    out, told = answer
    assert (told.code, told.err) == (0, "")
    assert [path.name for path in out.parent.iterdir()] == ["lbag.onnx"]
    blur = torch.rand(2, 3, 19, 30, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image, mask = session.run(["image", "mask"], {"blur": blur.numpy()})
    with torch.inference_mode():
        restored = load_checkpoint(checkpoint).model(blur)
    np.testing.assert_allclose(image, restored.image, atol=1e-5)
    np.testing.assert_allclose(mask, restored.masks[-1], atol=1e-5)


def test_json_and_metadata_tell_of_the_network(answer):
    out, told = answer
    content = told.json
    assert (content["done"], content["out"], content["model"]) == (1, str(out), "lbag")
    assert (content["opset"], content["outputs"]) == (21, ["image", "mask"])
    assert 0 <= content["difference"] < 1e-5
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata.pop("input").startswith("RGB in [0, 1]")
    assert json.loads(metadata.pop("options")) == OPTIONS
    assert metadata == {"relo_version": package.__version__, "model": "lbag"}


OWN = """
from torch import nn
from relo.models import Restoration

class Brighter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(nn.init.ones_(__import__("torch").empty(1)))

    def forward(self, blur):
        return Restoration(blur + self.gain, (), ())

class Choosy(Brighter):
    def forward(self, blur):
        return Restoration(blur if float(blur.max()) > 0.5 else blur + self.gain, (), ())
"""


@pytest.fixture
def own(tmp_path):
    file, path = tmp_path / "my_net.py", tmp_path / "own.safetensors"
    file.write_text(OWN)
    name = f"{file}:Brighter"
    save_checkpoint(path, create_model(name), name, {}, {})
    return path, file


def test_a_network_of_ones_own_is_exported_and_said_so(own, tmp_path):
    path, file = own
    (tmp_path / "a.onnx").write_text("old")
    words = ("export-model", path, tmp_path / "a.onnx", "--model", f"{file}:Brighter")
    relo(*words).error(tmp_path / "a.onnx", "is there already", "--overwrite")
    assert (tmp_path / "a.onnx").read_text() == "old"
    told = relo(*words, "--overwrite")
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0].endswith("Brighter: blur (batch, 3, height, width) to image, opset 20")
    assert lines[1].startswith("largest difference from PyTorch")
    assert lines[2:] == ["done 1, skipped 0, quarantined 0, failed 0", f"output: {tmp_path / 'a.onnx'}"]
    onnx.checker.check_model(str(tmp_path / "a.onnx"))


def test_what_cannot_be_exported_leaves_nothing(own, tmp_path):
    path, file = own
    before = sorted(tmp_path.iterdir())
    told = relo("export-model", path, tmp_path / "a.onnx", "--model", f"{file}:Choosy")
    told.error("cannot be exported to ONNX", "must not depend on")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("checkpoint_name", "out_name", "words"),
    [
        ("missing.safetensors", "a.onnx", ["missing.safetensors", "does not exist"]),
        ("text.pt", "a.onnx", ["text.pt", "holds no readable tensors"]),
        ("", "a.pt", ["a.pt", "ends in .onnx"]),
        ("", "folder.onnx", ["folder.onnx", "is there already"]),
        ("", "text.pt/a.onnx", ["text.pt", "cannot be written to"]),
    ],
)
def test_mistakes_are_one_line(checkpoint_name, out_name, words, checkpoint, tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "folder.onnx").mkdir()
    source = tmp_path / checkpoint_name if checkpoint_name else checkpoint
    relo("export-model", source, tmp_path / out_name, "--overwrite").error(*words)


def test_impossible_options_are_one_line(checkpoint, tmp_path):
    relo("export-model", checkpoint, tmp_path / "a.onnx", "--opset", 3).error("opset must be 18 to 23")
    relo("export-model", checkpoint, tmp_path / "a.onnx", "--model", "lbagg").error("there is no model 'lbagg'")
