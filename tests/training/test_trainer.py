"""Training runs of seconds: the run folder, resuming bit for bit, and what is refused."""

import json
import os
import shutil
import signal
import sys

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from relo.errors import ConfigError, MissingExtraError, ReloError, TrainingError
from relo.images import read_image
from relo.locks import locked
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
        "best.safetensors", "last.ckpt", "metrics.jsonl", "model.safetensors", "recipe.yaml", "run.json", "samples",
        "tensorboard",
    ]  # fmt: skip
    assert load_recipe(run / "recipe.yaml") == recipe
    logged = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in logged] == [2, 4, 6, 8]
    assert [line["lr"] for line in logged] == pytest.approx(
        recipe.lr * np.array([1, 1, recipe.gamma, recipe.gamma])
    )
    assert {"l1", "msfr", "mask"} <= logged[0].keys()
    validated = [line for line in lines(run) if "validation" in line]
    assert [line["step"] for line in validated] == [4, 8]
    assert validated[-1]["validation"] == result.validation
    assert result.validation.keys() == {"psnr", "psnr_input", "psnr_w", "psnr_w_input"}
    assert (result.steps, result.loss, result.notes) == (8, logged[-1]["loss"], ())
    assert [args[:2] for args in seen if "validating" not in args[2]] == [(step, 8) for step in range(1, 9)]
    shown = [args for args in seen if "validating" in args[2]]
    assert shown == [(step, 8, f"validating: {done} of 2 images") for step in (4, 8) for done in (0, 1)]
    record = json.loads((run / "run.json").read_text())
    index = json.loads((dataset_dir / "dataset.json").read_text())["shards"]
    hashes = {entry["file"]: entry["sha256"] for entry in index if entry["file"] != "yard.h5"}
    assert record["dataset"]["shards"] == hashes
    assert len(record["validation_scenes"]) == 1
    assert sorted(record["train_scenes"] + record["validation_scenes"]) == ["attic", "barn", "cellar"]
    assert record["versions"]["torch"] == torch.__version__
    assert record["dataset"]["mask_versions"] == [1]
    assert load_checkpoint(run / "best.safetensors").training["dataset"] == record["dataset"]
    assert result.steps_per_second > 0


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


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("ema=0.9", "clip=0.1"),
        ("precision=bf16-mixed", "ema=0.9"),
        ("channels_last=true", "order=scenes"),
        ("bapc_form=published", "workers=1"),
        ("milestones=[]", "cosine={hold: 2, steps: 14}", "weight_decay=0.1"),
        ("progressive=[{steps: 7, crop: 24, batch: 3}, {steps: 5, crop: 20, batch: 1}]", "rotate=0.5"),
    ],
    ids=",".join,
)
def test_ten_steps_and_ten_more_are_twenty_bit_for_bit(settings, dataset_dir, tmp_path, tiny_recipe):
    """Also in the metrics: step 10 is neither one to log nor one to validate."""
    recipe = tiny_recipe("steps=20", "log_every=4", "val_every=6", "model.options.dropout=0.2", *settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, dataset_dir, whole)
    train(recipe.model_copy(update={"steps": 10}), dataset_dir, parts)
    assert [line["step"] for line in lines(parts) if line.get("closing")] == [10, 10]
    train(recipe, dataset_dir, parts, resume=True)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory):
    """Larger frames of 16 bits, blurred everywhere."""

    def draw(rng, size, dtype, blurred):
        sharp = rng.integers(0, 65536, (*size, 3)).astype(dtype)
        return sharp // 2, sharp, np.zeros(size, np.uint8)

    scenes = {"attic": "train", "street": "train"}
    root = tmp_path_factory.mktemp("second") / "shards"
    return write_dataset(root, scenes, pairs=2, size=(40, 50), dtype=np.uint16, draw=draw)


@pytest.mark.parametrize("order", ["uniform", "scenes"])
def test_a_run_on_two_datasets_resumes_bit_for_bit(order, dataset_dir, second_dir, tmp_path, tiny_recipe):
    recipe = tiny_recipe(
        "steps=9", "batch=3", f"order={order}", f"sources=[{{path: {second_dir}, share: 0.5, masks: ones}}]"
    )
    whole = train(recipe, dataset_dir, tmp_path / "whole")
    train(recipe.model_copy(update={"steps": 4}), dataset_dir, tmp_path / "parts")
    moved = tmp_path / "moved"
    shutil.copytree(second_dir, moved)
    there = tiny_recipe(
        "steps=9",
        "batch=3",
        "cache_gb=0.01",
        f"order={order}",
        f"sources=[{{path: {moved}, share: 0.5, masks: ones}}]",
    )
    parts = train(there, dataset_dir, tmp_path / "parts", resume=True)
    expected, found = (load_file(result.checkpoint) for result in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    (source,) = record["sources"]
    index = json.loads((second_dir / "dataset.json").read_text())["shards"]
    assert source["shards"] == {entry["file"]: entry["sha256"] for entry in index}
    assert (source["share"], source["pairs"], source["train_scenes"]) == (0.5, 4, ["attic", "street"])
    assert set(record["train_scenes"] + record["validation_scenes"]) == {"attic", "barn", "cellar"}
    alone = train(tiny_recipe("steps=9", "batch=3", f"order={order}"), dataset_dir, tmp_path / "alone")
    assert whole.validation.keys() == alone.validation.keys()
    assert whole.validation["psnr_input"] == alone.validation["psnr_input"], "the same images are validated"
    assert any(not torch.equal(weights, expected[name]) for name, weights in load_file(alone.checkpoint).items())


def test_half_of_the_patches_are_from_the_second_dataset(
    dataset_dir, second_dir, tmp_path, tiny_recipe, monkeypatch
):
    from relo.training.run import optimisation

    real, seen = optimisation.total_loss, []

    def watch(restored, sharp, mask, weights, blur, *others):
        halved = ((2 * blur - sharp).abs() < 1e-3).flatten(1).all(dim=1)  # as only the second dataset's are
        assert torch.equal(halved, (mask == 1).flatten(1).all(dim=1)), "the masks of the second are ones"
        seen.append(halved.tolist())
        return real(restored, sharp, mask, weights, blur, *others)

    monkeypatch.setattr(optimisation, "total_loss", watch)
    recipe = tiny_recipe("steps=8", f"sources=[{{path: {second_dir}, share: 0.5, masks: ones}}]")
    train(recipe, dataset_dir, tmp_path / "run")
    assert seen == [[False, True]] * 8


def test_other_data_of_a_source_are_another_run(dataset_dir, second_dir, tmp_path, tiny_recipe):
    recipe = tiny_recipe("steps=2", f"sources=[{{path: {second_dir}, share: 0.5}}]")
    train(recipe.model_copy(update={"steps": 1}), dataset_dir, tmp_path / "run")
    other = tiny_recipe("steps=2", f"sources=[{{path: {second_dir / 'attic.h5'}, share: 0.5}}]")
    with pytest.raises(TrainingError, match="trained on another dataset"):
        train(other, dataset_dir, tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="trained with another sources"):
        train(tiny_recipe("steps=2"), dataset_dir, tmp_path / "run", resume=True)


def test_a_source_that_is_missing_or_too_small_is_named_before_anything_is_written(
    dataset_dir, tmp_path, tiny_recipe
):
    with pytest.raises(TrainingError, match="gopro: does not exist, but the recipe draws from it"):
        train(tiny_recipe("sources=[{path: gopro, share: 0.5}]"), dataset_dir, tmp_path / "run")
    small = write_dataset(tmp_path / "small", {"pond": "train"}, pairs=1, size=(20, 33))
    with pytest.raises(TrainingError, match=r"pond\.h5: patches of 24 px do not fit"):
        train(tiny_recipe("crop=24", f"sources=[{{path: {small}, share: 0.5}}]"), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_before_there_were_sources_is_resumed(dataset_dir, tmp_path, tiny_recipe):
    """Neither its recipe.yaml nor its run.json tells of what has come since."""
    run, since = tmp_path / "run", ("betas", "weight_decay", "cosine", "rotate", "progressive", "sources")
    train(tiny_recipe("steps=2"), dataset_dir, run)
    settings = yaml.safe_load((run / "recipe.yaml").read_text())
    settings = {key: value for key, value in settings.items() if key not in since}
    settings["loss"] = {key: settings["loss"][key] for key in ("l1", "ssim", "msfr", "msfr_form", "mask")} | {
        "shift_invariant": False
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
    record = json.loads((run / "run.json").read_text())
    del record["sources"]
    (run / "run.json").write_text(json.dumps(record))
    assert train(tiny_recipe("steps=3"), dataset_dir, run, resume=True).steps == 3


def test_a_compiled_network_is_saved_under_its_own_names_and_resumed(
    dataset_dir, tmp_path, tiny_recipe, monkeypatch
):
    """The graph is captured, which takes seconds, but run as it is: to make machine code of it takes minutes."""
    compile_with = nn.Module.compile
    compiled = []

    def capture(module):
        compiled.append(type(module).__name__)
        compile_with(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", capture)
    recipe = tiny_recipe("steps=4", "compile=true", "ema=0.9", "val_every=2")
    whole = train(recipe, dataset_dir, tmp_path / "whole")
    assert compiled == ["LBAG"]
    train(recipe.model_copy(update={"steps": 3}), dataset_dir, tmp_path / "parts")
    parts = train(recipe, dataset_dir, tmp_path / "parts", resume=True)
    assert parts.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    plain = train(recipe.model_copy(update={"compile": False}), dataset_dir, tmp_path / "plain")
    expected = load_file(plain.checkpoint)
    for name, weights in load_file(whole.checkpoint).items():
        torch.testing.assert_close(weights, expected[name])


def test_compiling_needs_a_compiler(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*compile=false"):
        train(tiny_recipe("compile=true"), dataset_dir, tmp_path / "run")


def test_the_average_follows_the_weights(dataset_dir, tmp_path, tiny_recipe):
    recipe = tiny_recipe("checkpoint_every=1", "val_fraction=0")
    torch.manual_seed(recipe.seed)
    average = create_model("lbag", **recipe.model.options).state_dict()
    for step in range(1, 4):
        plain = train(recipe.model_copy(update={"steps": step}), dataset_dir, tmp_path / f"plain{step}")
        for name, weights in load_file(plain.checkpoint).items():
            average[name] = 0.75 * average[name] + 0.25 * weights
    averaged = train(recipe.model_copy(update={"steps": 3, "ema": 0.75}), dataset_dir, tmp_path / "averaged")
    found = load_file(averaged.checkpoint)
    for name, weights in average.items():
        torch.testing.assert_close(found[name], weights, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_clipped(dataset_dir, tmp_path, tiny_recipe):
    """Adam does not see the length of the gradient, but for its epsilon of 1e-8: clip far below that."""
    recipe = tiny_recipe("steps=1", "val_fraction=0", "clip=1e-12")
    torch.manual_seed(recipe.seed)
    before = create_model("lbag", **recipe.model.options).state_dict()
    clipped = load_file(train(recipe, dataset_dir, tmp_path / "clipped").checkpoint)
    free = load_file(train(recipe.model_copy(update={"clip": 0.0}), dataset_dir, tmp_path / "free").checkpoint)
    assert max(float((clipped[name] - before[name]).abs().max()) for name in before) < 1e-6
    assert max(float((free[name] - before[name]).abs().max()) for name in before) > 1e-4


def test_the_best_weights_are_kept_over_a_resume(dataset_dir, tmp_path, tiny_recipe):
    recipe = tiny_recipe("steps=12", "val_every=2", "lr=0.03")
    run = tmp_path / "run"
    train(recipe.model_copy(update={"steps": 7}), dataset_dir, run)
    train(recipe, dataset_dir, run, resume=True)
    scores = {line["step"]: line["validation"]["psnr_w"] for line in lines(run) if "validation" in line}
    record = load_checkpoint(run / "best.safetensors").training
    assert record["score"]["metric"] == "psnr_w"
    assert record["score"]["value"] == record["validation"]["psnr_w"] >= max(scores.values())
    assert record["steps"] == record["score"]["step"]
    assert record["steps"] == 7 or scores[record["steps"]] == record["score"]["value"]
    state = torch.load(run / "last.ckpt", weights_only=True)["callbacks"]["RunFolder"]
    assert state["best"] == record["score"]


def test_a_better_score_from_before_the_stop_is_not_replaced(dataset_dir, tmp_path, tiny_recipe):
    recipe = tiny_recipe("steps=4", "val_every=2")
    run = tmp_path / "run"
    train(recipe.model_copy(update={"steps": 2}), dataset_dir, run)
    content = torch.load(run / "last.ckpt", weights_only=True)
    content["callbacks"]["RunFolder"]["best"]["value"] = 99.0
    torch.save(content, run / "last.ckpt")
    before = (run / "best.safetensors").read_bytes()
    train(recipe, dataset_dir, run, resume=True)
    assert (run / "best.safetensors").read_bytes() == before
    more_images = recipe.model_copy(update={"steps": 6, "val_images": 3})
    train(more_images, dataset_dir, run, resume=True)
    assert load_checkpoint(run / "best.safetensors").training["score"]["images"] == 3, "other images, new score"


def test_without_any_blur_psnr_decides_which_weights_are_best(tmp_path, tiny_recipe):
    src = write_dataset(tmp_path / "d", {"a": "train", "b": "train"}, draw=draw_darkened)
    result = train(tiny_recipe("steps=2"), src, tmp_path / "run")
    record = load_checkpoint(result.best).training
    assert record["score"]["metric"] == "psnr"
    assert record["validation"]["psnr_w"] is None
    assert record["score"]["value"] == result.validation["psnr"]


def test_tensorboard_and_pictures_tell_the_same(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result, _ = straight
    events = EventAccumulator(str(result.run / "tensorboard"))
    events.Reload()
    logged = {line["step"]: line["loss"] for line in lines(result.run) if "loss" in line}
    plotted = {event.step: event.value for event in events.Scalars("loss/loss")}
    assert plotted == pytest.approx(logged)
    assert {"training/lr", "loss/l1", "validation/psnr_w"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [4, 8]
    pictures = sorted((result.run / "samples").iterdir())
    assert [path.name for path in pictures] == ["step_00000004.png", "step_00000008.png"]
    # Two images of 41 x 30 px: blurred, restored, sharp, predicted mask.
    assert read_image(pictures[0]).shape == (2 * 30, 4 * 41, 3)


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
    from relo.training.run import optimisation

    real = optimisation.total_loss

    def broken(*args):
        terms = real(*args)
        return terms | {"total": terms["total"] * float("nan")}

    monkeypatch.setattr(optimisation, "total_loss", broken)
    with pytest.raises(TrainingError, match=r"became nan at step 1 \(term: loss; batch: \w+/\d+, \w+/\d+\)"):
        train(tiny_recipe(), dataset_dir, tmp_path / "run")


def test_a_term_that_is_not_a_number_is_named_and_nothing_is_saved(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    from relo.training.run import optimisation

    real, calls = optimisation.total_loss, []

    def broken(*args):
        calls.append(1)
        terms = real(*args)
        return terms | dict.fromkeys(("msfr", "total"), terms["total"] * float("inf")) if len(calls) == 3 else terms

    monkeypatch.setattr(optimisation, "total_loss", broken)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"became inf at step 3 \(term: msfr; batch: "):
        train(tiny_recipe("steps=3", "checkpoint_every=2"), dataset_dir, run)
    assert load_checkpoint(run).training["steps"] == 2
    monkeypatch.setattr(optimisation, "total_loss", real)
    assert train(tiny_recipe("steps=3", "checkpoint_every=2"), dataset_dir, run, resume=True).steps == 3


def test_spoilt_weights_are_never_saved(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    """The loss of the step is good, its gradient is not."""
    from relo.training.run import optimisation

    def broken(restored, *args):
        restored.image.register_hook(lambda gradient: gradient * float("nan"))
        return {"total": (restored.image - 0.5).square().mean()}

    monkeypatch.setattr(optimisation, "total_loss", broken)
    with pytest.raises(TrainingError, match="weights became infinite or not a number by step 1"):
        train(tiny_recipe("steps=1"), dataset_dir, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not names & {"last.ckpt", "model.safetensors", "best.safetensors"}


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


def test_what_is_trained_on_what_is_told_first(dataset_dir, tmp_path, tiny_recipe):
    told = []
    result = train(tiny_recipe("steps=1"), dataset_dir, tmp_path / "run", announce=told.append)
    record = json.loads((result.run / "run.json").read_text())
    assert (record["device"], record["precision"], record["model"]) == ("cpu", "32-true", "lbag")
    (held_out,) = record["validation_scenes"]
    (line,) = told
    assert line.startswith("training lbag (") and " M parameters) on cpu: " in line
    assert line.endswith(f"{record['pairs']} pairs of 2 scenes, validated on {held_out}")


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_does_not_suffice_is_one_line(error, dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("relo.training.run.optimisation.RestorationTraining.training_step", fail)
    with pytest.raises(TrainingError, match=r"memory does not suffice\. Use a smaller batch"):
        train(tiny_recipe("steps=1"), dataset_dir, tmp_path / "run")


def test_another_run_is_not_overwritten(straight, dataset_dir):
    recipe, result, _ = straight
    before = result.checkpoint.read_bytes()
    with pytest.raises(TrainingError, match="holds a training run already"):
        train(recipe, dataset_dir, result.run)
    assert result.checkpoint.read_bytes() == before


def test_without_its_last_checkpoint_a_run_is_not_resumed_and_its_weights_stay(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    run = tmp_path / "run"
    shutil.copytree(result.run, run)
    (run / "last.ckpt").unlink()
    with pytest.raises(TrainingError, match=r"no last\.ckpt to resume from.*model\.weights") as caught:
        train(recipe, dataset_dir, run, resume=True)
    assert str(run) in str(caught.value)
    assert (run / "model.safetensors").read_bytes() == result.checkpoint.read_bytes()


def test_resuming_with_other_settings_or_data_is_refused(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    changed = recipe.model_copy(update={"lr": 1.0, "batch": 3})
    with pytest.raises(TrainingError, match="trained with another batch, lr"):
        train(changed, dataset_dir, result.run, resume=True)
    other = write_dataset(tmp_path / "d", {"attic": "train", "barn": "train", "new": "train"})
    with pytest.raises(TrainingError, match="another dataset"):
        train(recipe, other, result.run, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {"global_step": 8},
        lambda content: content | {"state_dict": {"model.a": torch.zeros(1)}},
        lambda content: content | {"global_step": -8},
    ],
)
def test_a_last_checkpoint_of_something_else_is_one_line(change, straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    run = tmp_path / "run"
    shutil.copytree(result.run, run)
    torch.save(change(torch.load(run / "last.ckpt", weights_only=True)), run / "last.ckpt")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"does not fit this run|damaged") as caught:
        train(recipe.model_copy(update={"steps": 10}), dataset_dir, run, resume=True)
    assert str(run) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (run / "model.safetensors").read_bytes() == before


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


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_written(
    dataset_dir, tmp_path, tiny_recipe
):
    with pytest.raises(ConfigError, match=r"16-mixed needs a GPU\. .* precision=bf16-mixed"):
        train(tiny_recipe("precision=16-mixed", "device=cpu"), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_used(dataset_dir, tmp_path, tiny_recipe):
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        train(tiny_recipe("device=cuda"), dataset_dir, tmp_path / "run")


def test_two_runs_do_not_share_a_folder(dataset_dir, tmp_path, tiny_recipe):
    with locked(tmp_path / "run"), pytest.raises(ReloError, match="another relo is writing here"):
        train(tiny_recipe("steps=1"), dataset_dir, tmp_path / "run")


def test_weights_to_start_from_may_be_a_run_folder(straight, dataset_dir, tmp_path, tiny_recipe):
    _, result, _ = straight
    recipe = tiny_recipe("steps=1", "lr=1e-12", f"model.weights={result.run}")
    name = "FAM1.merge.main.0.weight"
    started = load_file(train(recipe, dataset_dir, tmp_path / "a").checkpoint)
    torch.testing.assert_close(started[name], load_file(result.best)[name])
    only_last = tmp_path / "only_last"
    only_last.mkdir()
    (only_last / "model.safetensors").write_bytes(result.checkpoint.read_bytes())
    recipe = tiny_recipe("steps=1", "lr=1e-12", f"model.weights={only_last}")
    started = load_file(train(recipe, dataset_dir, tmp_path / "b").checkpoint)
    torch.testing.assert_close(started[name], load_file(result.checkpoint)[name])


@pytest.mark.parametrize(
    ("weights", "advice"),
    [
        ("MIMO-UNetPlus.pkl", r"does not exist\. The authors of MIMO-UNet publish it: github.* model.weights=PATH"),
        ("runs/lbag-tiny", r"does not exist\. Train it first: relo train lbag-tiny SRC -o .*runs/lbag-tiny"),
        ("empty", r"does not exist\. Give a file or a run folder"),
    ],
)
def test_missing_weights_say_where_to_get_them(weights, advice, dataset_dir, tmp_path, tiny_recipe):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=advice):
        train(tiny_recipe(f"model.weights={tmp_path / weights}"), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_does_not_need_the_weights_it_started_from(straight, dataset_dir, tmp_path, tiny_recipe):
    _, result, _ = straight
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(result.checkpoint.read_bytes())
    recipe = tiny_recipe("steps=2", f"model.weights={weights}")
    train(recipe.model_copy(update={"steps": 1}), dataset_dir, tmp_path / "run")
    weights.unlink()
    assert train(recipe, dataset_dir, tmp_path / "run", resume=True).steps == 2


def test_a_line_that_a_killed_run_left_half_written_is_dropped(straight, dataset_dir, tmp_path):
    recipe, result, _ = straight
    run = tmp_path / "run"
    train(recipe.model_copy(update={"steps": 4}), dataset_dir, run)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    train(recipe, dataset_dir, run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == (result.run / "metrics.jsonl").read_bytes()


def test_without_tensorboard_the_extra_is_named(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"'tensorboard' .*relo\[train\]"):
        train(tiny_recipe(), dataset_dir, tmp_path / "run")


def test_without_lightning_the_extra_is_named(dataset_dir, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r"relo\[train\]"):
        train(tiny_recipe(), dataset_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def motion_dir(tmp_path_factory):
    """Frames large enough for some pixels at an eighth of their size."""
    root = tmp_path_factory.mktemp("motion") / "shards"
    return write_dataset(root, {"a": "train", "b": "train"}, pairs=2, size=(40, 44))


@pytest.mark.parametrize(
    "settings",
    [
        ("loss={l1: 1.0, ssim: 0.0, mask: 0.0, mask_ce: 0.01, reblur: 1.0, tv: 0.002}", "ema=0.9"),
        ("loss={l1: 1.0, ssim: 0.0, mask: 0.0, mask_ce: 1.0}", "precision=bf16-mixed", "channels_last=false"),
        ("loss={l1: 0, ssim: 0, msfr: 1, msfr_form: windows, reblur: 1.0}", "model.options.trajectory_form=learned",
         "crop=32", "batch=1"),
    ],
)  # fmt: skip
def test_a_network_that_gives_motion_is_trained_and_resumed(settings, motion_dir, tmp_path, tiny_recipe):
    """M2AENet, in all that the trainer does with any network; patches are no multiple of its stride."""
    options = "model={name: m2aenet, options: {width: 4, enc_blocks: [1, 1, 1, 1]}}"
    recipe = tiny_recipe(options, "crop=36", "steps=4", "val_fraction=0", *settings)
    whole = train(recipe, motion_dir, tmp_path / "whole")
    train(recipe.model_copy(update={"steps": 2}), motion_dir, tmp_path / "parts")
    parts = train(recipe, motion_dir, tmp_path / "parts", resume=True)
    expected, found = (load_file(result.checkpoint) for result in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logged = lines(whole.run)[-1]
    assert {name for name in ("mask_ce", "reblur", "tv") if getattr(recipe.loss, name)} <= logged.keys()
    assert found["analyzer.weight"].any(), "it starts at zero"


def test_terms_of_motion_without_motion_are_told(dataset_dir, tmp_path, tiny_recipe):
    result = train(tiny_recipe("steps=1", "loss.reblur=1", "loss.mask_ce=1"), dataset_dir, tmp_path / "run")
    told = [note for note in result.notes if "gives no motion" in note]
    assert [note.split("loss.")[1] for note in told] == ["mask_ce had no effect", "reblur had no effect"]


def test_any_seed_will_do(dataset_dir, tmp_path, tiny_recipe):
    assert train(tiny_recipe("steps=2", f"seed={2**63 - 1}"), dataset_dir, tmp_path / "run").steps == 2


def test_a_mask_weight_without_masks_is_told(dataset_dir, tmp_path, tiny_recipe):
    plain = tiny_recipe("steps=1", "model={name: mimo_unet, options: {num_res: 1, width: 4}}")
    assert any("predicts no masks" in note for note in train(plain, dataset_dir, tmp_path / "a").notes)
    gated = tiny_recipe("steps=1")
    assert not any("predicts no masks" in note for note in train(gated, dataset_dir, tmp_path / "b").notes)


@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_state_for_resuming_is_a_checkpoint_too(ema, dataset_dir, tmp_path, tiny_recipe):
    result = train(tiny_recipe("steps=2", f"ema={ema}"), dataset_dir, tmp_path / "run")
    saved = load_checkpoint(result.checkpoint).model.state_dict()
    state = load_checkpoint(tmp_path / "run" / "last.ckpt").model.state_dict()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
