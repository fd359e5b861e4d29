"""Recipes: packaged ones load and hold the published numbers; mistakes are explained."""

import pytest

from relo.errors import ConfigError
from relo.models import create_model
from relo.training.recipe import Recipe, list_recipes, load_recipe, recipe_yaml, what_changes_the_result


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
    assert recipe.loss.model_dump() == {
        "l1": 1.0, "ssim": 1.0, "msfr": 0.1, "msfr_form": "modulus", "mask": 0.1, "shift_invariant": True
    }  # fmt: skip
    assert (recipe.bapc, recipe.hflip, recipe.vflip) == (0.5, 0.5, 0.0)
    assert (recipe.clip, recipe.ema, recipe.bapc_form, recipe.precision) == (0.0, 0.0, "clean", "32-true")
    assert recipe.model.options["num_res"] == 20
    assert recipe == Recipe(model=recipe.model)


def test_the_resolved_recipe_is_a_recipe(tmp_path):
    recipe = load_recipe("lbag-tiny", ["steps=7", "model.options.width=4"])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(path) == recipe
    assert recipe.steps == 7


def test_running_settings_do_not_change_the_result():
    one = load_recipe("lbag-tiny", ["steps=5", "workers=3", "val_every=2"])
    two = load_recipe("lbag-tiny")
    assert what_changes_the_result(one) == what_changes_the_result(two)


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
    ],
)
def test_what_changes_the_result_is_told(setting):
    one, two = (what_changes_the_result(load_recipe("lbag-tiny", more)) for more in ([], [setting]))
    assert [key for key in one if one[key] != two[key]] == [setting.partition("=")[0]]


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        ("lbagg", [], "there is no recipe 'lbagg'. Known: lbag, lbag-tiny"),
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
    ],
)
def test_mistakes_are_explained(name, overrides, match):
    with pytest.raises(ConfigError, match=match):
        load_recipe(name, overrides)
