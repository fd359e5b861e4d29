"""The blur-aware guided filter against least squares of every window, one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.models.exprdiff import blur_aware_guided_filter
from relo.models.exprdiff.filter_arrays import _ROWS, box_sum


def oracle(blurry, short, mask, radius, eps, mode):
    """H of one channel, by numpy's least squares with a row more for the ridge; windows without blur left out."""
    height, width = blurry.shape
    slopes, offsets, counts = (np.zeros((height, width)) for _ in range(3))
    for y in range(height):
        for x in range(width):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            b, r, m = (image[window].ravel().astype(float) for image in (blurry, short, mask))
            if not (m > 0).any():
                continue
            ridge = eps * (m**2).sum() if mode == "mean" else eps
            rows = np.concatenate([np.stack([m * r, m], axis=1), [[np.sqrt(ridge), 0]]])
            slope, offset = np.linalg.lstsq(rows, np.append(m * b, 0), rcond=None)[0]
            slopes[window] += slope
            offsets[window] += offset
            counts[window] += 1
    covered = np.maximum(counts, 1)
    fit = np.where(counts > 0, slopes / covered * short + offsets / covered, blurry)
    return mask * fit + (1 - mask) * blurry


def as_tensors(*images):
    """(H, W) or (H, W, 3) arrays as (1, C, H, W) tensors."""
    return [torch.from_numpy(np.moveaxis(np.atleast_3d(image), -1, 0)[None].copy()) for image in images]


def draw(rng, size, kind, channels=1):
    blurry, short = (rng.random((*size, channels)) for _ in range(2))
    mask = {
        "binary": lambda: (rng.random(size) < 0.4).astype(float),
        "fractional": lambda: rng.random(size) * (rng.random(size) < 0.6),
        "tiny": lambda: 10.0 ** rng.uniform(-9, 0, size),
        "corner": lambda: np.pad(np.ones((2, 2)), ((0, size[0] - 2), (0, size[1] - 2))),
        "ones": lambda: np.ones(size),
    }[kind]()
    return blurry, short, mask


@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["binary", "fractional", "tiny", "corner", "ones"])
@pytest.mark.parametrize(("size", "radius"), [((9, 12), 1), ((12, 7), 3), ((5, 8), 20), ((3, 2), 1)])
def test_equals_least_squares(size, radius, kind, mode):
    blurry, short, mask = draw(np.random.default_rng(size[0]), size, kind, 3)
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 2e-6)):
        b, r, m = blurry.astype(dtype), short.astype(dtype), mask.astype(dtype)
        wanted = np.stack([oracle(b[..., c], r[..., c], m, radius, 1e-3, mode) for c in range(3)], axis=-1)
        found = blur_aware_guided_filter(b, r, m, radius=radius, eps=1e-3, eps_mode=mode)
        assert found.dtype == dtype and found.shape == b.shape
        assert np.abs(found - wanted).max() < tolerance
        tensors = blur_aware_guided_filter(*as_tensors(b, r, m), radius=radius, eps=1e-3, eps_mode=mode)
        assert tensors.dtype == torch.from_numpy(b).dtype
        assert np.abs(tensors[0].numpy() - np.moveaxis(wanted, -1, 0)).max() < tolerance


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    radius=st.integers(1, 12),
    eps=st.floats(1e-4, 1),
    mode=st.sampled_from(["mean", "sum"]),
    kind=st.sampled_from(["binary", "fractional", "tiny"]),
)
def test_any_size_and_mask(seed, height, width, radius, eps, mode, kind):
    blurry, short, mask = draw(np.random.default_rng(seed), (height, width), kind)
    blurry, short = blurry[..., 0], short[..., 0]
    found = blur_aware_guided_filter(blurry, short, mask, radius=radius, eps=eps, eps_mode=mode)
    assert np.abs(found - oracle(blurry, short, mask, radius, eps, mode)).max() < 1e-10
    tensors = blur_aware_guided_filter(*as_tensors(blurry, short, mask), radius=radius, eps=eps, eps_mode=mode)
    assert np.abs(tensors[0, 0].numpy() - found).max() < 1e-12


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("sum", [0.2, 0.426054, 0.574840, 0.498212, 0.3, 0.3, 0.3]),
        ("mean", [0.2, 0.436749, 0.562498, 0.501505, 0.3, 0.3, 0.3]),
    ],
)
def test_worked_example(mode, wanted):
    blurry = np.array([[0.2, 0.4, 0.6, 0.5, 0.3, 0.3, 0.3]])
    short = np.array([[0.1, 0.2, 0.4, 0.2, 0.1, 0.1, 0.1]])
    mask = np.array([[0, 1, 1, 0.5, 0, 0, 0]])
    found = blur_aware_guided_filter(blurry, short, mask, radius=1, eps=0.01, eps_mode=mode)
    assert np.allclose(found, [wanted], rtol=0, atol=5e-7)


def test_strips_join_without_a_seam():
    rng = np.random.default_rng(0)
    size = (2 * _ROWS + 70, 40)
    blurry, short, mask = draw(rng, size, "fractional")
    mask[_ROWS + 20 : 2 * _ROWS + 10] = 0  # a strip without blur, beside strips with it
    found = blur_aware_guided_filter(blurry[..., 0], short[..., 0], mask, radius=5)
    tensors = blur_aware_guided_filter(*as_tensors(blurry, short, mask), radius=5)
    assert np.abs(tensors[0, 0].numpy() - found).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_without_blur_are_untouched(dtype):
    blurry, short, mask = draw(np.random.default_rng(1), (30, 40), "binary", 3)
    blurry = np.where(blurry < 0.1, -0.0, blurry).astype(dtype)
    short = short.astype(dtype)
    before = blurry.copy()
    found = blur_aware_guided_filter(blurry, short, mask, radius=4)
    assert found[mask == 0].tobytes() == blurry[mask == 0].tobytes()
    assert (found[mask > 0] != blurry[mask > 0]).all()
    assert np.array_equal(blurry, before)
    nothing = blur_aware_guided_filter(blurry, short, np.zeros((30, 40), bool))
    assert nothing.tobytes() == blurry.tobytes() and nothing is not blurry


def test_a_lonely_blurred_pixel_keeps_its_value():
    blurry, short, _ = draw(np.random.default_rng(2), (9, 9), "ones")
    mask = np.zeros((9, 9))
    mask[4, 4] = 1
    assert np.allclose(blur_aware_guided_filter(blurry[..., 0], short[..., 0], mask), blurry[..., 0], atol=1e-15)


def test_all_blurred_is_the_guided_filter_of_opencv_inside():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    short = cv2.GaussianBlur(rng.random((80, 90)).astype(np.float32), (0, 0), 1.5)
    blurry = cv2.GaussianBlur(short, (0, 0), 3)
    found = blur_aware_guided_filter(blurry, short, np.ones((80, 90), bool), radius=6, eps=1e-4)
    wanted = cv2.ximgproc.guidedFilter(short, blurry, 6, 1e-4)
    inner = np.s_[14:-14, 14:-14]
    assert np.abs(found - wanted)[inner].max() < 2e-5
    assert np.abs(found - blurry)[inner].max() > 1e-3


def test_covariances():
    blurry, short, mask = draw(np.random.default_rng(4), (20, 24), "fractional", 3)
    plain = blur_aware_guided_filter(blurry, short, mask, radius=3)
    # Of the photograph for every eps; of the short exposure where eps scales with it.
    assert np.allclose(blur_aware_guided_filter(3 * blurry - 1, short, mask, radius=3), 3 * plain - 1, atol=1e-12)
    scaled = blur_aware_guided_filter(blurry, 0.25 * short + 2, mask, radius=3, eps=1e-4 * 0.25**2)
    assert np.allclose(scaled, plain, atol=1e-11)
    assert not np.allclose(blur_aware_guided_filter(blurry, 0.25 * short, mask, radius=3), plain, atol=1e-4)


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_gradients(mode):
    blurry, short, mask = as_tensors(*draw(np.random.default_rng(5), (5, 6), "fractional", 2))
    mask = mask * 0.9 + 0.05  # where it is 0 the filter is not continuous
    inputs = [tensor.requires_grad_() for tensor in (blurry, short, mask)]
    assert torch.autograd.gradcheck(
        lambda b, r, m: blur_aware_guided_filter(b, r, m, radius=2, eps=0.01, eps_mode=mode), inputs
    )


def test_gradients_are_finite_without_blur_and_in_half_precision():
    for mask in (torch.zeros(2, 1, 8, 9), torch.eye(8, 9).expand(2, 1, 8, 9).clone()):
        torch.manual_seed(0)
        inputs = [torch.rand(2, 3, 8, 9).bfloat16(), torch.rand(2, 3, 8, 9).bfloat16(), mask]
        found = blur_aware_guided_filter(*[tensor.requires_grad_() for tensor in inputs], radius=2)
        found.float().sum().backward()
        assert found.dtype == torch.bfloat16
        assert all(torch.isfinite(tensor.grad).all() for tensor in inputs)


def test_images_of_a_batch_do_not_meet():
    torch.manual_seed(1)
    blurry, short, mask = torch.rand(3, 3, 9, 7), torch.rand(3, 3, 9, 7), torch.rand(3, 1, 9, 7)
    together = blur_aware_guided_filter(blurry, short, mask, radius=2)
    for n in range(3):
        alone = blur_aware_guided_filter(*(images[n : n + 1] for images in (blurry, short, mask)), radius=2)
        assert torch.allclose(together[n : n + 1], alone, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2, 5, 30])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 11), (13, 6)])
def test_box_sum(size, radius):
    image = np.random.default_rng(6).random(size)
    wanted = [
        [
            image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].sum()
            for x in range(size[1])
        ]
        for y in range(size[0])
    ]
    assert np.allclose(box_sum(image, radius), wanted, rtol=1e-14)


def test_box_sum_does_not_cancel():
    image = np.full((1, 40), 1e-18)
    image[0, :10] = 1
    assert np.allclose(box_sum(image, 2)[0, 20:30], 5e-18, rtol=1e-14, atol=0)


IMAGE, MASK = np.full((6, 5, 3), 0.5), np.ones((6, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0}, "radius must be a whole number of pixels, at least 1, got 0"),
        ({"radius": 2.0}, "radius must be a whole number"),
        ({"eps": 0}, "eps must be above 0 and finite, got 0"),
        ({"eps": float("nan")}, "eps must be above 0"),
        ({"eps_mode": "median"}, "eps_mode must be one of mean, sum, got 'median'"),
        ({"short": IMAGE[1:]}, r"the short exposure has shape \(5, 5, 3\), the photograph \(6, 5, 3\)"),
        ({"short": IMAGE.astype(np.float32)}, "the short exposure is float32, the photograph float64"),
        ({"mask": MASK[None]}, r"expected a mask of shape \(6, 5\), got \(1, 6, 5\)"),
        ({"mask": np.full((6, 5), 255, np.uint8)}, "expected a bool mask, or a floating-point one .* got uint8"),
        ({"mask": 255 * MASK}, r"the mask must be within \[0, 1\], got 255 to 255"),
        ({"mask": np.where(MASK, np.nan, 0)}, "mask holds NaN or infinity"),
        ({"short": np.full_like(IMAGE, np.inf)}, "short holds NaN or infinity"),
        ({"blurry": IMAGE[..., :2], "short": IMAGE[..., :2]}, r"\(H, W, 3\) array, got shape \(6, 5, 2\)"),
        ({"blurry": IMAGE[:0], "short": IMAGE[:0]}, "expected a non-empty"),
        ({"blurry": (255 * IMAGE).astype(np.uint8), "short": (255 * IMAGE).astype(np.uint8)}, "got uint8"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "blurry": IMAGE,
        "short": IMAGE,
        "mask": MASK,
        "radius": 1,
        "eps": 1e-4,
        "eps_mode": "mean",
    } | change
    images = [arguments.pop(name) for name in ("blurry", "short", "mask")]
    with pytest.raises(ValueError, match=message):
        blur_aware_guided_filter(*images, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blurry": torch.rand(3, 6, 5), "short": torch.rand(3, 6, 5)}, r"\(N, C, H, W\) tensor"),
        ({"short": torch.rand(1, 3, 6, 4)}, "the short exposure has shape"),
        ({"mask": torch.ones(1, 3, 6, 5)}, r"expected a mask of shape \(1, 1, 6, 5\), got \(1, 3, 6, 5\)"),
        ({"mask": torch.full((1, 1, 6, 5), torch.nan)}, "mask holds NaN"),
        ({"mask": torch.full((1, 1, 6, 5), -0.5)}, "within"),
        ({"mask": torch.ones(1, 1, 6, 5, dtype=torch.uint8)}, "expected a bool mask"),
    ],
)
def test_bad_tensors(change, message):
    images = {"blurry": torch.rand(1, 3, 6, 5), "short": torch.rand(1, 3, 6, 5), "mask": torch.ones(1, 1, 6, 5)}
    with pytest.raises(ValueError, match=message):
        blur_aware_guided_filter(*(images | change).values())


def test_arrays_and_tensors_are_not_mixed():
    with pytest.raises(TypeError, match="three NumPy arrays or three tensors, got ndarray, ndarray, Tensor"):
        blur_aware_guided_filter(IMAGE, IMAGE, torch.ones(6, 5))
