"""Images and features as (N, H, W, C) in memory, and a crash of torch to be kept away from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def guard_group_norms(model: nn.Module) -> None:
    """Give every group normalisation of `model` inputs that its backward pass survives.

    On the CPU torch 2.13 ends the process (SIGSEGV) in the backward pass of `nn.GroupNorm` where the input lies in
    memory as (N, H, W, C) and needs no gradient while the weights do, as for the first layer of a network or behind
    a frozen one. Such inputs are copied to (N, C, H, W); the values are the same.

    Parameters
    ----------
    model : torch.nn.Module
        Gets a hook on each `nn.GroupNorm` within.
    """
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_contiguous_without_gradient)


def _contiguous_without_gradient(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    features, *rest = inputs
    if features.device.type == "cpu" and not features.requires_grad and torch.is_grad_enabled():
        features = features.contiguous()
    return features, *rest
