"""BlurDM in three stages: what each trains and keeps, the losses, resuming in any of them, what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from relo.errors import ConfigError, ReloError, TrainingError
from relo.locks import locked
from relo.models import create_model
from relo.training import evaluate, load_checkpoint, load_recipe, train
from relo.training.prior_stages import Priors, parts_of, prior_loss, priors, restored_in_stage, train_only_parts_of
from relo.training.recipe import PriorTraining
from relo.training.run.folder import RunFolder
from relo.training.run.record import parts_in_words

BACKBONES = {
    "mimo_unet_plus": "num_res: 1, width: 4",
    "stripformer": "width: 16, blocks: 2, decoder_blocks: 2",
    "fftformer": "dim: 4, blocks: [1, 1, 1], refinement_blocks: 1",
    "loformer_s": "dim: 8, enc_blocks: [1, 1, 1], middle_blocks: 1, dec_blocks: [1, 1, 1]",
}
STEPS = {"encode": 4, "diffuse": 5, "restore": 3}


def recipe_of(backbone="mimo_unet_plus", steps=STEPS, *overrides):
    common = ("crop=16", "batch=2", "val_every=4", "log_every=2", "checkpoint_every=1000", "val_images=2")
    return load_recipe(
        f"blurdm_{backbone}-tiny",
        [
            f"model.options={{backbone: {backbone}, {BACKBONES[backbone]}}}",
            *common,
            *(f"stages.{stage}={{steps: {count}}}" for stage, count in steps.items()),
            *overrides,
        ],
    )


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(dataset_dir, tmp_path_factory):
    seen = []
    run = tmp_path_factory.mktemp("runs") / "straight"
    result = train(recipe_of(), dataset_dir, run, progress=lambda *args: seen.append(args))
    return result, seen


def parts(path):
    """Tensors of a file, part by part."""
    grouped = {}
    for name, tensor in load_file(path).items():
        grouped.setdefault(name.partition(".")[0], {})[name] = tensor
    return grouped


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_stages_follow_each_other(straight):
    result, seen = straight
    run = result.run
    assert result.steps == 12
    steps = [args for args in seen if "validating" not in args[2]]
    assert [args[:2] for args in steps] == [(step, 12) for step in range(1, 13)]
    assert [args[2].split()[0] for args in steps] == ["encode"] * 4 + ["diffuse"] * 5 + ["restore"] * 3
    assert (4, 12, "encode 1/3 validating: 0 of 2 images") in seen
    logged = [{key for line in lines(folder) for key in line} for folder in (run / "encode", run / "diffuse", run)]
    assert [("charbonnier" in keys, "prior" in keys) for keys in logged] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert all("validation" in keys for keys in logged)
    assert load_recipe(run / "stages.yaml") == recipe_of()
    words = [note for note in result.notes if "trained:" in note]
    assert len(words) == 3
    assert "diffusion" not in words[0].partition("frozen")[0]
    assert "trained: diffusion (2.07 M); frozen: backbone" in words[1]
    assert words[2].endswith("frozen: nothing")


def test_each_stage_trains_its_parts_alone_from_the_best_of_the_one_before(straight):
    run = straight[0].run
    encoded, diffused, restored = (parts(run / name / "model.safetensors") for name in ("encode", "diffuse", "."))
    torch.manual_seed(0)
    fresh = create_model("blurdm", **recipe_of().in_stages()["encode"].model.options).state_dict()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in encoded["diffusion"].items())
    assert any(not torch.equal(fresh[name], tensor) for name, tensor in encoded["sharp_encoder"].items())
    best = parts(run / "encode" / "best.safetensors")
    for part in ("backbone", "sharp_encoder"):  # with the statistics of batch normalisation
        assert same(best[part], diffused[part])
    assert not same(best["diffusion"], diffused["diffusion"])
    assert restored.keys() == {"backbone", "diffusion"}
    assert not same(restored["backbone"], diffused["backbone"])
    record = json.loads((run / "diffuse" / "run.json").read_text())
    assert record["parts"]["backbone"]["trained"] == 0 < record["parts"]["diffusion"]["trained"]
    assert record["started_from"] != json.loads((run / "run.json").read_text())["started_from"]


def test_the_run_stands_for_its_last_stage(straight, dataset_dir):
    checkpoint = load_checkpoint(straight[0].run)
    assert checkpoint.name == "blurdm"
    assert checkpoint.options["sharp_encoder"] is False
    assert len(evaluate(straight[0].run, dataset_dir).rows) == 3


@pytest.mark.parametrize(
    "stopped", [{"encode": 2}, {"diffuse": 2}, {"restore": 1}], ids=lambda stopped: next(iter(stopped))
)
def test_resumed_in_any_stage_it_equals_the_straight_run(stopped, straight, dataset_dir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    (stage, at), plain = next(iter(stopped.items())), RunFolder.on_train_batch_end

    def interrupt(self, trainer, *args):
        if self.recipe.prior.stage == stage and trainer.global_step == at:
            self._interrupts.received = True
        plain(self, trainer, *args)

    monkeypatch.setattr(RunFolder, "on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(), dataset_dir, run)
    monkeypatch.undo()
    assert (run / "restore").exists() is False
    resumed = train(recipe_of(), dataset_dir, run, resume=True)
    assert resumed.steps == 12
    for name in ("encode", "diffuse", "."):
        for file in ("model.safetensors", "best.safetensors", "metrics.jsonl"):
            assert (run / name / file).read_bytes() == (straight[0].run / name / file).read_bytes()
    again = train(recipe_of(), dataset_dir, run, resume=True)
    assert sum("nothing to do" in note for note in again.notes) == 3


def test_another_start_is_noticed(straight, dataset_dir, tmp_path):
    run = tmp_path / "run"
    train(recipe_of(), dataset_dir, run)
    train(recipe_of(steps=STEPS | {"encode": 8}).in_stages()["encode"], dataset_dir, run / "encode", resume=True)
    if (run / "encode" / "best.safetensors").read_bytes() == (
        straight[0].run / "encode" / "best.safetensors"
    ).read_bytes():
        pytest.skip("four more steps were no better")
    with pytest.raises(TrainingError, match="other weights than the stage before"):
        train(recipe_of(steps=STEPS | {"encode": 8}), dataset_dir, run, resume=True)


def test_the_first_stage_alone_restores_nothing(straight):
    with pytest.raises(TrainingError, match="first stage of a BlurDM"):
        load_checkpoint(straight[0].run / "encode")
    assert load_checkpoint(straight[0].run / "diffuse").name == "blurdm"


@pytest.mark.parametrize("stage", ["encode", "diffuse"])
def test_what_stops_the_last_step_of_a_stage_stops_the_run(stage, dataset_dir, tmp_path, monkeypatch):
    plain = RunFolder.on_train_batch_end

    def interrupt(self, trainer, *args):
        plain(self, trainer, *args)
        if self.recipe.prior.stage == stage and trainer.global_step == self.recipe.steps:
            self._interrupts.received = True  # as late as during the last validation

    monkeypatch.setattr(RunFolder, "on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_later_stages_are_checked_before_anything_is_trained(dataset_dir, tmp_path):
    with pytest.raises(TrainingError, match="patches of 512 px do not fit"):
        train(recipe_of("mimo_unet_plus", STEPS, "stages.restore.crop=512"), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refused_resume_changes_nothing(straight, dataset_dir, tmp_path):
    run = shutil.copytree(straight[0].run, tmp_path / "run")
    before = (run / "stages.yaml").read_bytes()
    with pytest.raises(TrainingError, match="with another lr"):
        train(recipe_of("mimo_unet_plus", STEPS, "stages.restore.lr=0.5"), dataset_dir, run, resume=True)
    assert (run / "stages.yaml").read_bytes() == before
    best = (run / "encode" / "best.safetensors").read_bytes()
    with pytest.raises(
        TrainingError, match=r"beyond 4 steps: the stage 'restore' was begun.*stages\.encode\.steps=4"
    ):
        train(recipe_of("mimo_unet_plus", STEPS | {"encode": 6}), dataset_dir, run, resume=True)
    assert (run / "encode" / "best.safetensors").read_bytes() == best
    (run / "diffuse" / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"diffuse: holds no model\.safetensors, though the stage 'restore'"):
        train(recipe_of(), dataset_dir, run, resume=True)
    shutil.rmtree(run / "encode")
    with pytest.raises(TrainingError, match=r"encode: holds no last\.ckpt, though the stage 'restore' was begun"):
        train(recipe_of(), dataset_dir, run, resume=True)


def test_the_last_stage_may_go_on(straight, dataset_dir, tmp_path):
    run = shutil.copytree(straight[0].run, tmp_path / "run")
    assert train(recipe_of("mimo_unet_plus", STEPS | {"restore": 4}), dataset_dir, run, resume=True).steps == 13


def test_a_layer_that_is_never_used_does_not_make_its_part_frozen():
    model = create_model("blurdm", **recipe_of("fftformer").in_stages()["restore"].model.options)
    train_only_parts_of(model, "restore")
    assert parts_of(model)["backbone"]["frozen"] > 0
    assert parts_in_words(model)[0].endswith("frozen: nothing")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trained_parameter_gets_a_gradient(backbone):
    """Else several processes refuse to train."""
    torch.manual_seed(0)
    blur, sharp = torch.rand(2, 2, 3, 32, 32)
    for stage, recipe in recipe_of(backbone).in_stages().items():
        model = create_model("blurdm", **recipe.model.options).train()
        train_only_parts_of(model, stage)
        if stage == "diffuse":
            found = priors(model, blur, sharp)
            prior_loss(found, PriorTraining(stage=stage))["total"].backward()
        else:
            restored = restored_in_stage(model, stage, blur, sharp)
            sum(image.square().mean() for image in restored.scales or (restored.image,)).backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_finished_run_is_not_overwritten(straight, dataset_dir):
    with pytest.raises(TrainingError, match="holds a training run already"):
        train(recipe_of(), dataset_dir, straight[0].run)


@pytest.mark.parametrize("override", ["model.options.foo=3", "model.weights=nope.pth"])
def test_what_no_stage_can_begin_with_leaves_no_folder(override, dataset_dir, tmp_path):
    with pytest.raises(ReloError, match=r"'foo'|nope\.pth"):
        train(recipe_of("mimo_unet_plus", STEPS, override), dataset_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_in_the_folder_of_another_run_no_stage_begins(resume, dataset_dir, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"of another run")
    with pytest.raises(TrainingError, match=r"holds a training run already|no last\.ckpt to resume from"):
        train(recipe_of(), dataset_dir, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kept", [".", "encode"])
def test_a_run_in_progress_is_left_alone(kept, resume, dataset_dir, tmp_path):
    written = {tmp_path / "stages.yaml": "a", tmp_path / "encode" / "metrics.jsonl": "b"}
    (tmp_path / "encode").mkdir()
    for path, text in written.items():
        path.write_text(text)
    with locked(tmp_path / kept), pytest.raises(ReloError, match="another relo is writing here"):
        train(recipe_of(), dataset_dir, tmp_path, resume=resume)
    assert {path: path.read_text() for path in written} == written


def test_each_stage_is_announced(dataset_dir, tmp_path):
    said = []
    train(recipe_of("mimo_unet_plus", dict.fromkeys(STEPS, 1)), dataset_dir, tmp_path, announce=said.append)
    assert [line.partition(":")[0] for line in said] == [
        "stage encode 1/3",
        "stage diffuse 2/3",
        "stage restore 3/3",
    ]


@pytest.mark.parametrize("key", ["seed=3", "val_fraction=0.3"])
def test_no_stage_holds_out_other_scenes(key):
    with pytest.raises(ConfigError, match=rf"stages\.encode: '{key.partition('=')[0]}' is set for all stages"):
        recipe_of("mimo_unet_plus", STEPS, f"stages.encode.{key}")


@pytest.mark.parametrize("backbone", sorted(BACKBONES.keys() - {"mimo_unet_plus"}))
def test_the_other_backbones(backbone, dataset_dir, tmp_path):
    result = train(recipe_of(backbone, {"encode": 1, "diffuse": 1, "restore": 1}), dataset_dir, tmp_path / "run")
    assert result.steps == 3
    assert load_checkpoint(result.run).options["backbone"] == backbone


def test_diffusing_lowers_its_loss_by_half_in_300_steps():
    torch.manual_seed(0)
    model = create_model("blurdm", num_res=1, width=4, sharp_encoder=True).train()
    train_only_parts_of(model, "diffuse")
    blur, sharp = torch.rand(2, 2, 3, 16, 16)
    settings = recipe_of().in_stages()["diffuse"]
    optimizer = torch.optim.Adam(model.diffusion.parameters(), settings.lr)
    losses = []
    for _ in range(300):
        loss = prior_loss(priors(model, blur, sharp, settings.prior.draws), settings.prior)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]


def test_prior_losses_written_out():
    first, second = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0))
    found = Priors(first, second)
    difference = (first - second).numpy().astype(float)
    l1 = prior_loss(found, PriorTraining(stage="diffuse", loss="l1"))
    assert float(l1["total"]) == pytest.approx(abs(difference).mean(), rel=1e-6)
    charbonnier = prior_loss(found, PriorTraining(stage="diffuse"))
    assert float(charbonnier["prior"]) == pytest.approx(((difference**2 + 1e-6) ** 0.5).mean(), rel=1e-6)


def test_parts():
    for stage, trained in (
        ("encode", {"backbone", "sharp_encoder"}),
        ("diffuse", {"diffusion"}),
        ("restore", {"backbone", "diffusion"}),
    ):
        model = create_model("blurdm", num_res=1, width=4, sharp_encoder=True)
        train_only_parts_of(model, stage)
        assert {name for name, counts in parts_of(model).items() if counts["trained"]} == trained
    assert parts_of(create_model("mimo_unet", num_res=1, width=4)) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model={name: lbag}"], "stages are for model.name=blurdm"),
        (["stages.diffuse.stepps=3"], "unknown key 'stepps'"),
        (["stages.dream.steps=3"], "unknown key 'stages.dream'"),
        (["stages.encode.crop=10"], "crop must be a multiple of 4"),
        (["steps=7"], "each stage has its own steps"),
        (["stages.diffuse.device=cpu"], "'device' is set for all stages together"),
        (["stages.diffuse={lr: 1.0e-3}"], "'steps' is missing"),
        (["stages=null", "prior.stage=diffuse"], "needs model.options.sharp_encoder"),
    ],
)
def test_wrong_recipes_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("blurdm_mimo_unet_plus-tiny", overrides)
