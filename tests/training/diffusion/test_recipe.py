"""Settings of the training: the paper's numbers, strictness, YAML."""

import pytest

from relo.errors import ConfigError
from relo.training.diffusion.recipe import (
    diffusion_recipe_yaml,
    is_diffusion_recipe,
    load_diffusion_recipe,
    what_changes_the_result,
)


def test_the_papers_numbers():
    recipe = load_diffusion_recipe()
    assert (recipe.lr, recipe.batch, recipe.steps, recipe.crop) == (5e-5, 32, 160_000, 256)
    assert (recipe.betas, recipe.weight_decay, recipe.clip) == ((0.9, 0.999), 1e-2, 1.0)
    assert (recipe.bgf, recipe.fusion, recipe.mask) == ("masked", "masked", "ground_truth")


def test_a_round_trip_through_yaml(tmp_path):
    recipe = load_diffusion_recipe("exprdiff", ["fusion=off", "bgf=none", "base=folder", "cache_dir=somewhere"])
    assert recipe.fusion == "off"
    file = tmp_path / "recipe.yaml"
    file.write_text(diffusion_recipe_yaml(recipe))
    assert load_diffusion_recipe(file) == recipe
    assert is_diffusion_recipe(file) and is_diffusion_recipe("exprdiff") and not is_diffusion_recipe("lbag")
    file.write_text("model: {name: lbag}")
    assert not is_diffusion_recipe(file)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("crop=100", "crop"),
        ("crop=56", "crop"),
        ("fusion=some", "fusion"),
        ("mask=predicted", "needs detector"),
        ("precision=16-mixed", "precision"),
        ("embedding_channels=[8,8,16]", "embedding_channels"),
        ("speed=1", "unknown key 'speed'"),
    ],
)
def test_wrong_settings(override, reason):
    with pytest.raises(ConfigError, match=reason):
        load_diffusion_recipe("exprdiff", [override])


def test_unknown_recipe():
    with pytest.raises(ConfigError, match="no recipe 'exprdif'"):
        load_diffusion_recipe("exprdif")


def test_a_resumed_run_may_change_how_it_is_run_only():
    first = what_changes_the_result(load_diffusion_recipe("exprdiff", ["steps=5", "workers=0", "device=cpu"]))
    assert first == what_changes_the_result(load_diffusion_recipe())
    assert first != what_changes_the_result(load_diffusion_recipe("exprdiff", ["eps=0.01"]))


def test_patches_are_cut_as_the_recipe_says():
    patches = load_diffusion_recipe("exprdiff", ["crop=64", "batch=3", "vflip=0.25", "seed=9"]).patches()
    assert (patches.crop, patches.batch, patches.vflip, patches.seed, patches.takes_short) == (64, 3, 0.25, 9, True)
