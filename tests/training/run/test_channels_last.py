"""The guard against a crash of torch: group normalisation of inputs without gradient on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from relo.training.run.channels_last import guard_group_norms

PROGRAM = """
import torch
from torch import nn
from relo.training.run.channels_last import guard_group_norms

torch.manual_seed(0)
model = nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3)).to(memory_format=torch.channels_last)
guard_group_norms(model)
model(torch.rand(2, 4, 16, 16).contiguous(memory_format=torch.channels_last)).sum().backward()
print(float(model[0].weight.grad.abs().sum()) > 0)
"""


def test_a_network_that_begins_with_a_group_normalisation_survives():
    root = str(Path(__file__).parents[2])
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_only_inputs_without_gradient_are_copied_and_values_stay(needs_gradient):
    seen = []
    norm = nn.GroupNorm(2, 4)
    guard_group_norms(nn.Sequential(norm))
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 4, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_(needs_gradient)
    result = norm(image)
    assert seen[0].is_contiguous() is not needs_gradient
    torch.testing.assert_close(result, nn.functional.group_norm(image.contiguous(), 2))
