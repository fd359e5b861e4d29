"""The tiny random SDXL, a small dataset with short exposures, and a recipe of seconds."""

import pytest
from support.datasets import make_dataset

from relo.training.diffusion.recipe import load_diffusion_recipe


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from support.tiny_sdxl import save_tiny_sdxl

    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Two train scenes of three pairs, 96 x 128 px."""
    scenes = [{"scene": scene, "size": (96, 128), "short": True} for scene in ("attic", "barn")]
    return make_dataset(tmp_path_factory.mktemp("data") / "shards", scenes)


@pytest.fixture
def recipe(tiny_folder):
    """Function that gives a recipe of seconds, with further overrides."""
    return tiny_recipe(tiny_folder)


def tiny_recipe(base):
    """Function that gives a recipe of two steps for the base model, with further overrides."""
    tiny = (f"base={base}", "steps=2", "log_every=1", "radius=4")
    return lambda *overrides: load_diffusion_recipe("exprdiff-tiny", [*tiny, *overrides])
