"""The blur detector: patches in and out, labels, loss, noise, whole photographs, and that it learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, uniform_filter1d

from relo.errors import ConfigError
from relo.models import create_model, list_models, model_info
from relo.models.exprdiff.detector import (
    BlurDetector,
    add_gumbel_noise,
    blur_cross_entropy,
    blurred_share,
    decide,
    detect_blur,
    split_patches,
)
from relo.models.image_batches import enlarge
from relo.models.recognition import recognise


@pytest.fixture(autouse=True)
def seeded():
    """Noise and initial weights are drawn from torch's generator."""
    torch.manual_seed(0)


def small(**options):
    """A detector of 29 058 parameters, in evaluation mode."""
    return BlurDetector(width=8, **options).eval()


def by_brightness():
    """A detector whose answer is known: a patch is blurred where its mean is above one half."""
    model = BlurDetector(width=8)
    model.standardise = torch.nn.Identity()
    model.features = torch.nn.Sequential(torch.nn.AvgPool2d(60), torch.nn.Flatten())
    model.head = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.head.weight[0], model.head.weight[1] = 0, 1 / 3
        model.head.bias[0], model.head.bias[1] = 0, -0.5
    return model


def test_parameters_are_those_of_the_fact_sheet():
    assert sum(parameter.numel() for parameter in BlurDetector().parameters()) == 405_954
    assert sum(parameter.numel() for parameter in BlurDetector(width=8).parameters()) == 29_058
    assert model_info("exprdiff_detector").parameters == 405_954
    assert "exprdiff_detector" in list_models()


def test_patches_are_those_of_unfold_and_folding_puts_them_back():
    images = torch.rand(2, 3, 120, 180)
    patches = split_patches(images, 60)
    columns = F.unfold(images, kernel_size=60, stride=60)
    assert torch.equal(patches, columns.transpose(1, 2).reshape(12, 3, 60, 60))
    back = F.fold(patches.reshape(2, 6, -1).transpose(1, 2), output_size=(120, 180), kernel_size=60, stride=60)
    assert torch.equal(back, images)
    values = torch.arange(6.0).view(1, 1, 2, 3)
    assert torch.equal(enlarge(values, 60, 120, 180), F.interpolate(values, scale_factor=60, mode="nearest"))


@pytest.mark.parametrize("size", [(1, 1), (59, 60), (60, 61), (61, 119), (150, 7), (240, 120)])
@pytest.mark.parametrize("patch", [8, 13, 32, 60, 96])
def test_any_size_of_image_and_patch_gives_a_block_map(size, patch):
    images = torch.rand(2, 3, *size)
    found = small(patch=patch)(images)
    grid = tuple(-(-side // patch) for side in size)
    assert found.scores.shape == (2, 2, *grid)
    assert found.mask.shape == (2, 1, *size)
    assert torch.equal(found.mask, enlarge((found.scores[:, 1:] > found.scores[:, :1]).float(), patch, *size))


def test_every_pixel_of_a_patch_of_another_size_counts():
    model = small(patch=13)
    image = torch.rand(1, 3, 13, 13)
    before = model(image).scores
    image[..., -1, -1] = 1 - image[..., -1, -1]
    assert not torch.equal(model(image).scores, before)


def test_brightness_contrast_and_cast_tell_nothing_and_noise_is_not_raised():
    model, image = small(), torch.rand(1, 3, 60, 120)
    cast = torch.tensor([0.4, 0.1, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(model(0.5 * image + cast).scores, model(image).scores, rtol=0.02, atol=0.02)
    deviation = model.standardise(0.4 + 0.002 * torch.randn(1, 3, 60, 60)).std()
    assert deviation == pytest.approx(0.1, rel=0.05)  # a tenth of the faintest contrast


def test_padding_continues_the_image_by_reflection():
    model = small()
    image = torch.rand(1, 3, 70, 100)
    padded = F.pad(image, (0, 20, 0, 50), mode="reflect")
    assert torch.equal(model(image).scores, model(padded).scores)


def test_patches_are_independent_and_many_are_taken_in_parts():
    model = small(patch=8)
    image = torch.rand(1, 3, 72, 80)  # 90 patches
    whole = model(image).scores
    alone = model(image[..., 40:48, 16:24]).scores
    torch.testing.assert_close(whole[..., 5:6, 2:3], alone)
    torch.testing.assert_close(whole[..., -1:, -1:], model(image[..., -8:, -8:]).scores)


def test_labels_are_shares_of_valid_pixels_without_padding():
    mask, valid = torch.zeros(2, 1, 90, 70), torch.ones(2, 1, 90, 70)
    mask[0, 0, :30, :60] = 1  # half of patch (0, 0)
    mask[0, 0, 60:75, 60:] = 1  # half of what patch (1, 1) has of the image
    mask[1, 0, 60:, :60] = 1
    valid[1, 0, 60:80] = 0
    valid[1, 0, :60, 60:] = 0  # nothing of patch (0, 1)
    share = blurred_share(mask, 60)
    assert torch.equal(share, torch.tensor([[[0.5, 0], [0, 0.5]], [[0, 0], [1, 0]]]))
    seen = blurred_share(mask, 60, valid)
    assert math.isnan(seen[1, 0, 1])
    assert torch.equal(seen.nan_to_num(nan=9), torch.tensor([[[0.5, 0], [0, 0.5]], [[0, 9], [1, 0]]]))
    mask[1, 0, 80:, :30] = 0
    assert blurred_share(mask, 60, valid)[1, 1, 0] == 0.5, "the invalid pixels are marked and do not count"


def test_labels_are_hard_or_soft_by_option():
    share = torch.tensor([0.0, 0.1, 0.3, 0.7, 1.0])
    assert BlurDetector(width=8).labels(share).tolist() == [0, 0, 1, 1, 1]
    assert BlurDetector(width=8, blurred_from=0.5).labels(share).tolist() == [0, 0, 0, 1, 1]
    soft = BlurDetector(width=8, soft_labels=True)
    assert torch.equal(soft.labels(share), share)
    assert soft.is_blurred(share).tolist() == [False, False, False, True, True]


def test_the_loss_is_the_cross_entropy_and_finite_at_its_ends():
    scores = torch.randn(3, 2, 2, 5, dtype=torch.float64)
    labels = torch.rand(3, 2, 5, dtype=torch.float64)
    probability = torch.exp(scores[:, 1]) / torch.exp(scores).sum(dim=1)
    expected = F.binary_cross_entropy(probability, labels)
    torch.testing.assert_close(blur_cross_entropy(scores, labels), expected)
    sure = torch.tensor([[[[-80.0, 80.0, 500.0]], [[80.0, -80.0, -500.0]]]], requires_grad=True)
    right = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert blur_cross_entropy(sure, right).item() == 0
    wrong = blur_cross_entropy(sure, 1 - right)
    assert wrong.item() == pytest.approx((160 + 160 + 1000) / 3)
    wrong.backward()
    assert torch.isfinite(sure.grad).all() and sure.grad.abs().sum() > 0


def test_the_noise_is_gumbel_distributed_and_repeats_with_the_seed():
    noise = add_gumbel_noise(torch.zeros(200_000))
    assert noise.mean().item() == pytest.approx(np.euler_gamma, abs=0.02)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    torch.manual_seed(0)
    assert torch.equal(add_gumbel_noise(torch.zeros(200_000)), noise)


def test_noise_is_for_training_alone():
    model, image = small(), torch.rand(1, 3, 130, 70)
    assert torch.equal(model(image).scores, model(image).scores)
    model.train()
    torch.manual_seed(1)
    first, second = model(image).scores, model(image).scores
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(model(image).scores, first)
    # A draw is that of the logits plus noise, divided by the temperature.
    torch.manual_seed(1)
    expected = add_gumbel_noise(model.eval()(image).scores)
    torch.testing.assert_close(first, expected)
    hot = BlurDetector(width=8, temperature=4.0)
    hot.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    torch.testing.assert_close(hot(image).scores, expected / 4)


def test_the_hard_map_has_the_gradient_of_the_soft_one():
    model, image = small().train(), torch.rand(2, 3, 120, 60)
    torch.manual_seed(3)
    found = model(image)
    assert set(found.mask.unique().tolist()) <= {0.0, 1.0}
    weights = torch.rand(2, 1, 120, 60)
    (found.mask * weights).sum().backward()
    straight = model.head[2].bias.grad.clone()
    model.zero_grad()
    torch.manual_seed(3)
    soft = model(image).scores.softmax(dim=1)[:, 1:]
    (enlarge(soft, 60, 120, 60) * weights).sum().backward()
    assert straight.abs().sum() > 0
    torch.testing.assert_close(straight, model.head[2].bias.grad)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_photographs_of_every_dtype_are_told_block_by_block(dtype):
    image = np.full((130, 150, 3), 0.2)
    image[60:120, :60] = 0.9
    image[125:, 120:] = 0.9
    padded = np.pad(image[..., 0], ((0, 50), (0, 30)), mode="reflect")
    means = padded.reshape(3, 60, 3, 60).mean(axis=(1, 3))
    expected = np.kron(means > 0.5, np.ones((60, 60), bool))[:130, :150]
    assert expected[70, 30] and not expected[70, 90] and expected[125, 30]  # by reflection
    if np.issubdtype(dtype, np.integer):
        image = image * np.iinfo(dtype).max
    found = detect_blur(by_brightness(), image.astype(dtype))
    assert found.dtype == np.bool_
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("stride", [30, 20])
def test_shifted_grids_are_averaged(stride):
    image = np.zeros((180, 240, 3), np.float32)
    image[41:149, 67:191] = 1
    found = detect_blur(by_brightness(), image, stride=stride)
    total = np.zeros(image.shape[:2])
    padded = np.pad(image[..., 0], ((0, 60), (0, 60)), mode="reflect")
    for top in range(0, 60, stride):
        for left in range(0, 60, stride):
            for y in range(top, 180, 60):
                for x in range(left, 240, 60):
                    # Each shifted part is reflected about its own last pixel, which is the image's.
                    margin = padded[y : y + 60, x : x + 60].mean() - 0.5
                    total[y : y + 60, x : x + 60] += np.tanh(margin / 2)
    assert np.abs(total).min() > 0.01
    assert np.array_equal(found, total > 0)
    truth = image[..., 0] > 0
    plain = detect_blur(by_brightness(), image)
    assert (found != truth).sum() < (plain != truth).sum(), "the outline is finer"


def test_the_default_is_the_map_of_the_network_and_the_mode_is_kept():
    model = small().train()
    image = np.random.default_rng(0).random((95, 130, 3), np.float32)
    found = detect_blur(model, image)
    assert model.training
    mask = model.eval()(torch.from_numpy(image).permute(2, 0, 1)[None]).mask[0, 0] > 0
    assert np.array_equal(found, mask.numpy())
    assert np.array_equal(detect_blur(model, image, stride=60), found)


@pytest.mark.parametrize(
    ("image", "stride", "message"),
    [
        (np.zeros((9, 9)), None, "expected a non-empty"),
        (np.zeros((0, 9, 3)), None, "expected a non-empty"),
        (np.zeros((9, 9, 3), np.int64), None, "expected uint8"),
        (np.full((9, 9, 3), np.nan), None, "NaN"),
        (np.zeros((9, 9, 3)), 0, "stride must be 1 to 60"),
        (np.zeros((9, 9, 3)), 61, "stride must be 1 to 60"),
    ],
)
def test_what_is_no_photograph_is_refused(image, stride, message):
    with pytest.raises(ValueError, match=message):
        detect_blur(small(), image, stride=stride)


@pytest.mark.parametrize(
    "options", [{"patch": 7}, {"width": 12}, {"width": 0}, {"temperature": 0.0}, {"blurred_from": 1.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"exprdiff_detector: {next(iter(options))} must be"):
        create_model("exprdiff_detector", **options)


def test_weights_tell_the_network():
    with torch.device("meta"):
        state = create_model("exprdiff_detector", width=16).state_dict()
    assert recognise(state) == ("exprdiff_detector", {"width": 16})
    assert recognise({name: tensor for name, tensor in state.items() if "head.2" not in name}) is None
    assert recognise(state | {"features.0.conv.weight": torch.zeros(16, 3, 5, 5)}) is None


def textures(rng, count):
    """Smoothed noise, each second one smeared by 15 px along x or y: (count, 3, 60, 60) and labels."""
    images, labels = [], np.arange(count) % 2
    for blurred in labels:
        texture = gaussian_filter(rng.standard_normal((76, 76, 3)), (1, 1, 0))
        if blurred:
            texture = uniform_filter1d(texture, 15, axis=int(rng.integers(2)))
        texture = 0.5 + 0.15 * texture / texture.std()  # contrast tells nothing
        images.append(texture[8:68, 8:68])
    planes = np.clip(images, 0, 1).transpose(0, 3, 1, 2).astype(np.float32)
    return torch.from_numpy(planes), torch.from_numpy(labels.astype(np.float32))[:, None, None]


def test_it_learns_textures_in_seconds():
    rng = np.random.default_rng(0)
    images, labels = textures(rng, 64)
    model = BlurDetector(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        loss = blur_cross_entropy(model(images).scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.6 and losses[-1] < 0.1
    unseen, truth = textures(np.random.default_rng(1), 64)
    with torch.no_grad():
        guess = decide(model.eval()(unseen).scores)[:, 0]
    assert (guess == truth).float().mean() >= 0.9
