"""The file of a trained guide: a round trip, equal bytes, and what is refused."""

import json

import pytest
import torch
from support.tiny_sdxl import EMBEDDING_CHANNELS, UNET

from relo.errors import TrainingError
from relo.models.exprdiff.diffusion.weights import read_guide, read_header, write_guide

ABOUT = {
    "base": {"name": "someone/sdxl"},
    "guide": {"fusion": "masked", "attention_layers": 1, "embedding_channels": EMBEDDING_CHANNELS},
    "condition": {"form": "masked", "radius": 16, "eps": 1e-4},
    "training": {"steps": 3},
}


@pytest.fixture
def written(guided, prompt, tmp_path):
    model = guided(spread=0.1)
    path = tmp_path / "model.safetensors"
    write_guide(path, model.guide, prompt, ABOUT)
    return path, model


def test_a_round_trip(written, prompt, tmp_path):
    path, model = written
    file = read_header(path)
    assert (file.base, file.condition, file.training) == tuple(ABOUT[k] for k in ("base", "condition", "training"))
    guide, found = read_guide(file, model.unet.config)
    state = guide.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.guide.state_dict().items())
    assert torch.equal(found.tokens, prompt.tokens) and torch.equal(found.pooled, prompt.pooled)
    assert not guide.training
    again = tmp_path / "again.safetensors"
    write_guide(again, guide, found, ABOUT)
    assert again.read_bytes() == path.read_bytes()


def test_only_what_is_trained_is_saved(written):
    path, model = written
    trained = sum(value.numel() for value in model.guide.parameters())
    assert path.stat().st_size < 4 * trained + 80_000  # header, and 77 * 64 + 32 numbers of the prompt


def test_another_base_model(written):
    path, model = written
    larger = dict(model.unet.config) | {"block_out_channels": (64, 64, 64)}
    with pytest.raises(TrainingError, match=r"someone/sdxl") as caught:
        read_guide(read_header(path), larger)
    assert "\n" not in str(caught.value)


def test_a_header_that_asks_for_more_than_there_is(written, guided, prompt):
    path, model = written
    about = ABOUT | {"guide": ABOUT["guide"] | {"embedding_channels": (8, 8, 16, 1_000_000)}}
    write_guide(path, model.guide, prompt, about)
    with pytest.raises(TrainingError, match="parameters are needed"):
        read_guide(read_header(path), model.unet.config)


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "version"])
def test_what_is_no_such_file(written, damage, tmp_path):
    from safetensors.torch import save_file

    path, _ = written
    if damage == "missing":
        path = tmp_path / "nothing.safetensors"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "foreign":
        save_file({"a": torch.zeros(1)}, path, {"relo": json.dumps({"format": "relo-model"})})
    else:
        save_file({"a": torch.zeros(1)}, path, {"relo": json.dumps({"format": "relo-exprdiff", "version": 9})})
    with pytest.raises(TrainingError, match=path.name) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


def test_the_tiny_unet_has_the_sizes_that_were_measured(guided):
    model = guided()
    assert sum(value.numel() for value in model.unet.parameters()) == 3_055_236
    assert tuple(model.unet.config.block_out_channels) == UNET["block_out_channels"]
