"""relo's own checkpoint file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from relo.errors import ConfigError, TrainingError
from relo.models import create_model, load_weights
from relo.training import load_checkpoint, save_checkpoint

TENSORS = {"a": torch.zeros(1)}
REST = {"options": {}, "training": {}}
OPTIONS = {"num_res": 1, "width": 4, "clamp_gate": 0.2}


def header(**entries):
    return json.dumps({"format": "relo-model", "version": 1} | entries)


def asks_for(path, **options):
    save_file(TENSORS, path, {"relo": header(model="lbag", options=options, training={})})


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = create_model("lbag", **OPTIONS)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, "lbag", OPTIONS, {"steps": 3})
    return path, model


def test_what_is_saved_is_loaded(saved):
    path, model = saved
    for source in (path, str(path), path.parent):
        loaded = load_checkpoint(source)
        assert (loaded.name, loaded.options, loaded.training, loaded.path) == ("lbag", OPTIONS, {"steps": 3}, path)
        assert not loaded.model.training
        assert loaded.model.clamp_gate == 0.2
        blur = torch.rand(1, 3, 9, 7)
        assert torch.equal(loaded.model(blur).image, model.eval()(blur).image)


def test_equal_models_give_equal_bytes_and_no_leftovers(saved, tmp_path):
    path, model = saved
    save_checkpoint(tmp_path / "b.safetensors", model, "lbag", OPTIONS, {"steps": 3})
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_it_is_also_a_weights_file(saved):
    path, model = saved
    other = create_model("lbag", **OPTIONS)
    load_weights(other, path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_a_failed_write_keeps_the_old_file(saved, monkeypatch):
    import safetensors.torch

    path, model = saved
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model, "lbag", OPTIONS, {})
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "damaged"),
        (lambda path: path.write_bytes(b"PK\x03\x04 a zip"), "damaged"),
        (lambda path: save_file(TENSORS, path), "no checkpoint of relo"),
        (lambda path: save_file(TENSORS, path, {"relo": "[1]"}), "no checkpoint of relo"),
        (lambda path: save_file(TENSORS, path, {"relo": "{"}), "damaged"),
        (lambda path: save_file(TENSORS, path, {"relo": header(version=9)}), "version 9"),
        (lambda path: save_file(TENSORS, path, {"relo": header()}), "does not describe"),
        (lambda path: save_file(TENSORS, path, {"relo": header(model="unet9", **REST)}), "no model 'unet9'"),
        (lambda path: save_file(TENSORS, path, {"relo": header(model="lbag", **REST)}), "do not fit"),
        (lambda path: asks_for(path, num_res=10**9), "num_res"),
        (lambda path: asks_for(path, width=10_000), "bytes for"),
        (lambda path: asks_for(path, width=10**12), "does not describe"),
    ],
)
def test_other_files_are_one_line(saved, change, match):
    path, _ = saved
    change(path)
    with pytest.raises(TrainingError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"), [("mimo_unet", {"num_res": 2, "width": 4}), ("lbag", {"num_res": 1, "width": 4})]
)
def test_published_weights_are_a_checkpoint(name, options, tmp_path):
    torch.manual_seed(1)
    model = create_model(name, **options).eval()
    path = tmp_path / "published.pkl"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    for loaded in (load_checkpoint(path), load_checkpoint(path, model=name)):
        assert (loaded.name, loaded.options, loaded.training) == (name, options, {})
        blur = torch.rand(1, 3, 12, 8)
        assert torch.equal(loaded.model(blur).image, model(blur).image)
    other = "lbag" if name == "mimo_unet" else "mimo_unet"
    with pytest.raises(TrainingError, match=str(path)):
        load_checkpoint(path, model=other)


NAFNET = {"width": 4, "enc_blocks": [1, 1], "middle_blocks": 1, "dec_blocks": [1, 0]}
RESTORMER = {"dim": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("name", "options"), [("nafnet", NAFNET), ("m2aenet", NAFNET | {"width": 2}), ("restormer", RESTORMER)]
)
def test_weights_of_every_network_are_recognised(name, options, tmp_path):
    torch.manual_seed(1)
    model = create_model(name, **options).eval()
    torch.save({"params": model.state_dict()}, tmp_path / "net.pth")
    save_checkpoint(tmp_path / "own.safetensors", model, name, options, {})
    blur = torch.rand(1, 3, 12, 8)
    for path in (tmp_path / "net.pth", tmp_path / "own.safetensors"):
        loaded = load_checkpoint(path)
        assert loaded.name == name
        with torch.inference_mode():
            assert torch.equal(loaded.model(blur).image, model(blur).image)
    with pytest.raises(ConfigError, match=rf"net.pth: is no mimo_unet, by its tensors a {name} .* Leave --model"):
        load_checkpoint(tmp_path / "net.pth", model="mimo_unet")


def test_weights_to_start_from_are_no_trained_network(tmp_path):
    """They fill a larger network but for some tensors; a restoration with these at random is nothing."""
    model = create_model("nafnet", **NAFNET)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    save_checkpoint(tmp_path / "own.safetensors", model, "nafnet", NAFNET, {})
    for name in ("net.pth", "own.safetensors"):
        with pytest.raises(TrainingError, match=rf"{name}: holds no trained m2aenet: \d+ tensors would stay"):
            load_checkpoint(tmp_path / name, model="m2aenet")


def test_a_run_folder_stands_for_its_best_weights(saved):
    path, _ = saved
    (path.parent / "best.safetensors").write_bytes(path.read_bytes())
    assert load_checkpoint(path.parent).path.name == "best.safetensors"
    assert load_checkpoint(path).path.name == "model.safetensors"


OWN = """
from torch import nn
from relo.models import Restoration

class Brighter(nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.scale = nn.Parameter(nn.init.ones_(__import__("torch").empty(1)) * gain)

    def forward(self, blur):
        return Restoration(blur * self.scale, (), ())
"""


def test_a_network_of_ones_own_is_executed_only_when_it_is_named(tmp_path):
    file = tmp_path / "my_net.py"
    file.write_text(OWN)
    name = f"{file}:Brighter"
    model = create_model(name, gain=2.0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, name, {"gain": 2.0}, {})
    with pytest.raises(TrainingError, match=r"not part of relo.*--model"):
        load_checkpoint(path)
    loaded = load_checkpoint(path, model=name)
    assert loaded.model(torch.ones(1, 3, 2, 2)).image.mean() == 2
    file.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n" + OWN)
    with pytest.raises(TrainingError):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("{0}/missing.py:Net", "does not exist"),
        ("{0}/broken.py:Net", r"cannot be executed \(NameError"),
        ("{0}/fine.py:Other", "has no class or function 'Other'. Found: Net"),
        ("{0}/fine.py:Net", "no option 'gain'"),
        ("unet9", "there is no model"),
    ],
)
def test_own_networks_that_do_not_work_are_one_line(name, match, tmp_path):
    (tmp_path / "broken.py").write_text("1 + undefined\n")
    (tmp_path / "fine.py").write_text("def Net():\n    pass\n")
    with pytest.raises(ConfigError, match=match) as caught:
        create_model(name.format(tmp_path), gain=1.0)
    assert "\n" not in str(caught.value)


def test_another_network_than_the_header_names_is_refused(saved):
    path, _ = saved
    with pytest.raises(
        ConfigError, match=r"is no mimo_unet, by its header a lbag .*'clamp_gate'.* Leave --model away"
    ):
        load_checkpoint(path, model="mimo_unet")
    assert load_checkpoint(path, model="lbag").name == "lbag"
