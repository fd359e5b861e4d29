"""The learning rate and the optimiser that a recipe asks for."""

import math

import pytest
import torch
from torch import nn

from relo.training.recipe import Cosine
from relo.training.run.distributed import Processes
from relo.training.run.loss_log import LossLog
from relo.training.run.optimisation import RestorationTraining, cosine_factor, rate_factor


def test_the_cosine_holds_falls_and_stays():
    cosine, lr = Cosine(hold=3, steps=8, lr_min=1e-5), 2e-3
    rates = [lr * cosine_factor(cosine, lr, step) for step in range(15)]
    expected = [
        lr if step <= 3 else 1e-5 + 0.5 * (lr - 1e-5) * (1 + math.cos(math.pi * (step - 3) / 8))
        for step in range(11)
    ]
    assert rates[:11] == pytest.approx(expected, rel=1e-12)
    assert rates[11:] == pytest.approx([1e-5] * 4, rel=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_without_a_hold_it_is_torchs_cosine():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-3)
    for step in range(20):
        assert 0.1 * cosine_factor(Cosine(steps=20, lr_min=1e-3), 0.1, step) == pytest.approx(
            scheduler.get_last_lr()[0]
        )
        optimizer.step()
        scheduler.step()


def test_the_rate_rises_before_it_falls(tiny_recipe):
    plain = tiny_recipe("milestones=[3, 6]", "gamma=0.1")
    assert [rate_factor(plain, step) for step in range(8)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    rising = plain.model_copy(update={"warmup": 4})
    assert [rate_factor(rising, step) for step in range(8)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8 * 0.1, 0.1, 0.1, 0.01, 0.01]
    )
    cosine = tiny_recipe("milestones=[]", "cosine={hold: 2, steps: 6}", "warmup=4")
    for step in range(10):
        unrisen = cosine_factor(cosine.cosine, cosine.lr, step)
        assert rate_factor(cosine, step) == pytest.approx(unrisen * min(1, (step + 1) / 5))


def test_without_a_rise_the_rate_is_that_of_torchs_milestones(tiny_recipe):
    recipe = tiny_recipe("milestones=[2, 3, 7]", "gamma=0.6")
    model = nn.Linear(2, 2)
    parts = RestorationTraining(model, recipe, LossLog(Processes())).configure_optimizers()
    scheduler = parts["lr_scheduler"]["scheduler"]
    assert isinstance(scheduler, torch.optim.lr_scheduler.MultiStepLR), "old checkpoints hold the state of one"
    for step in range(10):
        assert scheduler.get_last_lr()[0] == pytest.approx(recipe.lr * rate_factor(recipe, step))
        parts["optimizer"].step()
        scheduler.step()


def steps_of(recipe, start, gradients):
    """A parameter after a step of the recipe's optimiser for each gradient."""
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(start)
    parts = RestorationTraining(model, recipe, LossLog(Processes())).configure_optimizers()
    for gradient in gradients:
        model.weight.grad = gradient
        parts["optimizer"].step()
        parts["lr_scheduler"]["scheduler"].step()
    return model.weight.detach()


def test_weights_decay_apart_from_the_gradient(tiny_recipe):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) in plain numbers, under a cosine."""
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 2), list(torch.randn(6, 2, 2))
    recipe = tiny_recipe(
        "lr=0.1", "betas=[0.8, 0.9]", "weight_decay=0.3", "milestones=[]", "cosine={steps: 4, lr_min: 0.01}"
    )
    found = steps_of(recipe, start, gradients)
    weight, mean, square = start.double(), 0.0, 0.0
    for step, gradient in enumerate(gradients):
        lr = 0.01 + 0.09 * (1 + math.cos(math.pi * min(step / 4, 1))) / 2
        mean, square = 0.8 * mean + 0.2 * gradient.double(), 0.9 * square + 0.1 * gradient.double() ** 2
        moved = (mean / (1 - 0.8 ** (step + 1))) / ((square / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        weight = weight - lr * 0.3 * weight - lr * moved
    torch.testing.assert_close(found.double(), weight, rtol=1e-5, atol=1e-6)


def test_without_decay_it_is_adam_bit_for_bit(tiny_recipe):
    """What recipes of before there was `weight_decay` were trained with."""
    torch.manual_seed(1)
    start, gradients = torch.randn(2, 2), list(torch.randn(5, 2, 2))
    weight = nn.Parameter(start.clone())
    adam = torch.optim.Adam([weight], lr=0.1)
    for gradient in gradients:
        weight.grad = gradient
        adam.step()
    assert torch.equal(steps_of(tiny_recipe("lr=0.1", "milestones=[]"), start, gradients), weight)
