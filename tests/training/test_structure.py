"""The two ways of taking the Gaussian mean are one; the map against scikit-image is in test_metrics."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from relo.training.structure import mean_by_convolution, mean_by_shifts, ssim_map


@pytest.mark.parametrize("size", [(11, 11), (30, 12)])
def test_both_means_are_a_gaussian_filter(size):
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), (0, 0, 1.5, 1.5), radius=(0, 0, 5, 5))[..., 5:-5, 5:-5]
    for local_mean in (mean_by_convolution, mean_by_shifts):
        assert abs(local_mean(images).numpy() - expected).max() < 1e-14


def test_the_map_does_not_depend_on_the_way():
    a, b = torch.rand(2, 1, 3, 20, 25, dtype=torch.float64)
    assert (ssim_map(a, b) - ssim_map(a, b, mean_by_shifts)).abs().max() < 1e-12


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim_map(torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30))
    with pytest.raises(ValueError, match="equal sizes"):
        ssim_map(torch.rand(1, 3, 20, 30), torch.rand(1, 3, 30, 20))
