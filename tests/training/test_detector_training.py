"""A blur detector through the trainer: run folder, validation, resuming bit for bit, and scoring a checkpoint."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d

from relo.errors import ShardError, TrainingError
from relo.images import read_image
from relo.models.exprdiff.detector import BlurDetector
from relo.training import load_checkpoint, load_recipe, train
from relo.training.detector_evaluation import evaluate_detector, require_restoration
from relo.training.run.optimisation import RestorationTraining

from .conftest import TINY, write_dataset

TINY_DETECTOR = (
    "model.options={patch: 12, width: 8, temperature: 4.0}",
    "ema=0",
    "crop=24",
    "batch=4",
    "val_every=4",
    "log_every=2",
    "checkpoint_every=1000",
)


def draw_half(rng, size, dtype, blurred=True):
    """Noise of which all right of the middle is smeared in `blur`: no patch is of both kinds."""
    sharp = rng.integers(0, 256, (*size, 3)).astype(dtype)
    mask = np.zeros(size, np.uint8)
    mask[:, 36:] = 255 * blurred
    smeared = uniform_filter1d(sharp.astype(float), 5, axis=1).astype(dtype)
    return np.where(mask[..., None] > 0, smeared, sharp), sharp, mask


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Three train scenes and a test scene of 72 x 48 px; one pair of the test scene is sharp."""
    scenes = {"attic": "train", "barn": "train", "cellar": "train", "yard": "test"}
    root = tmp_path_factory.mktemp("halves") / "shards"
    return write_dataset(root, scenes, size=(48, 72), draw=draw_half, unblurred=("yard/0001",))


def recipe_of(*overrides):
    return load_recipe("exprdiff-detector-tiny", [*TINY_DETECTOR, *overrides])


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(halves, tmp_path_factory):
    recipe = recipe_of("steps=120", "lr=5e-3", "batch=8", "cosine={hold: 60, steps: 60}", "val_every=40")
    return train(recipe, halves, tmp_path_factory.mktemp("runs") / "run")


def test_it_learns_and_the_best_is_kept_by_accuracy(trained, halves):
    validated = [line["validation"] for line in lines(trained.run) if "validation" in line]
    assert [set(quality) for quality in validated] == [{"accuracy", "majority", "precision", "recall"}] * 3
    assert trained.validation["majority"] == 0.5
    assert trained.validation["accuracy"] > 0.9
    best = load_checkpoint(trained.run)
    assert (best.path, best.name) == (trained.best, "exprdiff_detector")
    assert best.training["score"]["metric"] == "accuracy"
    assert best.training["score"]["value"] == max(quality["accuracy"] for quality in validated)
    assert trained.notes == ()
    logged = [line for line in lines(trained.run) if "loss" in line]
    assert all(line["loss"] == line["patch_ce"] for line in logged)
    picture = read_image(trained.run / "samples" / "step_00000120.png")
    assert picture.shape == (3 * 48, 3 * 72, 3), "blurred, found and mask of three images"
    found, mask = picture[:, 72:144] > 127, picture[:, 144:] > 127
    assert np.array_equal(found[..., 0], found[..., 2])
    assert (found == mask).mean() == pytest.approx(trained.validation["accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    "settings", [(), ("ema=0.9", "precision=bf16-mixed"), ("channels_last=true", "workers=1")], ids=",".join
)
def test_six_steps_and_four_more_are_ten_bit_for_bit(settings, halves, tmp_path):
    """With the noise of the Gumbel-softmax."""
    recipe = recipe_of("steps=10", *settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, halves, whole)
    train(recipe.model_copy(update={"steps": 6}), halves, parts)
    train(recipe, halves, parts, resume=True)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_of_before_there_was_a_warmup_goes_on(halves, tmp_path):
    run = tmp_path / "run"
    train(recipe_of("steps=2", "warmup=0"), halves, run)
    text = (run / "recipe.yaml").read_text()
    assert "warmup: 0\n" in text
    (run / "recipe.yaml").write_text(text.replace("warmup: 0\n", ""))
    with pytest.raises(TrainingError, match="warmup"):
        train(recipe_of("steps=3", "warmup=2"), halves, run, resume=True)
    assert train(recipe_of("steps=3", "warmup=0"), halves, run, resume=True).steps == 3


def test_a_batch_is_trained_with_noise_towards_the_shares_of_its_masks(halves, tmp_path, monkeypatch):
    seen = []
    terms = RestorationTraining._terms

    def watch(self, found, batch):
        seen.append((found.scores.detach(), batch["mask"], batch["blur"], self.model))
        return terms(self, found, batch)

    monkeypatch.setattr(RestorationTraining, "_terms", watch)
    train(recipe_of("steps=1", "model.options.soft_labels=true"), halves, tmp_path / "run")
    ((scores, mask, blur, model),) = seen
    assert scores.shape == (8, 2, 2, 2) and mask.shape == (8, 1, 24, 24)
    assert isinstance(model, BlurDetector) and model.soft_labels
    assert mask[:4].any() and not mask[4:].any(), "the second half are the sharp frames"
    still = (mask[:4] == 0).expand(-1, 3, -1, -1)
    assert torch.equal(blur[:4][still], blur[4:][still]) and not torch.equal(blur[:4], blur[4:])
    share = torch.nn.functional.avg_pool2d(mask, 12)[:, 0]
    log_sharp, log_blurred = scores.log_softmax(dim=1).unbind(dim=1)
    expected = -(share * log_blurred + (1 - share) * log_sharp).mean().item()
    (line,) = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_recipes_loss_are_told_to_have_no_effect(halves, tmp_path):
    result = train(recipe_of("steps=1", "loss.l1=1"), halves, tmp_path / "run")
    assert result.notes == ("a blur detector has a loss of its own: loss.l1 had no effect",)


@pytest.mark.parametrize("recipe", ["exprdiff-detector", "exprdiff-detector-tiny"])
def test_the_recipes_are_of_the_paper_where_it_tells(recipe):
    options = load_recipe(recipe).model.options
    assert options["patch"] == 60
    assert load_recipe(recipe).crop % 60 == 0


def test_a_checkpoint_is_scored_by_patches(trained, halves, tmp_path):
    seen = []
    result = evaluate_detector(load_checkpoint(trained.run), halves, progress=lambda *args: seen.append(args[:2]))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [counts.patches for _, _, counts in result.images] == [24] * 3
    assert [counts.blurred for _, _, counts in result.images] == [12, 0, 12]
    assert result.overall["majority"] == pytest.approx(48 / 72)
    assert result.overall["accuracy"] > 0.9
    table, content = result.write(tmp_path)
    rows = table.read_text().splitlines()
    assert rows[0] == "scene,id,patches,blurred,found,both"
    assert rows[2].startswith("yard,0001,24,0,") and len(rows) == 4
    told = json.loads(content.read_text())
    assert told["overall"] == result.overall and told["blurred_from"] == 0.1
    assert (told["split"], told["patches"], told["images"]) == ("test", 72, 3)
    assert "more than 10% is blurred" in result.lines()[0]
    assert f"{result.overall['accuracy']:.4f}" in result.lines()[2]
    train_split = evaluate_detector(load_checkpoint(trained.run), halves, split="train")
    assert list(train_split.scenes) == ["attic", "barn", "cellar"]
    assert len(train_split.lines()) == 2 + 3 + 1 + 1


def test_without_a_test_split_all_is_scored_and_told(trained, tmp_path):
    root = write_dataset(
        tmp_path / "data", {"attic": "train"}, size=(48, 72), draw=draw_half, unblurred=("attic/0000",)
    )
    result = evaluate_detector(load_checkpoint(trained.run), root)
    assert (result.split, result.notes) == ("all", ("there is no split 'test': all 3 images were scored",))
    with pytest.raises(ShardError, match="no split 'val'"):
        evaluate_detector(load_checkpoint(trained.run), root, split="val")


def test_a_share_of_nothing_is_none(trained, tmp_path):
    root = write_dataset(
        tmp_path / "data", {"attic": "test"}, pairs=1, size=(48, 72), draw=draw_half, unblurred=("attic/0000",)
    )
    told = evaluate_detector(load_checkpoint(trained.run), root).to_json()
    assert told["overall"]["recall"] is None and told["overall"]["majority"] == 1
    json.dumps(told, allow_nan=False)


def test_detectors_and_restorers_are_not_taken_for_each_other(trained, dataset_dir, tmp_path):
    with pytest.raises(TrainingError, match="holds a blur detector, which finds blur and restores nothing"):
        require_restoration(load_checkpoint(trained.run))
    train(load_recipe("lbag-tiny", [*TINY, "steps=1"]), dataset_dir, tmp_path / "lbag")
    restorer = load_checkpoint(tmp_path / "lbag")
    require_restoration(restorer)
    with pytest.raises(TrainingError, match="holds a lbag, no blur detector"):
        evaluate_detector(restorer, dataset_dir)
