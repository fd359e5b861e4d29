"""Settings of the training: the paper's numbers, strictness, YAML."""

import pytest
import torch

from relo.errors import ConfigError
from relo.shards import open_dataset
from relo.training.data import Patches
from relo.training.diffusion.recipe import (
    RECIPES,
    diffusion_recipe_yaml,
    is_diffusion_recipe,
    load_diffusion_recipe,
    what_changes_the_result,
)
from relo.training.recipe import list_recipes, load_recipe


def test_the_papers_numbers():
    recipe = load_diffusion_recipe()
    assert (recipe.lr, recipe.batch, recipe.steps, recipe.crop) == (5e-5, 32, 160_000, 256)
    assert (recipe.betas, recipe.weight_decay, recipe.clip) == ((0.9, 0.999), 1e-2, 1.0)
    assert (recipe.bgf, recipe.fusion, recipe.mask) == ("masked", "masked", "ground_truth")


def test_the_tiny_recipe_is_for_narrow_networks():
    paper, tiny = load_diffusion_recipe(), load_diffusion_recipe("exprdiff-tiny")
    assert tiny.lr / paper.lr == pytest.approx(20)  # SDXL's 320 to 1280 channels over 32 to 64
    assert (tiny.name, tiny.clip, tiny.weight_decay) == ("exprdiff-tiny", paper.clip, paper.weight_decay)
    changed = load_diffusion_recipe("exprdiff-tiny", ["lr=0.1", "embedding_channels=[1, 2, 3, 4]"])
    assert (changed.lr, load_diffusion_recipe("exprdiff-tiny")) == (0.1, tiny)


def test_the_two_kinds_of_recipes_share_no_name():
    assert not set(RECIPES) & set(list_recipes())
    assert all(is_diffusion_recipe(name) and load_diffusion_recipe(name).name == name for name in RECIPES)
    assert not any(map(is_diffusion_recipe, list_recipes()))


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


def test_a_file_that_leaves_the_base_to_the_command_line_is_of_its_kind(tmp_path):
    (tmp_path / "mine.yaml").write_text("radius: 8\nsteps: 10\n")
    assert is_diffusion_recipe(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("steps: 10\nlr: 0.1\n")
    assert not is_diffusion_recipe(tmp_path / "mine.yaml"), "what both have"


def test_unknown_recipe():
    with pytest.raises(ConfigError, match=r"no recipe 'exprdif'. Did you mean exprdiff or exprdiff-tiny"):
        load_diffusion_recipe("exprdif")


def test_a_resumed_run_may_change_how_it_is_run_only():
    first = what_changes_the_result(load_diffusion_recipe("exprdiff", ["steps=5", "workers=0", "device=cpu"]))
    assert first == what_changes_the_result(load_diffusion_recipe())
    assert first != what_changes_the_result(load_diffusion_recipe("exprdiff", ["eps=0.01"]))


def test_patches_are_cut_as_for_a_network_that_is_given_both_exposures(shards):
    settings = ["crop=64", "vflip=0.25", "seed=9", "bapc=0.7"]
    both = ["hflip=0.5", "rotate=0", "model.options.in_channels=6"]
    dataset = open_dataset(shards)
    first = Patches(dataset, load_diffusion_recipe("exprdiff", settings))
    second = Patches(dataset, load_recipe("nafnet_short-tiny", [*settings, *both]))
    for draw in ((0, 0), (3, 1), (5, 4)):
        assert first[draw]["blur"].shape == (6, 64, 64)
        assert all(torch.equal(first[draw][name], second[draw][name]) for name in ("blur", "sharp", "mask"))
