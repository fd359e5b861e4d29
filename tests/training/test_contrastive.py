"""Stripformer's contrastive term against numpy and scipy, with weights of VGG19 from a file of our own."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from relo.errors import TrainingError
from relo.training.contrastive import ContrastiveLoss

LAYERS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128)}  # index: outputs, inputs


@pytest.fixture(scope="module")
def state():
    """What the term needs of VGG19, and some of what it does not."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"classifier.6.bias": torch.zeros(1000), "features.12.bias": torch.zeros(256)}
    for index, (outputs, inputs) in LAYERS.items():
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
        tensors[f"features.{index}.weight"] = weight * (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return tensors


@pytest.fixture(scope="module")
def loss(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return ContrastiveLoss.from_file(path).double()


def features(state, image):
    """VGG19's features[:12] of one (3, H, W) image, kernel by kernel."""
    x = image - 0.5
    for index in LAYERS:
        weight, bias = (state[f"features.{index}.{kind}"].double().numpy() for kind in ("weight", "bias"))
        x = np.stack(
            [
                sum(correlate2d(plane, kernel, "same") for plane, kernel in zip(x, kernels, strict=True))
                for kernels in weight
            ]
        )
        x = np.maximum(x + bias[:, None, None], 0)
        if index in (2, 7):
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
    return x


def batch(seed=0):
    """Two images (pred, sharp, blur) of 8 x 12 px; the first is not blurred at its left."""
    rng = np.random.default_rng(seed)
    sharp = rng.random((2, 3, 8, 12))
    blur, pred = (np.clip(sharp + rng.normal(size=sharp.shape) * 0.1, 0, 1) for _ in range(2))
    blur[0, :, :, :6] = sharp[0, :, :, :6] + 0.005
    return pred, sharp, blur


def test_it_is_the_published_formula(loss, state):
    images = batch()
    pred, sharp, blur = (np.stack([features(state, image) for image in stack]) for stack in images)
    share = np.abs(pred - sharp).mean(1) / (np.abs(pred - blur).mean(1) + 1e-7)
    blurred = (np.abs(images[1] - images[2]).mean(1) > 0.01).reshape(2, 2, 4, 3, 4)
    weight = blurred[:, :, 1:3, :, 1:3].mean((2, 4))  # a bilinear quarter of the size
    assert 0 < weight[0].sum() < weight[1].sum()
    found = loss(*map(torch.from_numpy, images))
    assert found.item() == pytest.approx((share * weight).sum() / weight.sum(), rel=1e-10)


def test_gradients_reach_the_restoration_alone(loss):
    pred, sharp, blur = (torch.from_numpy(image).requires_grad_() for image in batch(1))
    loss(pred, sharp, blur).backward()
    assert pred.grad.abs().max() > 0
    assert sharp.grad is None and blur.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_a_batch_without_blur_gives_zero_and_no_gradient(loss):
    pred, sharp, _ = map(torch.from_numpy, batch())
    value = loss(pred.requires_grad_(), sharp, sharp)
    value.backward()
    assert value.item() == 0
    assert not pred.grad.any()


def test_a_sharp_restoration_costs_nothing_and_a_blurred_one_much(loss):
    pred, sharp, blur = map(torch.from_numpy, batch())
    assert loss(sharp, sharp, blur).item() == 0
    assert loss(blur, sharp, blur) > 1e3 > loss(pred, sharp, blur)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features.7.bias", None),
        ("features.5.weight", torch.zeros(128, 64, 1, 1)),
        ("features.10.bias", torch.full((256,), torch.nan)),
    ],
)
def test_files_of_other_networks_are_named_with_what_they_lack(state, tmp_path, name, value):
    path = tmp_path / "other.pth"
    changed = {**state, name: value} if value is not None else {k: v for k, v in state.items() if k != name}
    torch.save(changed, path)
    with pytest.raises(TrainingError, match=name) as caught:
        ContrastiveLoss.from_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        ContrastiveLoss.from_file(tmp_path / "vgg19.pth")
