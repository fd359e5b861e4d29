"""Devices by name."""

import pytest
import torch

from relo.errors import ConfigError
from relo.training.devices import choose_device, device_in_words


@pytest.mark.parametrize("name", [None, "auto"])
def test_without_a_name_it_is_the_gpu_if_there_is_one(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(name) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(name) == torch.device("cuda")


def test_the_cpu_is_always_there():
    assert device_in_words(choose_device("cpu")) == "cpu"
    assert choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["foo", "cuda:99", "cpu:x", "", "meta", "hpu"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(ConfigError, match=f"the device '{name}' cannot be used") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)
