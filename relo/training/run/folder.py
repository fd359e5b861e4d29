"""The callback that keeps a run folder while Lightning trains: metrics, TensorBoard, pictures, checkpoints.

Imported only by a running `train`, because it needs the optional packages lightning and tensorboard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from relo.atomic import part_name, unfinished, writing_to
from relo.images import write_image
from relo.models.exprdiff.detector import BlurDetector
from relo.progress import Progress
from relo.training.checkpoint import BEST_NAME, FILE_NAME, save_checkpoint
from relo.training.data import WholeImages
from relo.training.recipe import Recipe
from relo.training.run.detector_validation import validate_detector
from relo.training.run.distributed import Processes
from relo.training.run.files import LAST, METRICS, SAMPLES, TENSORBOARD
from relo.training.run.finite import require_finite
from relo.training.run.interrupts import Interrupts, finishing_steps
from relo.training.run.loss_log import LossLog
from relo.training.run.optimisation import RestorationTraining
from relo.training.run.step_clock import StepClock
from relo.training.run.validation import Validated, validate


class RunFolder(Callback):
    """Logs, validates and saves after the steps that the recipe names, and after the last.

    Only the first of several processes writes and reports; all of them must call this together.

    Parameters
    ----------
    out : Path
    recipe : Recipe
    record : dict
        What a checkpoint tells about its training, besides the recipe and the steps.
    losses : LossLog
    images : WholeImages or None
        What to validate on.
    processes : Processes
    progress : callable
        Called with (steps done, steps in all, text on the loss or the validation).
    """

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        record: dict[str, Any],
        losses: LossLog,
        images: WholeImages | None,
        processes: Processes,
        progress: Progress,
    ) -> None:
        self.out, self.recipe, self.record, self.losses = out, recipe, record, losses
        self.images, self.processes, self.progress = images, processes, progress
        self.loss = math.nan
        self.validation: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        self.steps_per_second = math.nan
        self.started = False  # everything that a checkpoint holds has been put back
        self._interrupts = Interrupts()
        self._board: SummaryWriter | None = None
        self._clock = StepClock(torch.device("cpu"))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Open TensorBoard's log, without what a killed run wrote after its last checkpoint."""
        self.started = True
        self._clock = StepClock(pl_module.device)
        self._interrupts.listen_to_sigterm()  # not before: Lightning has only now set its own handler
        if self.processes.is_first:
            self._board = SummaryWriter(str(self.out / TENSORBOARD), purge_step=trainer.global_step + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:  # noqa: ARG002
        """Log, validate, save and report after a step."""
        step, recipe = trainer.global_step, self.recipe
        interrupted = self.was_interrupted()
        leaving = interrupted or step == recipe.steps
        validating = self.images is not None and (step % recipe.val_every == 0 or step == recipe.steps)
        saving = leaving or step % recipe.checkpoint_every == 0
        if validating or saving:
            self._clock.stop(step)
            self.losses.check()
            require_finite(pl_module.state_dict().values(), step, "Lower lr or set clip=1")
        if leaving or step % recipe.log_every == 0:
            self._log(step, trainer.optimizers[0].param_groups[0]["lr"])
        try:
            if validating:
                self._validate(pl_module, step)
        finally:  # the steps so far are not to be lost where a whole image is too much for the memory
            if saving:
                with self._writing():
                    self._save(trainer, pl_module, step)
        if interrupted:
            trainer.should_stop = True
        self._clock.start(step)  # the first step is not measured: it includes what torch prepares only once
        self._report(step, "" if math.isnan(self.loss) else f"loss {self.loss:.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Keep the speed of the steps."""
        self.steps_per_second = self._clock.steps / self._clock.seconds if self._clock.steps else math.nan

    def was_interrupted(self) -> bool:
        """Whether any process was told to stop, be it after the last step; all processes must ask."""
        return self.processes.any(self._interrupts.received)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the unfinished interval of the log, and the best validation so far."""
        return {"losses": self.losses.state(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.losses.load(state_dict["losses"])
        self.best = state_dict["best"]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM finish the step and save; close what is open in the end.

        A second Ctrl-C interrupts at once.
        """
        try:
            with finishing_steps() as self._interrupts:
                yield
        except SystemExit as error:  # Lightning's answer to the second Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            if self._board:
                with self._writing():
                    self._board.close()

    def _log(self, step: int, rate: float) -> None:
        self.losses.check()
        means = self.losses.means()
        closing = step % self.recipe.log_every != 0
        if not closing:
            self.losses.reset()
        self.loss = means["loss"]
        self._write_line({"step": step, "lr": rate} | means, closing=closing)
        self._plot("loss", means, step)
        self._plot("training", {"lr": rate}, step)

    def _validate(self, module: RestorationTraining, step: int) -> None:
        assert self.images is not None
        model = module.best_known

        def report(done: int, total: int) -> None:
            self._report(step, f"validating: {done} of {total} images")

        with module.restoring() as restore:
            if isinstance(model, BlurDetector):
                validated = validate_detector(restore, model, self.images, module.device, self.processes, report)
            else:
                validated = validate(restore, self.images, module.device, self.processes, report)
        self.validation = validated.quality
        line = {"step": step, "validation": _finite_or_none(validated.quality)}
        self._write_line(line, closing=step % self.recipe.val_every != 0)
        self._plot("validation", validated.quality, step)
        if self._board:
            with self._writing():
                write_image(self.out / SAMPLES / f"step_{step:08d}.png", validated.pictures)
                self._board.add_image("samples", validated.pictures, step, dataformats="HWC")
        score = _score(validated, step)
        if _is_better(score, self.best):
            self.best = score
            about = {"score": _finite_or_none(score), "validation": _finite_or_none(validated.quality)}
            with self._writing():
                self._save_model(BEST_NAME, module.best_known, step, about)

    def _report(self, step: int, text: str) -> None:
        if self.processes.is_first:
            self.progress(step, self.recipe.steps, text)

    def _writing(self) -> AbstractContextManager[None]:
        return writing_to(self.out, "Make room on its disk, then continue with --resume.")

    def _save(self, trainer: Trainer, module: RestorationTraining, step: int) -> None:
        # The weights first: a run that is said to be done by the other file has them.
        self._save_model(FILE_NAME, module.best_known, step, {})
        last = self.out / LAST
        with unfinished(last) if self.processes.is_first else nullcontext(part_name(last)) as part:
            trainer.save_checkpoint(part)  # all processes must call it, the first one writes
        if self._board:
            self._board.flush()
        self.processes.wait()  # nobody leaves, and ends the others thereby, before everything is written

    def _save_model(self, name: str, model: nn.Module, step: int, more: dict[str, Any]) -> None:
        if not self.processes.is_first:
            return
        training = self.record | {"steps": step, "recipe": self.recipe.model_dump(mode="json")} | more
        choice = self.recipe.model
        save_checkpoint(self.out / name, model, choice.name, choice.options, training)

    def _plot(self, group: str, values: dict[str, float], step: int) -> None:
        with self._writing():
            for name, value in values.items():
                if self._board and math.isfinite(value):
                    self._board.add_scalar(f"{group}/{name}", value, step)

    def _write_line(self, line: dict[str, Any], *, closing: bool) -> None:
        if not self.processes.is_first:
            return
        line |= {"closing": True} if closing else {}
        with self._writing(), (self.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def _score(validated: Validated, step: int) -> dict[str, Any]:
    """What validations are compared by."""
    metric = validated.metric
    return {"metric": metric, "value": validated.quality[metric], "images": validated.images, "step": step}


def _is_better(score: dict[str, Any], best: dict[str, Any]) -> bool:
    """Whether `score` is above the best; scores of other images say nothing, the present ones begin anew."""
    comparable = bool(best) and (best["metric"], best["images"]) == (score["metric"], score["images"])
    return not comparable or score["value"] > best["value"]


def _finite_or_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no infinite numbers and no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
