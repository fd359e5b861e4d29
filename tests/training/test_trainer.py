"""Training runs of seconds: the run folder, resuming bit for bit, and what is refused."""

import json
import os
import signal
import sys

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from relo.errors import MissingExtraError, TrainingError
from relo.models import create_model
from relo.training import load_checkpoint, load_recipe, train

from .conftest import write_dataset


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(dataset_dir, tmp_path_factory):
    """A run of eight steps with dropout."""
    from .conftest import TINY

    recipe = load_recipe("lbag-tiny", [*TINY, "steps=8", "milestones=[5]", "model.options.dropout=0.3"])
    seen = []
    run = tmp_path_factory.mktemp("runs") / "straight"
    result = train(recipe, dataset_dir, run, progress=lambda *args: seen.append(args))
    return recipe, result, seen


def test_the_run_folder_tells_everything(straight, dataset_dir):
    recipe, result, seen = straight
    run = result.run
    assert sorted(path.name for path in run.iterdir()) == [
        "last.ckpt", "metrics.jsonl", "model.safetensors", "recipe.yaml", "run.json"
    ]  # fmt: skip
    assert load_recipe(run / "recipe.yaml") == recipe
    logged = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in logged] == [2, 4, 6, 8]
    assert [line["lr"] for line in logged] == pytest.approx([1e-3, 1e-3, 3e-4, 3e-4])
    assert {"l1", "msfr", "mask"} <= logged[0].keys()
    validated = [line for line in lines(run) if "validation" in line]
    assert [line["step"] for line in validated] == [4, 8]
    assert validated[-1]["validation"] == result.validation
    assert result.validation.keys() == {"psnr", "psnr_input", "psnr_w", "psnr_w_input"}
    assert (result.steps, result.loss, result.notes) == (8, logged[-1]["loss"], ())
    assert [args[:2] for args in seen] == [(step, 8) for step in range(1, 9)]
    record = json.loads((run / "run.json").read_text())
    index = json.loads((dataset_dir / "dataset.json").read_text())["shards"]
    hashes = {entry["file"]: entry["sha256"] for entry in index if entry["file"] != "yard.h5"}
    assert record["dataset"]["shards"] == hashes
    assert len(record["validation_scenes"]) == 1
    assert sorted(record["train_scenes"] + record["validation_scenes"]) == ["attic", "barn", "cellar"]
    assert record["versions"]["torch"] == torch.__version__


def test_the_checkpoint_is_readable_with_safetensors_alone(straight):
    _, result, _ = straight
    with safe_open(result.checkpoint, framework="pt") as content:
        metadata = content.metadata()
    header = json.loads(metadata["relo"])
    assert header["model"] == "lbag"
    assert header["options"]["num_res"] == 1
    assert header["training"]["steps"] == 8
    loaded = load_checkpoint(result.run)
    tensors = load_file(result.checkpoint)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.model.state_dict().items())
    fresh = create_model("lbag", **loaded.options).state_dict()
    assert any(not torch.equal(tensors[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("stop", [3, 4])
def test_stopping_and_resuming_equals_going_straight(stop, straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    train(recipe.model_copy(update={"steps": stop}), dataset_dir, tmp_path / "run")
    resumed = train(recipe, dataset_dir, tmp_path / "run", resume=True)
    assert resumed.steps == 8
    expected, found = load_file(result.checkpoint), load_file(resumed.checkpoint)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert lines(tmp_path / "run")[-1] == lines(result.run)[-1]
    steps = [line["step"] for line in lines(tmp_path / "run")]
    assert steps == sorted(steps)
    again = train(recipe, dataset_dir, tmp_path / "run", resume=True)
    assert again.notes == ("nothing to do: the run has 8 steps already",)


def test_equal_runs_give_equal_files_whatever_the_workers(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    other = train(recipe.model_copy(update={"workers": 2, "steps": 8}), dataset_dir, tmp_path / "run")
    expected, found = load_file(result.checkpoint), load_file(other.checkpoint)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_ctrl_c_finishes_the_step_and_saves(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight

    def press(done, total, what):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, dataset_dir, tmp_path / "run", progress=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(tmp_path / "run").training["steps"] == 4
    resumed = train(recipe, dataset_dir, tmp_path / "run", resume=True)
    expected, found = load_file(result.checkpoint), load_file(resumed.checkpoint)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_kill_between_checkpoints_repeats_the_lost_steps(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    run = tmp_path / "run"

    def crash(done, total, what):
        if done == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe.model_copy(update={"checkpoint_every": 2}), dataset_dir, run, progress=crash)
    assert lines(run)[-1]["step"] == 4
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "loss": 1}\n')
    resumed = train(recipe, dataset_dir, run, resume=True)
    expected, found = load_file(result.checkpoint), load_file(resumed.checkpoint)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert 5 not in [line["step"] for line in lines(run)]


def test_nothing_is_printed(dataset_dir, tmp_path, tiny_recipe, capfd):
    train(tiny_recipe("steps=2"), dataset_dir, tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_the_global_random_state_is_left_alone(dataset_dir, tmp_path, tiny_recipe):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    train(tiny_recipe("steps=1"), dataset_dir, tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_one_train_scene_is_not_validated_and_the_result_says_so(tmp_path, tiny_recipe):
    src = write_dataset(tmp_path / "d", {"a": "train", "b": "test"})
    result = train(tiny_recipe("steps=2"), src, tmp_path / "run")
    assert result.validation == {}
    assert "nothing was validated" in result.notes[0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["train_scenes"] == ["a"]


def draw_darkened(rng, size, dtype, blurred):
    """A task that can be learned at once: `sharp` is `blur` at half the brightness."""
    blur = np.broadcast_to(rng.integers(0, 255, 3), (*size, 3)).astype(dtype)
    return blur, blur // 2, np.zeros(size, np.uint8)


def test_training_lowers_the_loss(tmp_path, tiny_recipe):
    src = write_dataset(tmp_path / "d", {"a": "train"}, draw=draw_darkened)
    recipe = tiny_recipe("steps=60", "log_every=20", "lr=0.01", "model.name=mimo_unet")
    train(recipe, src, tmp_path / "run")
    logged = lines(tmp_path / "run")
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]


def test_initial_weights_are_loaded(dataset_dir, tmp_path, tiny_recipe):
    torch.manual_seed(9)
    donor = create_model("mimo_unet_plus", num_res=1, width=4).state_dict()
    torch.save({"model": donor}, tmp_path / "plus.pkl")
    recipe = tiny_recipe("steps=1", "lr=1e-12", f"model.weights={tmp_path / 'plus.pkl'}")
    result = train(recipe, dataset_dir, tmp_path / "run")
    assert "6 tensors" in result.notes[-1]
    state = load_file(result.checkpoint)
    torch.testing.assert_close(state["FAM1.merge.main.0.weight"], donor["FAM1.merge.main.0.weight"])


def test_a_loss_that_is_not_a_number_names_the_batch(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    from relo.training import optimisation

    real = optimisation.total_loss

    def broken(*args):
        terms = real(*args)
        return terms | {"total": terms["total"] * float("nan")}

    monkeypatch.setattr(optimisation, "total_loss", broken)
    with pytest.raises(TrainingError, match=r"became nan at step 1 \(batch: \w+/\d+, \w+/\d+\)"):
        train(tiny_recipe(), dataset_dir, tmp_path / "run")


def test_an_unreadable_shard_is_one_line_even_from_a_loader_process(tmp_path, tiny_recipe):
    src = write_dataset(tmp_path / "d", {"a": "train", "b": "train"})
    recipe = tiny_recipe("steps=2", "workers=1", "val_fraction=0")
    for name in ("a", "b"):
        with h5py.File(src / f"{name}.h5") as file:
            spots = [file["blur"].id.get_chunk_info(k) for k in range(file["blur"].id.get_num_chunks())]
        with (src / f"{name}.h5").open("r+b") as stream:
            for spot in spots:
                stream.seek(spot.byte_offset)
                stream.write(b"\xff" * spot.size)
    with pytest.raises(TrainingError, match="cannot be decoded") as caught:
        train(recipe, src, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_another_run_is_not_overwritten(straight, dataset_dir):
    recipe, result, _ = straight
    before = result.checkpoint.read_bytes()
    with pytest.raises(TrainingError, match="holds a training run already"):
        train(recipe, dataset_dir, result.run)
    assert result.checkpoint.read_bytes() == before


def test_resuming_with_other_settings_or_data_is_refused(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    changed = recipe.model_copy(update={"lr": 1.0, "batch": 3})
    with pytest.raises(TrainingError, match="trained with another batch, lr"):
        train(changed, dataset_dir, result.run, resume=True)
    other = write_dataset(tmp_path / "d", {"attic": "train", "barn": "train", "new": "train"})
    with pytest.raises(TrainingError, match="another dataset"):
        train(recipe, other, result.run, resume=True)


def test_a_damaged_last_checkpoint_is_refused(straight, dataset_dir, tmp_path):
    recipe, _, _ = straight
    run = tmp_path / "run"
    train(recipe.model_copy(update={"steps": 1}), dataset_dir, run)
    (run / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(TrainingError, match="damaged"):
        train(recipe, dataset_dir, run, resume=True)


def test_a_dataset_without_a_train_split_is_refused(tmp_path, tiny_recipe):
    src = write_dataset(tmp_path / "d", {"a": "test"})
    with pytest.raises(TrainingError, match=r"no split 'train' \(splits: test\)"):
        train(tiny_recipe(), src, tmp_path / "run")


def test_without_lightning_the_extra_is_named(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r"relo\[train\]"):
        train(tiny_recipe(), dataset_dir, tmp_path / "run")
