"""Offsets within the exposure against the worked example and the formulas of the paper."""

import numpy as np
import pytest
import torch

from relo.models.m2aenet import trajectory


def test_the_worked_example():
    """Begin -2, end 4, five times: -2, -1.25, 0, 1.75, 4."""
    offsets = torch.tensor([-2.0, 0.0, 4.0, 0.0], dtype=torch.float64).view(1, 4, 1, 1)
    found = trajectory(offsets, 5)
    assert found.shape == (5, 1, 2, 1, 1)
    assert found[:, 0, 0, 0, 0].tolist() == [-2, -1.25, 0, 1.75, 4]
    assert not found[:, :, 1].any(), "dx stays"


@pytest.mark.parametrize("count", [2, 5, 9, 15])
def test_formulas(count):
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(2, 4, 3, 4))
    for form in ("quadratic", "linear"):
        found = trajectory(torch.from_numpy(offsets), count, form)
        assert found.shape == (count, 2, 2, 3, 4)
        for n in range(count):
            tau = 2 * n / (count - 1) - 1
            begin, end = offsets[:, :2], offsets[:, 2:]
            if form == "quadratic":
                expected = (begin + end) / 2 * tau**2 + (end - begin) / 2 * tau
            else:
                expected = -tau * begin if tau < 0 else tau * end
            np.testing.assert_allclose(found[n].numpy(), expected, atol=1e-12)


def test_learned_offsets_are_taken_as_they_are():
    offsets = torch.rand(2, 18, 3, 4)
    found = trajectory(offsets, 9, "learned")
    assert found.shape == (9, 2, 2, 3, 4)
    for n in range(9):
        assert torch.equal(found[n], offsets[:, 2 * n : 2 * n + 2])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="no trajectory 'cubic'"):
        trajectory(torch.zeros(1, 4, 2, 2), 9, "cubic")
    with pytest.raises(ValueError, match=r"needs \(N, 4, H, W\)"):
        trajectory(torch.zeros(1, 2, 2, 2))
    for count, form in ((1, "quadratic"), (5, "learned")):
        with pytest.raises(ValueError, match=f"cannot have {count} times"):
            trajectory(torch.zeros(1, 18 if form == "learned" else 4, 2, 2), count, form)
