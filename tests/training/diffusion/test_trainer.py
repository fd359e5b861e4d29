"""Runs of a few steps: exact resume, what is written, what is refused."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.datasets import make_dataset

from relo.errors import ConfigError, TrainingError
from relo.models.exprdiff.diffusion.weights import read_header
from relo.training.diffusion import parts
from relo.training.diffusion.recipe import load_diffusion_recipe
from relo.training.diffusion.trainer import train_exprdiff

from .conftest import tiny_recipe


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, shards, tiny_folder):
    """A run of three steps."""
    made = tiny_recipe(tiny_folder)("steps=3")
    return train_exprdiff(made, shards, tmp_path_factory.mktemp("straight") / "run")


def test_what_a_run_leaves(straight, shards):
    assert straight.steps == 3 and straight.notes == ()
    names = {path.name for path in straight.run.iterdir()}
    assert names >= {"model.safetensors", "last.safetensors", "metrics.jsonl", "recipe.yaml", "run.json"}
    assert not [name for name in names if name.endswith(".part")]
    lines = metrics(straight.run)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss"] == pytest.approx(line["noise"] + line["degradation"], rel=1e-5) for line in lines)
    assert straight.loss == lines[-1]["loss"]
    file = read_header(straight.checkpoint)
    assert file.training["steps"] == 3 and file.training["pairs"] == 6
    assert file.condition == {"form": "masked", "radius": 4, "eps": 1e-4}


def test_resuming_gives_the_same_bits(straight, recipe, shards, tmp_path):
    run = tmp_path / "run"
    train_exprdiff(recipe("steps=1"), shards, run)
    with pytest.raises(TrainingError, match="holds a training run already"):
        train_exprdiff(recipe("steps=3"), shards, run)
    with pytest.raises(TrainingError, match="another eps"):
        train_exprdiff(recipe("steps=3", "eps=0.1"), shards, run, resume=True)
    result = train_exprdiff(recipe("steps=3"), shards, run, resume=True)
    expected = load_file(straight.checkpoint)
    found = load_file(result.checkpoint)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [line["noise"] for line in metrics(run)] == [line["noise"] for line in metrics(straight.run)]
    again = train_exprdiff(recipe("steps=3"), shards, run, resume=True)
    assert again.notes == ("nothing to do: the run has 3 steps already",)
    (run / "last.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"no last\.safetensors to resume from"):
        train_exprdiff(recipe("steps=3"), shards, run, resume=True)


def test_an_interruption_finishes_the_step(recipe, shards, tmp_path):
    run = tmp_path / "run"

    def stop(done, steps, text):
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_exprdiff(recipe("steps=9"), shards, run, progress=stop)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_header(run / "model.safetensors").training["steps"] == 2


def test_a_sigterm_to_all_processes_finishes_the_step(recipe, shards, tmp_path):
    run = tmp_path / "run"

    def stop(done, steps, text):
        if done == 1:
            children = multiprocessing.active_children()
            assert children
            for pid in (*(child.pid for child in children), os.getpid()):
                os.kill(pid, signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train_exprdiff(recipe("steps=9", "workers=1"), shards, run, progress=stop)
    assert read_header(run / "model.safetensors").training["steps"] == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ("precision=bf16-mixed", "at_once=1", "gradient_checkpointing=true"),
        ("fusion=no_mask", "bgf=plain_gf", "degradation_weight=0"),
        ("fusion=off", "bgf=none", "clip=0"),
    ],
)
def test_other_settings_train(recipe, shards, tmp_path, overrides):
    result = train_exprdiff(recipe(*overrides, "steps=1"), shards, tmp_path / "run")
    (line,) = metrics(result.run)
    assert 0 < line["noise"] < 3
    assert ("degradation" in line) == ("degradation_weight=0" not in overrides)


@pytest.mark.parametrize("mask", ["predicted", "predicted_soft"])
def test_predicted_masks(recipe, shards, tmp_path, mask):
    from relo.models import create_model
    from relo.training.checkpoint import save_checkpoint
    from relo.training.diffusion.batches import Batches

    torch.manual_seed(0)
    detector = create_model("exprdiff_detector", width=8, patch=16).eval()
    save_checkpoint(tmp_path / "d.safetensors", detector, "exprdiff_detector", {"width": 8, "patch": 16}, {})
    made = recipe(f"mask={mask}", f"detector={tmp_path / 'd.safetensors'}")
    item = {"blur": torch.rand(2, 6, 64, 64), "sharp": torch.rand(2, 3, 64, 64), "mask": torch.zeros(2, 1, 64, 64)}
    batch = Batches(made, torch.device("cpu")).of({**item, "name": ""})
    with torch.no_grad():
        found = detector(item["blur"][:, :3])
    if mask == "predicted":
        assert torch.equal(batch.mask, found.mask)
    else:
        likely = found.scores.softmax(1)[:, 1:]
        assert torch.equal(batch.mask[..., ::16, ::16], likely)
    assert torch.equal(batch.short, item["blur"][:, 3:])


def test_a_detector_that_is_none(recipe, straight, shards, tmp_path):
    made = recipe("mask=predicted", f"detector={tmp_path / 'nothing'}")
    with pytest.raises(TrainingError, match="does not exist"):
        train_exprdiff(made, shards, tmp_path / "run")


def test_no_base(shards, tmp_path):
    with pytest.raises(ConfigError, match="no base model is given"):
        train_exprdiff(load_diffusion_recipe(), shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_short_exposures(recipe, tmp_path):
    source = make_dataset(tmp_path / "data", [{"size": (96, 128)}])
    with pytest.raises(TrainingError, match="has no short exposures"):
        train_exprdiff(recipe(), source, tmp_path / "run")


def test_too_little_memory_names_the_option(recipe, shards, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("relo.training.diffusion.trainer.objective", fail)
    with pytest.raises(TrainingError, match=r"memory does not suffice.*at_once=1"):
        train_exprdiff(recipe(), shards, tmp_path / "run")


def test_a_spoilt_loss_is_not_saved(recipe, shards, tmp_path, monkeypatch):
    def spoilt(recipe, device):
        made = parts.build_parts(recipe, device)
        torch.nn.init.constant_(made.model.guide.embedding.conv_in.weight, float("nan"))
        return replace(made)

    monkeypatch.setattr("relo.training.diffusion.trainer.build_parts", spoilt)
    with pytest.raises(TrainingError, match="infinite or not a number"):
        train_exprdiff(recipe(), shards, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_damaged_state(recipe, straight, shards, tmp_path):
    run = tmp_path / "run"
    train_exprdiff(recipe("steps=1"), shards, run)
    state = run / "last.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"last\.safetensors: is damaged"):
        train_exprdiff(recipe("steps=3"), shards, run, resume=True)
