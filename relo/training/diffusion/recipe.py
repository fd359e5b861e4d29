"""Settings of a training of ExpRDiff's guide; the defaults are the paper's where it names any.

They are a kind of their own beside `relo.training.recipe.Recipe`: another loop, another base, other losses.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from relo.config import Config, apply_overrides, build_config, read_yaml
from relo.training.recipe import PatchStage, Recipe, unknown_recipe

NAME = "exprdiff"
FACTOR = 8  # pixels a latent, along each side
SMALLEST_CROP = 64  # the least at which SDXL's deepest scale has more than one token

# What the recipes that come with relo set. The tiny one is for a base model of SDXL's layout and 32 to 64 channels,
# on a CPU. A step of Adam moves each weight by some lr, and what it does to an output grows with the number of
# weights that lead there: a base ten to twenty times as narrow as SDXL wants a rate as many times the paper's.
RECIPES: dict[str, dict[str, Any]] = {
    NAME: {},
    f"{NAME}-tiny": {
        "name": f"{NAME}-tiny",
        "embedding_channels": (8, 8, 16, 16),
        "steps": 200,
        "batch": 2,
        "at_once": 2,
        "crop": 64,
        "lr": 1e-3,
        "gradient_checkpointing": False,
        "checkpoint_every": 100,
        "log_every": 10,
        "workers": 0,
        "threads": 1,
    },
}

# Settings that change how a run is carried out, not what it computes: a resumed run may change them. `at_once` is
# one up to rounding.
RUN_ONLY = (
    *("steps", "cache_dir", "offline", "at_once"),
    *("gradient_checkpointing", "workers", "threads", "device"),
    *("checkpoint_every", "log_every"),
)


class DiffusionRecipe(Config):
    """One training of a guide for a frozen base model.

    Attributes
    ----------
    name : str
        Name of the run; the default output folder is runs/NAME.
    base : str
        SDXL or what has its layout: a folder in the layout of diffusers, or a name on the Hugging Face hub.
    variant : str, optional
        Which files of its weights, for example "fp16", half of what there is to download.
    offline : bool
        Take from the hub only what is in its cache.
    cache_dir : path, optional
        Where that cache is.
    prompt : str
        The same for all images.
    bgf : {"none", "plain_gf", "masked"}
        What the control branch sees, see `relo.models.exprdiff.diffusion.conditioning`.
    radius, eps : int, float
        Of the guided filter [px]; the paper gives neither.
    fusion : {"off", "no_mask", "masked"}
        How the short exposure enters the encoder, see `relo.models.exprdiff.diffusion.guide`.
    mask : {"ground_truth", "predicted", "predicted_soft"}
        The shards' masks, the patches that `detector` finds blurred, or its probabilities.
    detector : str, optional
        Run folder or weights of an exprdiff_detector, for a predicted mask.
    attention_layers : int
        Transformer layers in each attention block of the control branch: 1 is 293 M parameters, 10 is 1.25 G.
    embedding_channels : four int
        Of the control branch's embedding.
    steps, batch, crop : int
        Optimiser steps, patches a step, side of the patches [px].
    at_once : int
        Patches that are computed together; the gradients of a batch are added up.
    lr, betas, weight_decay : float
        Of AdamW, without any fall of the rate.
    clip : float
        Largest norm of the gradient; 0 for none.
    degradation_weight : float
        Of the loss on the pictures that the control branch predicts; 0 for none.
    bapc, hflip, vflip, rotate : float
        How patches are cut, see `relo.training.recipe.Recipe`.
    seed : int
        Of the initial parameters, the patches, the timesteps and the noise.
    precision : {"32-true", "bf16-mixed"}
        bf16-mixed keeps the frozen base model in bfloat16. float16 is not offered: SDXL's autoencoder overflows in
        it, and it would need its gradients scaled.
    gradient_checkpointing : bool
        Compute features again in the backward pass instead of keeping them.
    checkpoint_every, log_every : int
        Save for `--resume`, and write a line of metrics.jsonl, every so many steps.
    workers, threads, device
        See `relo.training.recipe.Recipe`.
    """

    name: str = Field(default=NAME, min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str = ""
    variant: str | None = None
    offline: bool = False
    cache_dir: Path | None = None
    prompt: str = ""
    bgf: Literal["none", "plain_gf", "masked"] = "masked"
    radius: int = Field(default=16, ge=1)
    eps: float = Field(default=1e-4, gt=0)
    fusion: Literal["off", "no_mask", "masked"] = "masked"
    mask: Literal["ground_truth", "predicted", "predicted_soft"] = "ground_truth"
    detector: str | None = None
    attention_layers: int = Field(default=1, ge=1, le=100)
    embedding_channels: tuple[
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=4096)],
    ] = (16, 32, 96, 256)
    steps: int = Field(default=160_000, ge=1)
    batch: int = Field(default=32, ge=1, le=65_536)
    at_once: int = Field(default=4, ge=1)
    crop: int = Field(default=256, ge=SMALLEST_CROP, multiple_of=FACTOR)
    lr: float = Field(default=5e-5, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, ge=0)
    degradation_weight: float = Field(default=1.0, ge=0)
    bapc: float = Field(default=0.5, ge=0, le=1)
    hflip: float = Field(default=0.5, ge=0, le=1)
    vflip: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_checkpointing: bool = True
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=50, ge=1)
    workers: int = Field(default=4, ge=0)
    threads: int = Field(default=0, ge=0, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("fusion", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionRecipe:
        if self.mask != "ground_truth" and not self.detector:
            raise ValueError(f"mask={self.mask} needs detector=RUN, a run folder of an exprdiff-detector")
        return self

    @property
    def guide_options(self) -> dict[str, Any]:
        """Options of `ShortExposureGuide`."""
        return {name: getattr(self, name) for name in ("fusion", "attention_layers", "embedding_channels")}

    @property
    def condition_options(self) -> dict[str, Any]:
        """Options of `relo.models.exprdiff.diffusion.conditioning.condition`."""
        return {"form": self.bgf, "radius": self.radius, "eps": self.eps}

    @property
    def takes_short(self) -> bool:
        """Patches have the short exposure behind the blurred image."""
        return True

    @property
    def progressive(self) -> tuple[PatchStage, ...]:
        """All patches are of one size."""
        return ()

    @property
    def crops(self) -> tuple[int, ...]:
        """Sides of the patches [px]."""
        return (self.crop,)

    @property
    def bapc_form(self) -> Literal["clean"]:
        """Their corners are drawn as the LBAG paper says."""
        return "clean"


def is_diffusion_recipe(recipe: str | Path) -> bool:
    """Whether a recipe is of this kind: a name in `RECIPES`, or a YAML file with a setting that only these have.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    text = str(recipe)
    if not text.endswith((".yaml", ".yml")):
        return text in RECIPES
    return bool(read_yaml(Path(text)).keys() & (DiffusionRecipe.model_fields.keys() - Recipe.model_fields.keys()))


def load_diffusion_recipe(recipe: str | Path = NAME, overrides: Iterable[str] = ()) -> DiffusionRecipe:
    """Give the settings of one of `RECIPES`, or of a YAML file, with `key=value` overrides applied.

    Raises
    ------
    ConfigError
        There is no such recipe, or a key or value is wrong.
    """
    text, overrides = str(recipe), list(overrides)
    if text not in RECIPES and not text.endswith((".yaml", ".yml")):
        raise unknown_recipe(text, tuple(RECIPES))
    values = RECIPES[text] if text in RECIPES else read_yaml(Path(text))
    origin = " ".join([f"recipe {text}", *(f"--set {override}" for override in overrides)])
    return build_config(DiffusionRecipe, apply_overrides(values, overrides), origin)


def diffusion_recipe_yaml(recipe: DiffusionRecipe) -> str:
    """Every setting as YAML that `load_diffusion_recipe` reads."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def what_changes_the_result(recipe: DiffusionRecipe) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the run it continues."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key not in RUN_ONLY}
