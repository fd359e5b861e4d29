"""What Lightning is given to train: the optimisation of one network by a recipe.

Imported only by a running `train`, because it needs the optional package lightning.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from relo.models import Restoration
from relo.models.exprdiff.detector import BlurDetection, BlurDetector
from relo.models.m2aenet.trajectories import TrajectoryForm
from relo.training.contrastive import ContrastiveLoss
from relo.training.data import to_float
from relo.training.detection import detection_loss, with_sharp_frames
from relo.training.losses import total_loss
from relo.training.prior_stages import Priors, prior_loss, priors, restored_in_stage
from relo.training.recipe import Cosine, Recipe
from relo.training.run.channels_last import guard_group_norms
from relo.training.run.distributed import Processes
from relo.training.run.loss_log import LossLog


class RestorationTraining(LightningModule):
    """The optimisation of one network: its loss, AdamW and its rate, averaged weights.

    The loss is the recipe's for what restores images, and its own for a `BlurDetector`.

    Parameters
    ----------
    model : torch.nn.Module
        The attribute `trajectory_form` of one that gives motion tells what its offsets mean; "quadratic" without.
    recipe : Recipe
    losses : LossLog
        Told the terms of each step.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, losses: LossLog) -> None:
        super().__init__()
        guard_group_norms(model)
        self.memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.recipe, self.losses = recipe, losses
        self.trajectory_form: TrajectoryForm = getattr(model, "trajectory_form", "quadratic")
        # In a list, so that its weights are none of this module's, and in no checkpoint: they are the user's.
        vgg = recipe.loss.vgg if recipe.loss.contrastive and recipe.prior.stage != "diffuse" else None
        self.contrastive = [ContrastiveLoss.from_file(Path(vgg))] if vgg else []
        # Not torch's AveragedModel, which asks the device for its count, and so waits for it, at every step.
        self.average = deepcopy(self.model).requires_grad_(False).eval() if recipe.ema else None
        if recipe.compile:
            self.model.compile()

    @property
    def best_known(self) -> nn.Module:
        """The network to validate and to save: with averaged weights if the recipe asks for them."""
        return self.model if self.average is None else self.average

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Make dropout depend on seed, step and process alone, so that a resumed run repeats it."""
        self.losses.check()
        seed = (self.recipe.seed * 1_000_003 + self.global_step + (self.global_rank << 40)) % 2**63
        # Not torch.manual_seed: it takes milliseconds, and remembers every call for devices that are not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Patches come as bytes; a detector sees them sharp too."""
        batch = to_float(batch)
        return with_sharp_frames(batch) if isinstance(self.model, BlurDetector) else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of one batch."""
        blur = batch["blur"].contiguous(memory_format=self.memory_format)
        prior = self.recipe.prior
        if prior.stage == "diffuse":
            found: Any = priors(self.model, blur, batch["sharp"], prior.draws)
        else:
            found = restored_in_stage(self.model, prior.stage, blur, batch["sharp"])
        # The Fourier and SSIM terms need single precision whatever the network runs in.
        with torch.autocast(self.device.type, enabled=False):
            terms = self._terms(found.to(torch.float32), batch)
        loss = terms.pop("total")
        self.losses.add(self.global_step + 1, {"loss": loss, **terms}, batch["name"])
        return loss

    def _terms(self, found: Any, batch: Any) -> dict[str, Tensor]:
        """What the network gave, and the batch, to the terms of the loss and their sum "total"."""
        if isinstance(self.model, BlurDetector):
            return detection_loss(self.model, found, batch["mask"])
        if isinstance(found, Priors):
            return prior_loss(found, self.recipe.prior)
        return total_loss(
            found,
            batch["sharp"],
            batch["mask"],
            self.recipe.loss,
            batch["blur"][:, :3],
            self.trajectory_form,
            self.contrastive[0].to(self.device) if self.contrastive else None,
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the average follow each step: average + (1 - ema) (weights - average)."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            follow = get_ema_multi_avg_fn(self.recipe.ema)
            follow(list(self.average.parameters()), list(self.model.parameters()), 0)
            for averaged, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                averaged.copy_(buffer)

    @contextmanager
    def restoring(self) -> Iterator[Any]:
        """Give a function that runs a batch of one as validation wants it: no dropout or noise, not compiled.

        It is told blurred and sharp image, because in one of its stages a `BlurDM` restores with the help of both.
        """
        model, training = self.best_known, self.best_known.training

        def restore(blur: Tensor, sharp: Tensor) -> Restoration | BlurDetection:
            with self.trainer.precision_plugin.forward_context():
                blur = blur.contiguous(memory_format=self.memory_format)
                return restored_in_stage(model, self.recipe.prior.stage, blur, sharp)

        # Each size of image would be compiled anew.
        stance = torch.compiler.set_stance("force_eager") if self.recipe.compile else nullcontext()
        model.eval()
        try:
            with stance:
                yield restore
        finally:
            model.train(training)

    def configure_optimizers(self) -> Any:
        """AdamW, which without weight decay is Adam; its rate may rise first, then falls by steps or a cosine."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        scheduler: lr_scheduler.LRScheduler
        if recipe.cosine or recipe.warmup:
            scheduler = lr_scheduler.LambdaLR(optimizer, partial(rate_factor, recipe))
        else:  # the same rate, but this is what the checkpoints of runs from before `warmup` hold
            scheduler = lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones), recipe.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def rate_factor(recipe: Recipe, step: int) -> float:
    """Learning rate after `step` steps as a share of `recipe.lr`: a function of the step alone.

    In the first `warmup` steps it is 1, 2, … of `warmup + 1` parts of what it would be without.
    """
    rise = min((step + 1) / (recipe.warmup + 1), 1.0)
    if recipe.cosine:
        return rise * cosine_factor(recipe.cosine, recipe.lr, step)
    return rise * recipe.gamma ** bisect_right(recipe.milestones, step)


def cosine_factor(cosine: Cosine, lr: float, step: int) -> float:
    """Learning rate after `step` steps as a share of `lr`: 1 at first, in the end lr_min / lr.

    A function of the step alone: a run that is resumed, or goes on beyond the fall, has the rate of a straight one.
    """
    fallen = min(max(step - cosine.hold, 0) / cosine.steps, 1.0)
    least = cosine.lr_min / lr
    return least + (1 - least) * (1 + math.cos(math.pi * fallen)) / 2


@contextmanager
def lightning_trainer(
    recipe: Recipe, device: str, out: Path, callback: Callback, processes: Processes
) -> Iterator[Trainer]:
    """Lightning's trainer for a recipe, without its tips, hardware notes and performance advice."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 with torch 2.13: its own use of a class that torch has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # Several processes and channels_last: parameters of one pixel have two orders in memory, both right.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view", category=UserWarning)
            yield Trainer(
                accelerator=device,
                devices=processes.local_size,
                num_nodes=processes.size // processes.local_size,
                strategy="auto" if processes.size == 1 else "ddp",
                # Given, so that Lightning does not look for a batch system of its own accord.
                plugins=[LightningEnvironment() if processes.size == 1 else TorchElasticEnvironment()],
                use_distributed_sampler=False,
                precision=recipe.precision,
                gradient_clip_val=recipe.clip or None,
                max_steps=recipe.steps,
                max_epochs=-1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[callback],
                default_root_dir=out,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
