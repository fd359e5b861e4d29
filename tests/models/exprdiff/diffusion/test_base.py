"""Loading the base model: what goes wrong is told in one line; prompts against the pipeline of diffusers."""

import importlib.util
import shutil

import pytest
import torch

from relo.errors import ConfigError, MissingExtraError, TrainingError
from relo.models.exprdiff.diffusion.base import BaseModel
from relo.models.exprdiff.diffusion.prompts import SIZES, encode_prompt


def one_line(error):
    text = str(error)
    assert "\n" not in text
    return text


def test_prompts_equal_those_of_the_pipeline(base, pipeline):
    for text in ("", "a sharp photograph " * 30):
        tokens, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
        found = encode_prompt(base, text)
        assert torch.equal(found.tokens, tokens) and torch.equal(found.pooled, pooled)
        assert found.tokens.shape == (1, 77, 64) and found.pooled.shape == (1, 32)


def test_a_tokenizer_without_words(tiny_folder, tmp_path):
    """transformers 5 makes an empty tokenizer of it, without a word."""
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (broken / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(TrainingError, match=r"tokenizer") as caught:
        encode_prompt(BaseModel(str(broken)))
    assert str(broken) in one_line(caught.value)


def test_conditions_tell_every_image_the_same(prompt):
    known = prompt.conditions(3)
    assert known["encoder_hidden_states"].shape == (3, 77, 64)
    assert known["added_cond_kwargs"]["time_ids"].tolist() == [list(SIZES)] * 3
    assert SIZES == (1024, 1024, 0, 0, 1024, 1024)


def test_no_base():
    with pytest.raises(ConfigError, match=r"no base model is given.*stabilityai/stable-diffusion-xl-base-1\.0"):
        BaseModel("")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c", "nowhere"])
def test_a_folder_that_is_not_there(name):
    pytest.importorskip("diffusers")
    with pytest.raises(TrainingError, match="there is no such base model"):
        BaseModel(name).unet()


def test_a_folder_without_a_part(tiny_folder, tmp_path):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken", ignore=shutil.ignore_patterns("unet"))
    with pytest.raises(TrainingError, match=r"it has no unet/config\.json") as caught:
        BaseModel(str(broken)).unet()
    assert str(broken) in one_line(caught.value)


def test_damaged_weights(tiny_folder, tmp_path):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="its vae cannot be read") as caught:
        BaseModel(str(broken)).vae()
    one_line(caught.value)


def test_pickled_weights_are_never_read(tiny_folder, tmp_path):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(TrainingError, match="its vae cannot be read") as caught:
        BaseModel(str(broken)).vae()
    one_line(caught.value)


def test_a_variant_that_is_not_there(tiny_folder):
    with pytest.raises(TrainingError, match=r"its unet \(variant fp16\) cannot be read"):
        BaseModel(str(tiny_folder), variant="fp16").unet()


def test_offline_without_cache(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(TrainingError, match="is not in the cache of the hub, and offline is set") as caught:
        BaseModel("someone/some-model", offline=True, cache_dir=tmp_path).unet()
    assert "someone/some-model" in one_line(caught.value)


@pytest.mark.parametrize("missing", ["diffusers", "transformers"])
def test_missing_packages(tiny_folder, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    base = BaseModel(str(tiny_folder))
    with pytest.raises(MissingExtraError, match=rf"'{missing}' .*relo\[exprdiff\]"):
        base.unet() if missing == "diffusers" else encode_prompt(base)


def test_parts_are_loaded_in_the_dtype_that_is_asked_for(base):
    assert base.unet(torch.bfloat16).dtype == torch.bfloat16
    assert not base.vae().training
