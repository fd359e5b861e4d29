"""What Lightning is given: the optimisation of one network, and a callback that keeps the run folder.

Imported only by a running `train`, because it needs the optional package lightning.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

from relo.atomic import unfinished
from relo.errors import TrainingError
from relo.training import metrics
from relo.training.checkpoint import FILE_NAME, save_checkpoint
from relo.training.data import to_float
from relo.training.losses import total_loss
from relo.training.recipe import Recipe
from relo.training.run_files import LAST, METRICS


class RestorationTraining(LightningModule):
    """The optimisation of one restoration network: the recipe's loss, Adam, stepwise decay."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.validation_rows: list[dict[str, float]] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Make dropout depend on seed and step alone, so that a resumed run repeats it."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.global_step)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Patches come as bytes."""
        return to_float(batch)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Terms of the loss of one batch; "loss" is what is minimised."""
        restored = self.model(batch["blur"])
        # The Fourier and SSIM terms need single precision whatever the network runs in.
        with torch.autocast(self.device.type, enabled=False):
            restored = restored._replace(
                image=restored.image.float(),
                scales=tuple(scale.float() for scale in restored.scales),
                masks=tuple(mask.float() for mask in restored.masks),
            )
            terms = total_loss(restored, batch["sharp"], batch["mask"], self.recipe.loss)
        if not torch.isfinite(terms["total"]):
            raise TrainingError(
                f"the loss became {terms['total'].item()} at step {self.global_step + 1} "
                f"(batch: {', '.join(batch['name'])})",
                advice="Lower lr, or look at these pairs.",
            )
        return {"loss": terms.pop("total")} | {name: term.detach() for name, term in terms.items()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Quality of one whole image before and after."""
        image = self.model(batch["blur"]).image.float()
        row = {
            "psnr": metrics.psnr(image, batch["sharp"]),
            "psnr_input": metrics.psnr(batch["blur"], batch["sharp"]),
            "psnr_w": metrics.weighted_psnr(image, batch["sharp"], batch["mask"]),
            "psnr_w_input": metrics.weighted_psnr(batch["blur"], batch["sharp"], batch["mask"]),
        }
        self.validation_rows.append({name: float(value) for name, value in row.items()})

    def configure_optimizers(self) -> Any:
        """Adam with beta 0.9 and 0.999 and without weight decay, its rate decayed by steps."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.recipe.lr)
        milestones = list(self.recipe.milestones)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.recipe.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class RunFolder(Callback):
    """Writes metrics and checkpoints into the run folder while Lightning trains.

    Parameters
    ----------
    out : Path
    recipe : Recipe
    record : dict
        What a checkpoint tells about its training, besides the recipe and the steps.
    progress : callable, optional
        Called with (steps done, steps in all, text on the loss).
    """

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        record: dict[str, Any],
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.out, self.recipe, self.record, self.progress = out, recipe, record, progress
        self.loss = math.nan
        self.validation: dict[str, float] = {}
        self.interrupted = False
        self._sums: dict[str, float] = {}
        self._count = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Log, save and report after a step."""
        step, recipe = trainer.global_step, self.recipe
        self._count += 1
        for name, value in outputs.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        leaving = self.interrupted or step == recipe.steps
        if leaving or step % recipe.log_every == 0:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.loss = means["loss"]
            self._write_line({"step": step, "lr": trainer.optimizers[0].param_groups[0]["lr"]} | means)
            self._sums, self._count = {}, 0
        if leaving or step % recipe.checkpoint_every == 0:
            self._save(trainer, pl_module.model, step)
        if self.interrupted:
            trainer.should_stop = True
        if self.progress:
            self.progress(step, recipe.steps, f"loss {float(outputs['loss']):.4f}")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the means over the validation images."""
        rows, pl_module.validation_rows = pl_module.validation_rows, []
        self.validation = {name: metrics.mean_and_excluded(row[name] for row in rows)[0] for name in rows[0]}
        finite = {name: value if math.isfinite(value) else None for name, value in self.validation.items()}
        self._write_line({"step": trainer.global_step, "validation": finite})

    @contextmanager
    def stopping_on_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C finish the step and save; a second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        except SystemExit as error:  # Lightning's answer to the second Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            signal.signal(signal.SIGINT, before)

    def _save(self, trainer: Trainer, model: nn.Module, step: int) -> None:
        with unfinished(self.out / LAST) as part:
            trainer.save_checkpoint(part)
        training = self.record | {"steps": step, "recipe": self.recipe.model_dump(mode="json")}
        choice = self.recipe.model
        save_checkpoint(self.out / FILE_NAME, model, choice.name, choice.options, training)

    def _write_line(self, line: dict[str, Any]) -> None:
        with (self.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


@contextmanager
def lightning_trainer(recipe: Recipe, out: Path, folder: RunFolder, *, validate: bool) -> Iterator[Trainer]:
    """Lightning's trainer for a recipe, without its tips, hardware notes and performance advice."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), folder.stopping_on_interrupt():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 with torch 2.13: its own use of a class that torch has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield Trainer(
                accelerator=recipe.device,
                devices=1,
                precision=recipe.precision,
                max_steps=recipe.steps,
                max_epochs=-1,
                val_check_interval=min(recipe.val_every, recipe.steps) if validate else None,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[folder],
                default_root_dir=out,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
