"""relo's own checkpoint file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from relo.errors import TrainingError
from relo.models import create_model, load_weights
from relo.training import load_checkpoint, save_checkpoint

TENSORS = {"a": torch.zeros(1)}
REST = {"options": {}, "training": {}}
OPTIONS = {"num_res": 1, "width": 4, "clamp_gate": 0.2}


def header(**entries):
    return json.dumps({"format": "relo-model", "version": 1} | entries)


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
    ],
)
def test_other_files_are_one_line(saved, change, match):
    path, _ = saved
    change(path)
    with pytest.raises(TrainingError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
