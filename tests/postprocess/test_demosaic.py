"""Menon's demosaicing: against the reference implementation, and by properties no implementation may miss."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from relo.capture.frame import PATTERNS, channel_of_position
from relo.postprocess.demosaic import demosaic_menon

SHAPES = [
    (2, 2),
    (3, 3),
    (2, 9),
    (9, 4),
    (5, 7),
    (20, 31),
    (41, 30),
    (131, 40),
    (256, 22),
    (263, 25),
    (21, 517),
    (130, 515),
]

# In a process of its own: importing the reference patches matplotlib for the whole process.
BACKEND = """
import sys
import numpy as np
from relo.postprocess import demosaic_menon
mosaic = np.random.default_rng(0).random((20, 31), np.float32)
ours, theirs = (demosaic_menon(mosaic, "GRBG", backend=backend) for backend in ("relo", "colour-demosaicing"))
assert theirs.dtype == np.float32
assert np.abs(ours - theirs).max() < 1e-5
mocks = [name for name, module in sys.modules.items() if "matplotlib" in name and "Mock" in type(module).__name__]
assert not mocks, mocks
"""

REFERENCE = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007 as menon
mosaics = np.load(sys.argv[1])
results = {}
for name in mosaics.files:
    for pattern in ("RGGB", "BGGR", "GRBG", "GBRG"):
        for refine in (False, True):
            mosaic = mosaics[name].astype(np.float64)
            results[f"{name} {pattern} {refine}"] = menon(mosaic, pattern, refining_step=refine)
np.savez(sys.argv[2], **results)
"""


def channels(pattern: str, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.array(channel_of_position(pattern))[2 * (rows % 2) + columns % 2]


def mosaic_of(image: np.ndarray, pattern: str) -> np.ndarray:
    site = channels(pattern, image.shape[:2])[..., None]
    return np.ascontiguousarray(np.take_along_axis(image, site, axis=2)[..., 0], np.float32)


def photograph(noise: float = 0.0) -> np.ndarray:
    image = data.astronaut()[40:240, 150:380].astype(np.float32) / 255
    return image + np.random.default_rng(0).normal(0, noise, image.shape).astype(np.float32)


def mosaics() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    result = {f"noise {height} {width}": rng.random((height, width), np.float32) for height, width in SHAPES}
    # Photographs have flat parts, where both directions tie; a little noise decides them alike.
    result["photograph"] = mosaic_of(photograph(0.01), "RGGB")
    return result


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder: Path = tmp_path_factory.mktemp("menon")
    np.savez(folder / "in.npz", **mosaics())
    subprocess.run(
        [sys.executable, "-c", REFERENCE, str(folder / "in.npz"), str(folder / "out.npz")],
        check=True,
        capture_output=True,
    )
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_the_reference_implementation(reference, pattern, refine):
    for name, mosaic in mosaics().items():
        result = demosaic_menon(mosaic, pattern, refine)
        expected = reference[f"{name} {pattern} {refine}"]
        assert result.dtype == np.float32
        assert np.abs(result - expected).max() < 3e-6, name


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (8, 8), (150, 21)])
def test_a_constant_colour_stays_constant(pattern, shape):
    colour = np.array([0.2, 0.7, 0.4], np.float32)
    mosaic = mosaic_of(np.broadcast_to(colour, (*shape, 3)), pattern)
    assert np.abs(demosaic_menon(mosaic, pattern) - colour).max() < 1e-6


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("refine", [False, True])
def test_measured_values_are_kept(pattern, refine):
    mosaic = np.random.default_rng(1).random((40, 53), np.float32)
    result = demosaic_menon(mosaic, pattern, refine)
    own = np.take_along_axis(result, channels(pattern, mosaic.shape)[..., None], axis=2)[..., 0]
    assert np.array_equal(own, mosaic)


def test_patterns_agree_under_shifts():
    """A frame cut one row or column later is the same scene with another pattern."""
    mosaic = np.random.default_rng(2).random((64, 70), np.float32)
    whole = demosaic_menon(mosaic, "RGGB")
    margin = 12  # borders are mirrored elsewhere
    for top, left, pattern in ((0, 1, "GRBG"), (1, 0, "GBRG"), (1, 1, "BGGR")):
        part = demosaic_menon(mosaic[top:, left:], pattern)
        inner = np.s_[margin:-margin, margin:-margin]
        assert np.abs(part[inner] - whole[top:, left:][inner]).max() < 1e-6


@pytest.mark.parametrize("pattern", PATTERNS)
def test_quality_order(pattern):
    """CPSNR on a photograph: refined Menon > plain Menon > bilinear."""
    image = photograph()
    mosaic = mosaic_of(image, pattern)
    kernels = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4, np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    site = channels(pattern, mosaic.shape)
    bilinear = [ndimage.convolve(mosaic * (site == c), kernels[c == 1], mode="mirror") for c in range(3)]

    def cpsnr(result: np.ndarray) -> float:
        return float(-10 * np.log10(((result - image)[8:-8, 8:-8] ** 2).mean()))

    refined, plain = (cpsnr(demosaic_menon(mosaic, pattern, refine)) for refine in (True, False))
    assert refined > plain
    assert plain > cpsnr(np.stack(bilinear, axis=-1)) + 3


def test_not_clipped_and_linear_in_brightness():
    mosaic = np.random.default_rng(3).random((30, 30), np.float32)
    result = demosaic_menon(mosaic, "RGGB")
    assert result.min() < 0
    assert result.max() > 1
    assert np.array_equal(demosaic_menon(mosaic * 4, "RGGB"), result * 4)


def test_strides_and_read_only_inputs():
    mosaic = np.random.default_rng(4).random((60, 62), np.float32)
    view = mosaic[::2, ::2]
    mosaic.setflags(write=False)
    assert np.array_equal(demosaic_menon(view, "GRBG"), demosaic_menon(view.copy(), "GRBG"))


def test_wrong_input():
    mosaic = np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match="RGGB, BGGR"):
        demosaic_menon(mosaic, "RGBG")
    for wrong in (mosaic[:1], np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="2 x 2"):
            demosaic_menon(wrong, "RGGB")
    with pytest.raises(ValueError, match="float"):
        demosaic_menon(np.zeros((8, 8), np.uint16), "RGGB")


def test_the_reference_is_a_backend_and_leaves_no_mock_ups_behind():
    subprocess.run([sys.executable, "-c", BACKEND], check=True, timeout=120)
    with pytest.raises(ValueError, match="backend"):
        demosaic_menon(np.zeros((4, 4), np.float32), "RGGB", backend="opencv")


def test_threads_do_not_change_the_result():
    mosaic = np.random.default_rng(1).random((300, 700), np.float32)
    threads = numba.get_num_threads()
    expected = demosaic_menon(mosaic, "BGGR")
    try:
        numba.set_num_threads(1)
        assert np.array_equal(demosaic_menon(mosaic, "BGGR"), expected)
    finally:
        numba.set_num_threads(threads)


def test_memory_is_a_few_tiles():
    """At most 45 bytes a pixel beside input and output, and far less on large frames."""
    mosaic = np.random.default_rng(1).random((1400, 2100), np.float32)
    demosaic_menon(mosaic[:32, :32], "RGGB")
    tracemalloc.start()
    try:
        demosaic_menon(mosaic, "RGGB")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What the kernels allocate inside is not traced: about 30 bytes for each site of a tile on each thread.
    assert peak - mosaic.size * 12 < 15 * mosaic.size
