"""Constants that are made once: which results are kept, and what recorded graphs and inference mode may not see."""

import torch

from relo.models.constant_tensors import keep_constants


def counting():
    """A function that makes zeros, and the sizes that it was called for."""
    calls = []

    @keep_constants(2)
    def zeros(size):
        """Make zeros."""
        calls.append(size)
        return torch.zeros(size)

    return zeros, calls


def test_the_last_results_are_kept():
    zeros, calls = counting()
    assert zeros(3) is zeros(3)
    for size in (4, 5, 3):
        assert torch.equal(zeros(size), torch.zeros(size))
    assert calls == [3, 4, 5, 3], "of two that are kept, the one for 3 was the oldest"
    assert zeros.__doc__ == "Make zeros."


def test_a_recorded_graph_makes_its_own_and_leaves_none_behind(monkeypatch):
    zeros, calls = counting()
    kept = zeros(3)
    with monkeypatch.context() as recording:
        recording.setattr(torch.compiler, "is_compiling", lambda: True)
        assert zeros(3) is not kept
        zeros(4)
    assert zeros(3) is kept
    zeros(4)
    assert calls == [3, 3, 4, 4]


def test_what_inference_makes_may_be_trained_with():
    zeros, _ = counting()
    with torch.inference_mode():
        kept = zeros(3)
    weight = torch.ones(3, requires_grad=True)
    (weight * kept).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(3))
