"""Losses between logged lines: means, state over a resume, and what is not finite."""

import time

import pytest
import torch

from relo.errors import TrainingError
from relo.training.run.distributed import Processes
from relo.training.run.loss_log import LossLog
from relo.training.run.step_clock import StepClock


def add(log, step, *values):
    names = ("loss", "l1", "msfr")
    log.add(step, {name: torch.tensor(value) for name, value in zip(names, values, strict=True)}, ["a/0", "b/1"])


def test_means_are_over_the_steps_since_the_reset():
    log = LossLog(Processes())
    assert log.means() == {}
    add(log, 1, 1.0, 2.0, 3.0)
    add(log, 2, 2.0, 4.0, 8.0)
    assert log.means() == log.means() == {"loss": 1.5, "l1": 3.0, "msfr": 5.5}
    log.reset()
    add(log, 3, 7.0, 8.0, 9.0)
    assert log.means() == {"loss": 7.0, "l1": 8.0, "msfr": 9.0}


def test_a_loaded_state_goes_on_bit_for_bit():
    values = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first, second = (LossLog(Processes()) for _ in range(3))
    for step, row in enumerate(values):
        add(whole, step, *row)
        if step < 4:
            add(first, step, *row)
    second.load(first.state())
    for step, row in enumerate(values[4:], start=4):
        add(second, step, *row)
    assert second.means() == whole.means()
    empty = LossLog(Processes())
    empty.load(LossLog(Processes()).state())
    assert empty.means() == {}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((float("nan"), 1.0, float("nan")), r"became nan at step 5 \(term: msfr; batch: a/0, b/1\)"),
        ((float("inf"), float("inf"), float("nan")), r"became inf at step 5 \(term: l1, msfr; batch: a/0, b/1\)"),
        ((float("-inf"), 1.0, 1.0), r"became -inf at step 5 \(term: loss; batch: a/0, b/1\)"),
    ],
)
def test_what_is_not_finite_is_named(values, told):
    log = LossLog(Processes())
    log.check()
    add(log, 4, 1.0, 1.0, 1.0)
    log.check()
    add(log, 5, *values)
    with pytest.raises(TrainingError, match=told):
        log.check()


def test_the_clock_leaves_out_what_is_between():
    clock = StepClock(torch.device("cpu"))
    clock.stop(3)
    assert (clock.steps, clock.seconds) == (0, 0.0)
    clock.start(3)
    clock.start(4)
    time.sleep(0.02)
    clock.stop(5)
    time.sleep(0.2)
    clock.start(5)
    clock.stop(6)
    assert clock.steps == 3
    assert 0.02 <= clock.seconds < 0.2
