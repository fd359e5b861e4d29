"""Whole photographs: size, dtype, tiles, files."""

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from support.pictures import MAKE, SRGB, camera_exif, profile, told, write_picture

from relo.capture import RawFrame, write_dng
from relo.errors import ConfigError, ReloError, TrainingError
from relo.images import read_image, write_image
from relo.models import Restoration, create_model
from relo.training import deblur, deblur_files, load_checkpoint, save_checkpoint
from relo.training.inference import deblurring
from relo.training.inference.photographs import read_photograph

OPTIONS = {"num_res": 1, "width": 4}


class Identity(torch.nn.Module):
    def forward(self, blur):
        return Restoration(blur, (), ())


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
@pytest.mark.parametrize("tile", [None, 0, 128])
def test_no_value_is_lost_on_the_way(dtype, tile):
    image = photograph(dtype, (37, 290))
    copy = image.copy()
    restored = deblur(Identity(), image, tile=tile)
    assert restored.dtype == image.dtype
    np.testing.assert_allclose(restored, image, atol=1e-6 if dtype == np.float32 else 0)
    assert np.array_equal(image, copy)


def test_integers_and_floats_agree(checkpoint):
    image = photograph(np.uint8)
    from_float = deblur(checkpoint, image.astype(np.float32) / 255)
    assert np.array_equal(deblur(checkpoint, image), np.rint(from_float.astype(np.float64) * 255).astype(np.uint8))
    assert from_float.min() >= 0
    assert from_float.max() <= 1


def test_a_tile_larger_than_the_image_is_the_whole_image(checkpoint):
    image = photograph(np.uint16)
    assert np.array_equal(deblur(checkpoint, image, tile=256), deblur(checkpoint, image))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8)), np.zeros((8, 8, 4)), np.zeros((0, 8, 3)), np.zeros((8, 8, 3), np.int32)]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="expected"):
        deblur(Identity(), image)


@pytest.mark.parametrize("device", ["cuda:99", "nothing"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ConfigError, match=f"'{device}' cannot be used"):
        deblur(create_model("lbag", **OPTIONS), np.zeros((8, 8, 3)), device=device)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_values_away_from_blur_are_kept_exactly(dtype):
    image = photograph(dtype, (300, 400))
    if dtype == np.float64:
        image[0, 0] = -0.5, 1 / 3, 1.5  # what the network is given is clipped nowhere, and has fewer digits
    mask = np.zeros((300, 400), np.uint8)
    mask[200:220, 300:310] = 255
    torch.manual_seed(0)
    model = create_model("lbag", **OPTIONS)
    whole, restored = deblur(model, image), deblur(model, image, only_blurred=True, mask=mask)
    assert restored.dtype == dtype
    away = ndimage.distance_transform_edt(mask == 0) >= 16
    assert np.array_equal(restored[away], image[away])
    assert (restored[mask > 0] != image[mask > 0]).mean() > 0.5
    np.testing.assert_allclose(
        restored[mask > 0].astype(float), whole[mask > 0].astype(float), atol=1e-3 * np.max(image, initial=1)
    )
    assert np.array_equal(restored, deblur(model, image, only_blurred=True, mask=mask > 0))


@pytest.mark.parametrize(
    "mask",
    [np.zeros((37, 51), bool), np.zeros((37, 50)), np.zeros((37, 50, 1), bool), np.zeros((37, 50), np.int64)],
)
def test_other_masks_are_refused(mask):
    with pytest.raises(ValueError, match=r"expected a bool or uint8 mask of shape \(37, 50\)"):
        deblur(Identity(), photograph(np.uint8), only_blurred=True, mask=mask)


def test_options_of_regions_need_regions(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="Add --only-blurred"):
        deblur(Identity(), photograph(np.uint8), mask=np.zeros((37, 50), bool))
    for options in ({"mask_from": tmp_path}, {"compare": True}):
        with pytest.raises(ConfigError, match="Add --only-blurred"):
            deblur_files(checkpoint, [tmp_path], tmp_path / "out", **options)


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


def test_inputs_and_other_results_are_never_overwritten(checkpoint, tmp_path):
    image = photograph(np.uint8)
    for name in ("in/a.png", "in/other/a.png", "in/a_mask.png"):
        write_image(tmp_path / name, image)
    before = (tmp_path / "in" / "a.png").read_bytes()
    result = deblur_files(checkpoint, [tmp_path / "in" / "a.png"], tmp_path / "in", overwrite=True)
    assert "would overwrite" in result.failed[0][1]
    assert (tmp_path / "in" / "a.png").read_bytes() == before
    both = [tmp_path / "in" / "a.png", tmp_path / "in" / "other" / "a.png"]
    result = deblur_files(checkpoint, both, tmp_path / "out", overwrite=True)
    assert (len(result.written), len(result.failed)) == (1, 1)
    assert str(both[0]) in result.failed[0][1], "it is said whose result it would overwrite"
    # A mask and a photograph of one name.
    both = [tmp_path / "in" / "a.png", tmp_path / "in" / "a_mask.png"]
    result = deblur_files(checkpoint, both, tmp_path / "masks", masks=True)
    assert (len(result.written), [path.name for path, _ in result.failed]) == (1, ["a_mask.png"])


def test_a_photograph_that_fails_takes_no_name(checkpoint, tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
    write_image(tmp_path / "a.tif", photograph(np.uint8))
    paths = [tmp_path / name for name in ("a.jpg", "a.png", "a.tif")]
    result = deblur_files(checkpoint, paths, tmp_path / "out", masks=True)
    assert [path.name for path in result.written] == ["a.tif"]
    assert all("is no readable" in reason for _, reason in result.failed)
    write_image(tmp_path / "a.png", photograph(np.uint8))
    result = deblur_files(checkpoint, paths, tmp_path / "out", masks=True)
    assert (result.written, len(result.failed)) == ((tmp_path / "out" / "a.png",), 2)
    assert f"would overwrite {tmp_path / 'out' / 'a_mask.png'}" in result.failed[1][1], "it is that of a.png now"


def test_one_file_named_twice_is_restored_once(checkpoint, tmp_path):
    write_image(tmp_path / "a.png", photograph(np.uint8))
    result = deblur_files(checkpoint, [tmp_path / "a.png", tmp_path], tmp_path / "out")
    assert (len(result.written), result.failed) == (1, ())


def test_a_repeated_call_does_what_is_left(checkpoint, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, photograph(np.uint8))
    deblur_files(checkpoint, [tmp_path / "in" / "a.png"], tmp_path / "out")
    marked = photograph(np.uint8, (5, 5))
    write_image(tmp_path / "out" / "a.png", marked)
    result = deblur_files(checkpoint, [tmp_path / "in"], tmp_path / "out")
    assert ([path.name for path in result.written], [path.name for path in result.skipped]) == (
        ["b.png"],
        ["a.png"],
    )
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), marked)
    result = deblur_files(checkpoint, [tmp_path / "in"], tmp_path / "out", masks=True)
    assert len(result.written) == 2, "the masks are missing"
    assert len(deblur_files(checkpoint, [tmp_path / "in"], tmp_path / "out", masks=True).skipped) == 2
    result = deblur_files(checkpoint, [tmp_path / "in" / "a.png"], tmp_path / "out", overwrite=True)
    assert len(result.written) == 1
    assert read_image(tmp_path / "out" / "a.png").shape == photograph(np.uint8).shape


def test_masks_are_those_of_the_network(checkpoint, tmp_path):
    image = photograph(np.uint8)
    write_image(tmp_path / "a.png", image)
    deblur_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out", masks=True)
    model = load_checkpoint(checkpoint).model
    with torch.inference_mode():
        mask = model(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)).masks[-1][0, 0]
    with Image.open(tmp_path / "out" / "a_mask.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), np.rint(mask.numpy() * 255))


def test_a_network_without_masks_says_so(tmp_path):
    options = {"num_res": 1, "width": 4}
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, create_model("mimo_unet", **options), "mimo_unet", options, {})
    with pytest.raises(TrainingError, match="predicts no blur mask"):
        deblur_files(path, [tmp_path], tmp_path / "out", masks=True)


def test_exif_profile_and_raw_go_all_the_way(checkpoint, tmp_path):
    write_picture(tmp_path / "a.jpg", photograph(np.uint8), exif=camera_exif(6), icc=SRGB)
    y, x = np.mgrid[:40, :64]
    write_dng(tmp_path / "b.dng", RawFrame((600 + 40 * y + 25 * x).astype(np.uint16), "RGGB", (512.0,) * 4, 4095.0))
    result = deblur_files(checkpoint, [tmp_path], tmp_path / "out")
    assert [path.name for path in result.written] == ["a.png", "b.tif"]
    assert read_image(tmp_path / "out" / "a.png").shape == (50, 37, 3)
    assert told(tmp_path / "out" / "a.png")["main"][MAKE] == "Relo"
    assert profile(tmp_path / "out" / "a.png") == SRGB
    deep = read_image(tmp_path / "out" / "b.tif")
    assert (deep.dtype, deep.shape) == (np.uint16, (40, 64, 3))
    result = deblur_files(checkpoint, [tmp_path / "b.dng"], tmp_path / "out", image_format="jpg")
    assert [path.name for path in result.written] == ["b.jpg"]
    assert read_image(tmp_path / "out" / "b.jpg").dtype == np.uint8


def test_damaged_metadata_costs_a_note_not_the_picture(checkpoint, tmp_path):
    Image.fromarray(photograph(np.uint8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    result = deblur_files(checkpoint, [tmp_path / "a.jpg"], tmp_path / "out")
    assert [path.name for path in result.written] == ["a.png"]
    assert [(path.name, note.split(":")[0]) for path, note in result.notes] == [("a.jpg", "EXIF not kept")]


def test_a_full_disk_stops_with_one_line_and_leaves_no_half_file(checkpoint, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, photograph(np.uint8))

    def full(path, data):
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ReloError, match=r"out: cannot be written \(No space left on device\). Make room"):
        deblur_files(checkpoint, [tmp_path], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named_before_the_work(checkpoint, tmp_path):
    write_image(tmp_path / "a.png", photograph(np.uint8))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ReloError, match=r"out: cannot be written \(File exists\)"):
        deblur_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out")


def test_a_checkpoint_with_a_network_of_ones_own(tmp_path):
    source = tmp_path / "own.py"
    source.write_text(
        "import torch\nfrom relo.models import Restoration\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.gain = torch.nn.Parameter(torch.ones(1))\n"
        "    def forward(self, blur):\n        return Restoration(blur * self.gain, (), ())\n"
    )
    name = f"{source}:Net"
    save_checkpoint(tmp_path / "model.safetensors", create_model(name), name, {}, {})
    write_image(tmp_path / "a.png", photograph(np.uint8))
    with pytest.raises(ReloError, match="--model"):
        deblur_files(tmp_path / "model.safetensors", [tmp_path / "a.png"], tmp_path / "out")
    deblur_files(tmp_path / "model.safetensors", [tmp_path / "a.png"], tmp_path / "out", model=name)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), photograph(np.uint8))


class Grey(torch.nn.Module):
    """Makes everything grey, and takes for blur what is bright."""

    def forward(self, blur):
        return Restoration(torch.full_like(blur, 0.5), (), (blur.mean(1, keepdim=True),))


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A checkpoint that stands for `Grey`."""
    found = SimpleNamespace(model=Grey())
    monkeypatch.setattr(deblurring, "load_checkpoint", lambda path, model=None: found)
    return tmp_path / "run"


def with_bright_patch(dtype):
    image = photograph(dtype, (260, 300)) // 4
    image[100:140, 120:160] = np.iinfo(dtype).max // 10 * 9
    return image


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint8), ("a.tif", np.uint16)])
@pytest.mark.parametrize("given", [False, True])
def test_files_are_restored_only_where_blurred(given, name, dtype, grey, tmp_path):
    image = with_bright_patch(dtype)
    write_image(tmp_path / name, image)
    mask = np.zeros((260, 300), np.uint8)
    mask[100:140, 120:160] = 255
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    options = {"mask_from": tmp_path / "a_mask.png"} if given else {}
    result = deblur_files(
        grey, [tmp_path / name], tmp_path / "out", only_blurred=True, masks=True, compare=True, **options
    )
    assert (len(result.written), result.failed) == (1, ())
    restored = read_image(tmp_path / "out" / name)
    with Image.open(tmp_path / "out" / "a_mask.png") as picture:
        used = np.asarray(picture)
    assert set(np.unique(used)) == {0, 255}
    assert np.all(used[mask > 0] == 255)
    assert given == np.array_equal(used, mask)
    assert not used[ndimage.distance_transform_edt(mask == 0) > 18].any(), "12 px, to the corners of a square"
    away = ndimage.distance_transform_edt(used == 0) >= 16
    assert np.array_equal(restored[away], image[away])
    assert np.all(np.abs(restored[used > 0] / np.iinfo(dtype).max - 0.5) < 1 / 255)
    ((path, report),) = result.regions
    assert path == tmp_path / name
    assert report.blurred == pytest.approx((used > 0).mean())
    assert 0.5 < report.computed < 1
    assert report.comparison.blurred.maximum == 0
    assert 255 * 0.25 < report.comparison.everywhere.maximum < 255 * 0.5 + 0.1
    ((_, note),) = result.notes
    assert note.startswith("differs from the restoration of the whole image by at most 12")
    assert note.endswith("where it is blurred by nothing")


def test_without_blur_the_file_is_the_input(grey, tmp_path):
    image = photograph(np.uint16) // 4
    write_image(tmp_path / "a.png", image)
    result = deblur_files(grey, [tmp_path / "a.png"], tmp_path / "out", only_blurred=True)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), image)
    assert [note for _, note in result.notes] == ["no blur found: its pixels are left as they are"]
    assert (result.regions[0][1].blurred, result.regions[0][1].computed) == (0, 0)


def test_of_a_raw_file_the_developed_picture_is_kept(grey, tmp_path):
    y, x = np.mgrid[:40, :64]
    write_dng(tmp_path / "b.dng", RawFrame((600 + 40 * y + 25 * x).astype(np.uint16), "RGGB", (512.0,) * 4, 4095.0))
    mask = np.zeros((40, 64), np.uint8)
    mask[:4, :4] = 255
    Image.fromarray(mask).save(tmp_path / "b_mask.png")
    result = deblur_files(grey, [tmp_path / "b.dng"], tmp_path / "out", only_blurred=True, mask_from=tmp_path)
    assert result.failed == ()
    restored, developed = read_image(tmp_path / "out" / "b.tif"), read_photograph(tmp_path / "b.dng").image
    assert np.array_equal(restored[:, 20:], developed[:, 20:])
    assert np.all(restored[:4, :4] == 32768)


def test_a_wrong_mask_does_not_stop_the_others(grey, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name, photograph(np.uint8))
    (tmp_path / "masks").mkdir()
    for name, size in (("a.png", (37, 51)), ("c.png", (37, 50))):
        Image.fromarray(np.full(size, 255, np.uint8)).save(tmp_path / "masks" / name)
    result = deblur_files(
        grey, [tmp_path / "in"], tmp_path / "out", only_blurred=True, mask_from=tmp_path / "masks"
    )
    assert [path.name for path in result.written] == ["c.png"]
    assert [path.name for path, _ in result.failed] == ["a.png", "b.png"]
    assert "51x37, the frame is 50x37" in result.failed[0][1]
    assert "holds no mask of b.png" in result.failed[1][1]


def test_given_masks_are_never_overwritten(grey, tmp_path):
    write_image(tmp_path / "in" / "a.tif", photograph(np.uint8))
    (tmp_path / "out").mkdir()
    mask = tmp_path / "out" / "a_mask.png"
    Image.fromarray(np.full((37, 50), 200, np.uint8)).save(mask)
    before = mask.read_bytes()
    options = {"only_blurred": True, "mask_from": tmp_path / "out", "overwrite": True}
    result = deblur_files(grey, [tmp_path / "in"], tmp_path / "out", masks=True, **options)
    assert "would overwrite" in result.failed[0][1]
    assert deblur_files(grey, [tmp_path / "in"], tmp_path / "out", **options).failed == ()
    assert mask.read_bytes() == before


def test_a_network_without_masks_asks_for_them(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, create_model("mimo_unet", **OPTIONS), "mimo_unet", OPTIONS, {})
    write_image(tmp_path / "a.png", photograph(np.uint8))
    with pytest.raises(TrainingError, match=r"model.safetensors: its network predicts no blur mask.*--mask-from"):
        deblur_files(path, [tmp_path], tmp_path / "out", only_blurred=True)
    Image.fromarray(np.full((37, 50), 255, np.uint8)).save(tmp_path / "mask.png")
    options = {"only_blurred": True, "mask_from": tmp_path / "mask.png", "masks": True}
    result = deblur_files(path, [tmp_path / "a.png"], tmp_path / "out", **options)
    assert len(result.written) == 1
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), deblur(path, photograph(np.uint8)))
    assert (tmp_path / "out" / "a_mask.png").is_file()


def test_nothing_to_do_is_an_error(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no PNG, TIFF, JPEG or RAW image"):
        deblur_files(checkpoint, [tmp_path / "empty"], tmp_path / "out")
