"""Photographs through a guide: the background stays, the window, the composite, what is refused."""

import numpy as np
import pytest
import torch
from support.tiny_sdxl import EMBEDDING_CHANNELS

from relo.errors import ConfigError, TrainingError
from relo.models.exprdiff.diffusion.base import BaseModel
from relo.models.exprdiff.diffusion.guide import ShortExposureGuide
from relo.models.exprdiff.diffusion.prompts import encode_prompt
from relo.models.exprdiff.diffusion.weights import write_guide
from relo.training.diffusion.restoration import (
    DiffusionOptions,
    load_restorer,
    restore_with_diffusion,
    window_around,
)
from relo.training.inference.regions import blend_weights


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run folder with an untrained guide."""
    base = BaseModel(str(tiny_folder))
    torch.manual_seed(0)
    guide = ShortExposureGuide(base.unet().config, embedding_channels=EMBEDDING_CHANNELS)
    about = {
        "base": {"name": str(tiny_folder), "variant": None},
        "guide": {"fusion": "masked", "attention_layers": 1, "embedding_channels": EMBEDDING_CHANNELS},
        "condition": {"form": "masked", "radius": 8, "eps": 1e-4},
        "training": {},
    }
    folder = tmp_path_factory.mktemp("run")
    write_guide(folder / "model.safetensors", guide, encode_prompt(base), about)
    return folder


def photograph(dtype=np.uint8, size=(75, 93)):
    rng = np.random.default_rng(0)
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    images = [(rng.random((*size, 3)) * top).astype(dtype) for _ in range(2)]
    mask = np.zeros(size, bool)
    mask[20:40, 10:30] = True
    return *images, mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_background_stays_bit_for_bit(run, dtype):
    blur, short, mask = photograph(dtype)
    before = blur.copy()
    restored = restore_with_diffusion(run, blur, short, mask, DiffusionOptions(steps=2))
    outside = blend_weights(mask) == 0
    assert 0.2 < outside.mean() < 0.9
    assert restored.dtype == dtype and restored.shape == blur.shape
    assert np.array_equal(restored[outside], blur[outside])
    assert (restored[mask] != blur[mask]).mean() > 0.9
    assert np.array_equal(blur, before)


def test_the_same_every_time_and_another_seed_another(run):
    blur, short, mask = photograph()
    restorer = load_restorer(run, DiffusionOptions(steps=2))
    first = restorer.restore(blur, short, mask)
    assert np.array_equal(first, restorer.restore(blur, short, mask))
    other = load_restorer(run, DiffusionOptions(steps=2, seed=1)).restore(blur, short, mask)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "euler", "precision": "bf16", "restoration": 4.0},
        {"scheduler": "ddim", "guidance_scale": 2.0, "negative_prompt": "blurry", "prompt": "sharp"},
        {"scheduler": "dpmpp", "colour_fix": False, "strength": 1.0, "tile": 16, "overlap": 4},
    ],
)
def test_other_options(run, options):
    blur, short, mask = photograph(size=(140, 150))
    restored = restore_with_diffusion(run, blur, short, mask, DiffusionOptions(steps=2, **options))
    outside = blend_weights(mask) == 0
    assert np.array_equal(restored[outside], blur[outside])
    assert (restored[mask] != blur[mask]).mean() > 0.9


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (16, 8)])
def test_photographs_smaller_than_a_crop(run, size):
    blur, short, _ = photograph(size=size)
    restored = restore_with_diffusion(run, blur, short, np.ones(size, bool), DiffusionOptions(steps=2))
    assert restored.shape == blur.shape and (restored != blur).any()


def test_nothing_blurred(run):
    blur, short, mask = photograph()
    restored = restore_with_diffusion(run, blur, short, np.zeros_like(mask))
    assert np.array_equal(restored, blur) and restored is not blur


def test_sizes_that_differ(run):
    blur, short, mask = photograph()
    with pytest.raises(TrainingError, match="sizes differ"):
        restore_with_diffusion(run, blur, short[:-1], mask)


def test_no_run(tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        load_restorer(tmp_path)


def test_a_base_model_that_is_gone(run):
    with pytest.raises(TrainingError, match="there is no such base model"):
        load_restorer(run, DiffusionOptions(base="/nowhere/at/all"))


def test_too_little_memory_names_the_option(run, monkeypatch):
    def fail(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    restorer = load_restorer(run)
    monkeypatch.setattr("relo.training.diffusion.restoration.sample", fail)
    with pytest.raises(TrainingError, match=r"memory does not suffice.*tile=64"):
        restorer.restore(*photograph())


def test_a_device_that_is_not_there(run):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="no GPU"):
        load_restorer(run, DiffusionOptions(device="cuda"))


def test_overlap_must_be_smaller_than_a_tile():
    with pytest.raises(ValueError, match="overlap must be below tile"):
        DiffusionOptions(tile=16, overlap=16)


@pytest.mark.parametrize("place", [(0, 0), (99, 119), (50, 3), (50, 60)])
@pytest.mark.parametrize("least", [1, 40, 1000])
def test_windows_hold_what_is_wanted(place, least, monkeypatch):
    monkeypatch.setattr("relo.training.diffusion.restoration.MARGIN", 8)
    wanted = np.zeros((100, 120), bool)
    wanted[place] = True
    for span, at, length in zip(window_around(wanted, least), place, wanted.shape, strict=True):
        assert 0 <= span.start <= max(at - 8, 0) and min(at + 9, length) <= span.stop <= length
        assert span.start % 8 == 0
        assert span.stop - span.start >= min(least, length)
