"""Whole photographs: size, dtype, tiles, files."""

import numpy as np
import pytest
import torch

from relo.errors import ConfigError, TrainingError
from relo.images import read_image, write_image
from relo.models import Restoration, create_model
from relo.training import deblur, deblur_files, save_checkpoint

OPTIONS = {"num_res": 1, "width": 4}


class Identity(torch.nn.Module):
    def forward(self, blur):
        return Restoration(blur, (), ())


class LocalMean(torch.nn.Module):
    """3 x 3 mean with zeros beyond the border, so that window borders would show."""

    def forward(self, blur):
        return Restoration(torch.nn.functional.avg_pool2d(blur, 3, 1, 1), (), ())


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "run" / "model.safetensors"
    save_checkpoint(path, create_model("lbag", **OPTIONS), "lbag", OPTIONS, {})
    return path


def photograph(dtype, shape=(37, 50)):
    values = np.random.default_rng(0).random((*shape, 3))
    scale = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    return (values * scale).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tile", [None, 16])
def test_no_value_is_lost_on_the_way(dtype, tile):
    image = photograph(dtype)
    copy = image.copy()
    restored = deblur(Identity(), image, tile=tile, overlap=8)
    assert restored.dtype == image.dtype
    np.testing.assert_allclose(restored, image, atol=1e-6 if dtype == np.float32 else 0)
    assert np.array_equal(image, copy)


def test_integers_and_floats_agree(checkpoint):
    image = photograph(np.uint8)
    from_float = deblur(checkpoint, image.astype(np.float32) / 255)
    assert np.array_equal(deblur(checkpoint, image), np.rint(from_float.astype(np.float64) * 255).astype(np.uint8))
    assert from_float.min() >= 0
    assert from_float.max() <= 1


@pytest.mark.parametrize(("shape", "tile", "overlap"), [((37, 50), 16, 8), ((64, 30), 32, 8), ((20, 90), 24, 12)])
def test_tiles_leave_no_trace(shape, tile, overlap):
    image = photograph(np.float32, shape)
    np.testing.assert_allclose(
        deblur(LocalMean(), image, tile=tile, overlap=overlap), deblur(LocalMean(), image), atol=1e-6
    )


def test_tiles_of_a_network_agree_away_from_their_borders():
    torch.manual_seed(1)
    model = create_model("lbag", **OPTIONS)
    image = photograph(np.float32, (72, 160))
    whole, tiled = deblur(model, image), deblur(model, image, tile=96, overlap=48)
    # The second window starts at column 48; the blend runs from column 60 to 84.
    np.testing.assert_allclose(tiled[:, :30], whole[:, :30], atol=1e-6)
    assert np.abs(tiled - whole).max() < 0.01


def test_a_tile_larger_than_the_image_is_the_whole_image(checkpoint):
    image = photograph(np.uint16)
    assert np.array_equal(deblur(checkpoint, image, tile=256), deblur(checkpoint, image))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8)), np.zeros((8, 8, 4)), np.zeros((0, 8, 3)), np.zeros((8, 8, 3), np.int32)]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="expected"):
        deblur(Identity(), image)


@pytest.mark.parametrize(
    "options", [{"tile": 18}, {"tile": 0}, {"tile": 16, "overlap": 12}, {"tile": 16, "overlap": 2}]
)
def test_windows_that_cannot_be_laid_are_refused(options):
    with pytest.raises(ConfigError, match="multiple of 4"):
        deblur(Identity(), np.zeros((8, 8, 3)), **options)


@pytest.mark.parametrize("tile", [4, 8, 16, 64])
def test_every_tile_size_has_a_default_overlap(tile):
    image = photograph(np.uint8)
    assert np.array_equal(deblur(Identity(), image, tile=tile), image)


def test_files_keep_name_depth_and_kind(checkpoint, tmp_path):
    folder = tmp_path / "in"
    deep, shallow = photograph(np.uint16), photograph(np.uint8, (20, 21))
    write_image(folder / "a.png", deep)
    write_image(folder / "b.tiff", deep)
    write_image(folder / "c.png", shallow)
    (folder / "notes.txt").write_text("not an image")
    seen = []
    result = deblur_files(checkpoint, [folder], tmp_path / "out", progress=lambda *args: seen.append(args))
    assert [path.name for path in result.written] == ["a.png", "b.tiff", "c.png"]
    assert result.failed == ()
    assert seen == [(1, 3, "a.png"), (2, 3, "b.tiff"), (3, 3, "c.png")]
    for name, image in (("a.png", deep), ("b.tiff", deep), ("c.png", shallow)):
        assert np.array_equal(read_image(tmp_path / "out" / name), deblur(checkpoint, image))
    assert len(np.unique(read_image(tmp_path / "out" / "a.png") % 257)) > 100  # truly 16 bits, not 8 scaled up


def test_a_broken_file_does_not_stop_the_others(checkpoint, tmp_path):
    write_image(tmp_path / "good.png", photograph(np.uint8))
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[: len(data) // 2])
    paths = [tmp_path / "broken.png", tmp_path / "missing.png", tmp_path / "good.png"]
    result = deblur_files(checkpoint, paths, tmp_path / "out")
    assert [path.name for path in result.written] == ["good.png"]
    assert [path.name for path, _ in result.failed] == ["broken.png", "missing.png"]
    assert all("\n" not in reason and path.name in reason for path, reason in result.failed)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png"]


def test_inputs_and_earlier_results_are_never_overwritten(checkpoint, tmp_path):
    image = photograph(np.uint8)
    for name in ("in/a.png", "in/other/a.png"):
        write_image(tmp_path / name, image)
    before = (tmp_path / "in" / "a.png").read_bytes()
    result = deblur_files(checkpoint, [tmp_path / "in" / "a.png"], tmp_path / "in")
    assert "would overwrite" in result.failed[0][1]
    assert (tmp_path / "in" / "a.png").read_bytes() == before
    both = [tmp_path / "in" / "a.png", tmp_path / "in" / "other" / "a.png"]
    result = deblur_files(checkpoint, both, tmp_path / "out")
    assert (len(result.written), len(result.failed)) == (1, 1)


def test_nothing_to_do_is_an_error(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no PNG"):
        deblur_files(checkpoint, [tmp_path / "empty"], tmp_path / "out")
