"""Recipes: packaged ones load and hold the published numbers; mistakes are explained."""

from fractions import Fraction

import pytest

from relo.errors import ConfigError
from relo.models import create_model
from relo.training.recipe import Cosine, Recipe, list_recipes, load_recipe, recipe_yaml, what_changes_the_result


def test_every_packaged_recipe_loads_and_names_a_model():
    assert {"lbag", "lbag-tiny", "mimo_unet", "mimo_unet-tiny"} <= set(list_recipes())
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        create_model(recipe.model.name, **recipe.model.options)


def test_lbag_is_the_published_recipe():
    recipe = load_recipe("lbag")
    assert (recipe.steps, recipe.batch, recipe.crop, recipe.lr, recipe.gamma) == (300_000, 12, 256, 1e-4, 0.5)
    assert recipe.milestones[:2] == (100_000, 200_000)
    terms = {
        "l1": 1.0, "ssim": 1.0, "msfr": 0.1, "msfr_form": "modulus", "mask": 0.1, "shift_invariant": True,
        "psnr": 0.0, "mask_ce": 0.0, "reblur": 0.0, "tv": 0.0,
    }  # fmt: skip
    assert terms.items() <= recipe.loss.model_dump().items()
    assert (recipe.bapc, recipe.hflip, recipe.vflip) == (0.5, 0.5, 0.0)
    assert (recipe.clip, recipe.ema, recipe.bapc_form, recipe.precision) == (0.0, 0.0, "clean", "32-true")
    assert recipe.model.options["num_res"] == 20
    assert recipe == Recipe(model=recipe.model)


def test_nafnet_is_the_published_recipe():
    recipe = load_recipe("nafnet")
    assert (recipe.steps, recipe.batch, recipe.crop, recipe.lr, recipe.clip) == (200_000, 32, 256, 1e-3, 0.01)
    assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.9), 1e-3)
    assert recipe.cosine == Cosine(steps=200_000, hold=0, lr_min=1e-7)
    assert (recipe.hflip, recipe.vflip, recipe.rotate, recipe.bapc) == (0.5, 0.5, 0.5, 0)
    assert {name for name, weight in recipe.loss if isinstance(weight, float) and weight} == {"psnr"}
    wide = load_recipe("nafnet_64")
    assert (wide.steps, wide.batch, wide.cosine.steps) == (400_000, 64, 400_000)
    assert wide.model.options["width"] == 64


def test_restormer_is_the_published_recipe():
    recipe = load_recipe("restormer")
    assert recipe.crops == (128, 160, 192, 256, 320, 384)
    assert recipe.batches == (64, 40, 32, 16, 8, 8)
    assert [stage.steps for stage in recipe.progressive] == [92_000, 64_000, 48_000, 36_000, 36_000]
    assert recipe.steps - sum(stage.steps for stage in recipe.progressive) == 24_000
    assert (recipe.lr, recipe.betas, recipe.weight_decay, recipe.clip) == (3e-4, (0.9, 0.999), 1e-4, 0.01)
    assert recipe.cosine == Cosine(hold=92_000, steps=208_000, lr_min=1e-6)


def test_m2aenet_is_the_recipe_of_its_paper():
    recipe = load_recipe("m2aenet")
    assert (recipe.batch, recipe.crop, recipe.lr, recipe.cosine.lr_min) == (8, 256, 1e-3, 1e-6)
    assert (recipe.betas, recipe.weight_decay, recipe.bapc) == ((0.9, 0.9), 1e-3, 0.5)
    assert [source.exact_share for source in recipe.sources] == [Fraction(1, 2)]
    loss = recipe.loss
    assert (loss.l1, loss.ssim, loss.msfr, loss.mask_ce, loss.reblur, loss.tv) == (1, 1, 0.1, 0.01, 1, 0.002)


def test_the_resolved_recipe_is_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    for name in list_recipes():
        steps = "stages.restore.steps" if load_recipe(name).stages else "steps"
        recipe = load_recipe(name, [f"{steps}=7", "model.options.width=4"])
        path.write_text(recipe_yaml(recipe))
        assert load_recipe(path) == recipe
        assert recipe.in_stages()["restore"].steps == 7


def test_running_settings_do_not_change_the_result():
    one = load_recipe("lbag-tiny", ["steps=5", "workers=3", "val_every=2"])
    two = load_recipe("lbag-tiny")
    assert what_changes_the_result(one) == what_changes_the_result(two)


def test_a_source_may_have_moved_but_not_its_share_or_masks():
    here, there = (load_recipe("lbag-tiny", [f"sources=[{{path: {p}, share: 0.5}}]"]) for p in ("a", "b"))
    assert what_changes_the_result(here) == what_changes_the_result(there)
    for other in ("share: 0.4", "share: 0.5, masks: ones"):
        changed = load_recipe("lbag-tiny", [f"sources=[{{path: a, {other}}}]"])
        assert what_changes_the_result(changed) != what_changes_the_result(here)


def test_shares_are_the_numbers_that_were_written():
    ten = ", ".join(["{path: a, share: 0.1}"] * 9 + ["{path: a, share: 0.09999}"])
    assert sum(source.exact_share for source in load_recipe("lbag", [f"sources=[{ten}]"]).sources) < 1
    with pytest.raises(ConfigError, match="less than 1"):
        load_recipe("lbag", [f"sources=[{ten.replace('0.09999', '0.1')}]"])  # 0.1 ten times is less in binary


@pytest.mark.parametrize(
    "setting",
    [
        "lr=1",
        "clip=1",
        "ema=0.9",
        "bapc_form=published",
        "precision=bf16-mixed",
        "compile=true",
        "channels_last=false",
        "betas=[0.5, 0.9]",
        "weight_decay=0.1",
        "rotate=0.5",
        "progressive=[{steps: 2, crop: 32, batch: 1}]",
        "sources=[{path: a, share: 0.5}]",
    ],
)
def test_what_changes_the_result_is_told(setting):
    one, two = (what_changes_the_result(load_recipe("lbag-tiny", more)) for more in ([], [setting]))
    assert [key for key in one if one[key] != two[key]] == [setting.partition("=")[0]]


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        ("lbagg", [], "there is no recipe 'lbagg'. Did you mean lbag"),
        ("unet", [], "there is no recipe 'unet'. .*mimo_unet"),
        ("blurdm", [], "Did you mean blurdm_fftformer or blurdm_fftformer-tiny or "),
        ("?", [], "there is no recipe '.'. Known: .*lbag, lbag-tiny"),
        ("missing.yaml", [], "missing.yaml"),
        ("lbag", ["stepz=3"], "stepz"),
        ("lbag", ["crop=30"], "multiple of 4"),
        ("lbag", ["crop=32"], "at least 44"),
        ("lbag", ["model.name=unet"], "there is no model 'unet'"),
        ("lbag", ["milestones=[5, 3]"], "rising"),
        ("lbag", ["lr=-1"], "lr"),
        ("lbag", ["precision=fp8"], "precision"),
        ("lbag", ["ema=1"], "ema"),
        ("lbag", ["clip=-1"], "clip"),
        ("lbag", ["bapc_form=paper"], "bapc_form"),
        ("lbag", [f"seed={2**63}"], "seed"),
        ("lbag", ["threads=1000000"], "threads"),
        ("lbag", ["crop=30"], r"got 30$"),
        ("lbag", ["progressive=[{steps: 1, crop: 30, batch: 1}]"], r"multiple of 4, got 30$"),
        ("lbag", ["progressive=[{steps: 1, crop: 40, batch: 1}]"], "at least 44"),
        ("lbag", ["progressive=[{steps: 1, crop: 64}]"], "progressive.0.batch"),
        ("lbag-tiny", ["crop=28", "loss.msfr_form=windows"], "at least 32"),
        ("lbag", ["cosine={steps: 9}"], r"exclude each other: set milestones=\[\]"),
        ("nafnet", ["cosine.lr_min=0.1"], "must not be above lr, 0.001"),
        ("nafnet", ["cosine.length=3"], "cosine.length"),
        ("nafnet", ["betas=[0.9, 1.0]"], "betas.1"),
        ("lbag", ["sources=[{path: a, share: 0.5}, {path: b, share: 0.5}]"], "sum to less than 1"),
        ("lbag", ["sources=[{path: a, share: 1.0}]"], "sources.0.share"),
        ("lbag", ["sources=[{path: a, share: 0.5, masks: none}]"], "sources.0.masks"),
    ],
)
def test_mistakes_are_explained(name, overrides, match):
    with pytest.raises(ConfigError, match=match):
        load_recipe(name, overrides)
