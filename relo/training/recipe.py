"""Recipes: everything that decides what a training run computes, as one frozen YAML-able object."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from relo.config import Config, apply_overrides, build_config, merged, read_yaml
from relo.errors import ConfigError
from relo.models import model_info
from relo.training.loss_weights import LossWeights

# Settings that change how a run is carried out, not what it computes: a resumed run may change them.
RUN_ONLY = (
    *("steps", "cache_gb", "workers", "threads", "device"),
    *("log_every", "val_every", "val_images", "checkpoint_every"),
)

# What the stages of one run share. With another seed or val_fraction a stage would hold out other scenes, and what
# validates one would have been trained on in another.
OF_ALL_STAGES = ("name", "model", "stages", "sources", "seed", "val_fraction", "device", "threads")


class ModelChoice(Config):
    """Which network, with which options.

    Attributes
    ----------
    name : str
        One of `relo.models.list_models()`.
    options : dict
        Keyword arguments of `create_model`.
    weights : str, optional
        File to start from; MIMO-UNet+ weights for an lbag model give "LBAG+" (Li et al. 2023, table 3).
    """

    name: str = "lbag"
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            model_info(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name


PriorStage = Literal["encode", "diffuse", "restore"]


class PriorTraining(Config):
    """What of a `blurdm` is trained, see `relo.training.prior_stages`; other networks have just "restore".

    Attributes
    ----------
    stage : {"encode", "diffuse", "restore"}
        "encode": backbone and sharp encoder, which makes the prior from the blurred and the sharp image. "diffuse":
        the diffusion, towards the sharp encoder's prior. "restore": backbone and diffusion.
    loss : {"charbonnier", "l1"}
        Difference of the priors in "diffuse": as in the public code, or as in the paper.
    draws : int
        Draws of noise for each patch in "diffuse"; the public code has 1. What tells noise from the latent costs
        little next to the encoder, and learns little from one draw a step.
    """

    stage: PriorStage = "restore"
    loss: Literal["charbonnier", "l1"] = "charbonnier"
    draws: int = Field(default=32, ge=1, le=4096)


class PriorStages(Config):
    """A run that trains a `blurdm` in three stages: what each of them sets otherwise than the rest of the recipe.

    Attributes
    ----------
    encode, diffuse, restore : dict
        Settings of `Recipe`, at least `steps`, and none of `OF_ALL_STAGES`; see `PriorTraining`.
    """

    encode: dict[str, Any] = Field(default_factory=dict)
    diffuse: dict[str, Any] = Field(default_factory=dict)
    restore: dict[str, Any] = Field(default_factory=dict)


class Cosine(Config):
    """A learning rate that falls along half a cosine instead of by milestones.

    Attributes
    ----------
    steps : int
        Length of the fall; afterwards the rate stays at `lr_min`. Not that of the run, which `--resume` may extend.
    hold : int
        Steps at the full rate before the fall.
    lr_min : float
    """

    steps: int = Field(ge=1)
    hold: int = Field(default=0, ge=0)
    lr_min: float = Field(default=0.0, ge=0)


class PatchStage(Config):
    """Steps with patches of another size and number than the rest of the run, as in Restormer's training.

    Attributes
    ----------
    steps : int
    crop, batch : int
        In place of those of the recipe.
    """

    steps: int = Field(ge=1)
    crop: int = Field(ge=4)
    batch: int = Field(ge=1, le=65_536)


class Source(Config):
    """A further dataset to train on.

    Attributes
    ----------
    path : str
        Dataset folder or shard; its train split is drawn from. A resumed run may find it in another place.
    share : float
        Share of all patches that are drawn from it, exactly.
    masks : {"stored", "ones"}
        "ones" takes every pixel for blurred, whatever the masks of the dataset: for blur by a moving camera.
    """

    path: str = Field(min_length=1)
    share: float = Field(gt=0, lt=1)
    masks: Literal["stored", "ones"] = "stored"

    @property
    def exact_share(self) -> Fraction:
        """The share as it was written, without the rounding of binary numbers."""
        return Fraction(str(self.share))


class Recipe(Config):
    """One training run; the defaults are LBAG as in its public code, for the paper's 300 k steps.

    Attributes
    ----------
    name : str
        Name of the run; the default output folder is runs/NAME.
    model : ModelChoice
    steps : int
        Optimiser steps.
    batch : int
        Patches per step; with several processes (torchrun), of all of them together.
    crop : int
        Side of the square patches [px], a multiple of 4.
    progressive : tuple of PatchStage
        Stages that the run begins with, with another `batch` and `crop`.
    sources : tuple of Source
        Further datasets to draw patches from. Validation looks at the first dataset only.
    lr : float
        Learning rate of AdamW.
    betas : (float, float)
        Decays of its running means of the gradient and of the gradient squared.
    weight_decay : float
        Share of lr by which every parameter shrinks in a step; with 0 AdamW is Adam.
    milestones : tuple of int
        Steps at which the learning rate is multiplied by `gamma`.
    gamma : float
    cosine : Cosine, optional
        Another fall of the learning rate; `milestones` must then be empty.
    warmup : int
        Number of first steps in which the learning rate rises linearly from near 0, whatever its fall.
    clip : float
        Largest norm of the gradient of all parameters together, to which a larger one is scaled down; 0 for none.
    ema : float
        Decay of the exponential moving average of the weights, for example 0.999: the average starts from the
        initial weights and is validated and saved in place of the weights; 0 for none.
    loss : LossWeights
    prior : PriorTraining
    stages : PriorStages, optional
        Train in three stages, one after the other.
    bapc : float
        Probability that a patch is centred on a blurred pixel.
    bapc_form : {"clean", "published"}
        How its corner is drawn: as the paper says, or with the peculiarities of the public code, see
        `relo.training.sampling.published_corner`.
    hflip, vflip, rotate : float
        Probabilities of mirroring a patch left-right, top-bottom, and then of turning it by 90 degrees.
    seed : int
        Of the initial parameters, the patches and the dropout.
    val_fraction : float
        Share of the *training* scenes held out for validation, at least one if there are two; 0 for none.
    val_every, val_images : int
        Validate every so many steps on at most so many images.
    checkpoint_every, log_every : int
        Save for `--resume`, and write a line of metrics.jsonl, every so many steps.
    order : {"uniform", "scenes"}
        Each epoch is a permutation of all pairs: any, or one in which neighbours seldom share a scene.
    shards_at_once : int
        With "scenes": shards an epoch draws from at a time, for storage that is slow to jump about; 0 for all.
    cache_gb : float
        Memory for shards as they are stored, compressed [GB]; shared by all loader processes.
    workers : int
        Loader processes, of each training process; the patches do not depend on it.
    threads : int
        CPU threads of torch in this process, 0 for torch's own choice. Small networks run best on one: a second
        one gains little, and on a busy machine the two wait for each other.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        What the network computes in; weights and losses are always float32. 16-mixed needs a GPU.
    compile : bool
        Compile the network with `torch.compile`; the first step takes a minute or so. Needs a C++ compiler.
    channels_last : bool
        Keep images and features as (N, H, W, C) in memory, which 16-bit convolutions on GPUs prefer.
    device : {"auto", "cpu", "cuda"}
        "auto" is the GPU where there is one.
    """

    name: str = Field(default="lbag", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: ModelChoice = ModelChoice()
    steps: int = Field(default=300_000, ge=1)
    batch: int = Field(default=12, ge=1, le=65_536)
    crop: int = Field(default=256, ge=4)
    progressive: tuple[PatchStage, ...] = ()
    sources: tuple[Source, ...] = ()
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...] = (100_000, 200_000, 300_000, 400_000, 500_000, 600_000)
    gamma: float = Field(default=0.5, gt=0, le=1)
    cosine: Cosine | None = None
    warmup: int = Field(default=0, ge=0)
    clip: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    loss: LossWeights = LossWeights()
    prior: PriorTraining = PriorTraining()
    stages: PriorStages | None = None
    bapc: float = Field(default=0.5, ge=0, le=1)
    bapc_form: Literal["clean", "published"] = "clean"
    hflip: float = Field(default=0.5, ge=0, le=1)
    vflip: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)  # torch takes no larger one
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    val_every: int = Field(default=10_000, ge=1)
    val_images: int = Field(default=32, ge=1)
    checkpoint_every: int = Field(default=10_000, ge=1)
    log_every: int = Field(default=100, ge=1)
    order: Literal["uniform", "scenes"] = "uniform"
    shards_at_once: int = Field(default=0, ge=0)
    cache_gb: float = Field(default=0.0, ge=0)
    workers: int = Field(default=4, ge=0)
    threads: int = Field(default=0, ge=0, le=1024)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    channels_last: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        odd = [crop for crop in self.crops if crop % 4]
        if odd:
            raise ValueError(f"crop must be a multiple of 4, got {odd[0]}")
        if self.loss.ssim and min(self.crops) < 44:
            raise ValueError("the SSIM loss needs 11 pixels at quarter scale: crop must be at least 44")
        if self.loss.msfr and self.loss.msfr_form == "windows" and min(self.crops) < 32:
            raise ValueError("msfr_form=windows needs 8 pixels at quarter scale: crop must be at least 32")
        if list(self.milestones) != sorted(set(self.milestones)) or any(step < 1 for step in self.milestones):
            raise ValueError("milestones must be rising positive steps")
        if self.cosine and self.milestones:
            raise ValueError("cosine and milestones exclude each other: set milestones=[], or cosine=null")
        if self.cosine and self.cosine.lr_min > self.lr:
            raise ValueError(f"cosine.lr_min must not be above lr, {self.lr}")
        if sum(source.exact_share for source in self.sources) >= 1:
            raise ValueError("the shares of the sources must sum to less than 1: the rest is that of SRC")
        if self.model.name != "blurdm" and (self.stages or self.prior.stage != "restore"):
            raise ValueError(f"stages are for model.name=blurdm, not {self.model.name}")
        if self.prior.stage != "restore" and not self.model.options.get("sharp_encoder"):
            raise ValueError(f"prior.stage={self.prior.stage} needs model.options.sharp_encoder=true, or stages")
        if self.stages and {"steps", "cosine"} & self.model_fields_set:
            raise ValueError("each stage has its own steps and cosine: set stages.encode.steps and so on")
        self.in_stages()  # refuses settings that a stage cannot have
        return self

    def in_stages(self) -> dict[PriorStage, Recipe]:
        """One recipe a stage, in order; a recipe without stages has itself alone."""
        if not self.stages:
            return {self.prior.stage: self}
        common = self.model_dump(mode="json", exclude={"stages", "steps", "cosine"})
        recipes: dict[PriorStage, Recipe] = {}
        for stage in get_args(PriorStage):
            given = getattr(self.stages, stage)
            refused = [key for key in given if key in OF_ALL_STAGES]
            if refused or "steps" not in given:
                what = f"'{refused[0]}' is set for all stages together" if refused else "'steps' is missing"
                raise ValueError(f"stages.{stage}: {what}")
            own = {"prior": {"stage": stage}, "model": {"options": {"sharp_encoder": stage != "restore"}}}
            settings = merged(merged(common, given), own)
            recipes[stage] = build_config(Recipe, settings, f"stage {stage}")
        return recipes

    @property
    def takes_short(self) -> bool:
        """Whether the network is given a short exposure behind each blurred image."""
        return self.model.options.get("in_channels", 3) == 6

    @property
    def crops(self) -> tuple[int, ...]:
        """Sides of the patches [px], stage after stage."""
        return (*(stage.crop for stage in self.progressive), self.crop)

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of patches per step, stage after stage."""
        return (*(stage.batch for stage in self.progressive), self.batch)


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with relo."""
    folder = files("relo.training") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir()))


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or from a YAML file and apply `key=value` overrides.

    Parameters
    ----------
    recipe : str or path
        A name from `list_recipes()`, or a path ending in .yaml or .yml.
    overrides : iterable of str
        `steps=100`, `model.options.width=8`, …

    Raises
    ------
    ConfigError
        There is no such recipe, or a key or value is wrong.
    """
    text, overrides = str(recipe), list(overrides)
    if text.endswith((".yaml", ".yml")):
        values = read_yaml(Path(text))
    elif text in list_recipes():
        content = (files("relo.training") / "recipes" / f"{text}.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(content)
    else:
        raise unknown_recipe(text, list_recipes())
    origin = " ".join([f"recipe {text}", *(f"--set {override}" for override in overrides)])
    return build_config(Recipe, apply_overrides(values, overrides), origin)


def unknown_recipe(name: str, known: Sequence[str]) -> ConfigError:
    """Make the error that tells of the recipes most like `name`, or of all."""
    near = difflib.get_close_matches(name, known) or [one for one in known if name and one.startswith(name)]
    which = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}; or give a .yaml file."
    return ConfigError(f"there is no recipe '{name}'", advice=which)


def recipe_yaml(recipe: Recipe) -> str:
    """Every setting of `recipe` as YAML that `load_recipe` reads."""
    of_stages = {"steps", "cosine"} if recipe.stages else None
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude=of_stages), sort_keys=False)


def what_changes_the_result(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the run it continues.

    Where the sources lie is none of them: what they hold is compared by their fingerprints. Nor is where the
    weights of VGG19 lie, of which there is one kind.
    """
    settings = recipe.model_dump(mode="json", exclude={"sources": {"__all__": {"path"}}, "loss": {"vgg"}})
    return {key: value for key, value in settings.items() if key not in RUN_ONLY}
