"""Evaluation under protocol exprdiff: crops of blurred areas, and metrics without reference."""

import csv
import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from relo.errors import TrainingError
from relo.models import create_model
from relo.shards import open_dataset
from relo.training import evaluate, metrics, save_checkpoint
from relo.training.data import to_tensor

from .conftest import write_dataset

OPTIONS = {"num_res": 1, "width": 4}
# Top, left, bottom, right of what is blurred in images of 600 x 800 px: two of scene hall, two of scene yard.
# Crops begin at rows 0 and 88, columns 0 and 288; 50 x 50 px are 0.95 % of one.
BLURRED = ((0, 0, 80, 80), (300, 300, 400, 420), (10, 10, 60, 60), (0, 0, 0, 0))
WITHOUT_PYIQA = "without clipiqa+ and musiq-paq2piq: the package 'pyiqa' is not installed"


def draw_textures(boxes):
    """A function for `write_dataset`: textures, blurred sideways within the next of `boxes`."""
    coming = iter(boxes)

    def draw(rng, size, dtype, blurred):
        texture = uniform_filter(rng.normal(size=(*size, 3)), (3, 3, 0)) * 150 + 128
        sharp = (texture.clip(0, 255) // 8 * 8).astype(dtype)  # few levels, so that it compresses
        mask = np.zeros(size, np.uint8)
        top, left, bottom, right = next(coming)
        mask[top:bottom, left:right] = 255
        smeared = uniform_filter(sharp.astype(float), (0, 15, 0)).astype(dtype)
        return np.where(mask[..., None] > 0, smeared, sharp), sharp, mask

    return draw


@pytest.fixture(autouse=True)
def no_pyiqa(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, create_model("lbag", **OPTIONS), "lbag", OPTIONS, {})
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "d"
    scenes = {"hall": "test", "yard": "test"}
    return write_dataset(root, scenes, size=(600, 800), pairs=2, draw=draw_textures(BLURRED))


@pytest.fixture(scope="module")
def result(checkpoint, large):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyiqa", None)
        return evaluate(checkpoint, large, protocol="exprdiff", worst=2)


def test_crops_of_blurred_areas_are_scored(result):
    found = [(row["scene"], row["id"], row["crop"], row["y"], row["x"]) for row in result.rows]
    assert found == [
        ("hall", "0000", 0, 0, 0),
        ("hall", "0001", 0, 0, 0),
        ("hall", "0001", 1, 0, 288),
        ("hall", "0001", 2, 88, 0),
        ("hall", "0001", 3, 88, 288),
    ]
    assert {(row["height"], row["width"]) for row in result.rows} == {(512, 512)}
    assert [row["blurred"] for row in result.rows] == [6400 / 512**2] + [12000 / 512**2] * 4
    assert result.crops == {"side": 512, "blurred_share": 0.01, "kept": 5, "all": 16}
    assert result.notes[0] == "5 of 16 crops of 512 px were scored (31%): those of which more than 1 % is blurred"
    assert len(result.notes) == 2 and result.notes[1].startswith(WITHOUT_PYIQA)
    assert list(result.scenes) == ["hall"]


def test_rows_equal_a_direct_computation_on_each_crop_alone(result, large):
    torch.manual_seed(0)
    model = create_model("lbag", **OPTIONS).eval()
    samples = {sample.id: sample for sample in open_dataset(large) if sample.scene == "hall"}
    for row in (result.rows[0], result.rows[3]):
        y, x = row["y"], row["x"]
        sample = samples[row["id"]]
        cuts = [to_tensor(image[y : y + 512, x : x + 512])[None] for image in (sample.blur, sample.sharp)]
        blur, sharp = cuts
        mask = torch.from_numpy(sample.mask[y : y + 512, x : x + 512] / 255)[None, None]
        with torch.no_grad():
            restored = model(blur)
        values = {}
        for side, image in (("input", blur), ("output", restored.image)):
            values[f"psnr_{side}"] = metrics.psnr(image, sharp).item()
            values[f"ssim_{side}"] = metrics.ssim(image, sharp).item()
            values[f"psnr_w_{side}"] = metrics.weighted_psnr(image, sharp, mask).item()
            values[f"ssim_w_{side}"] = metrics.weighted_ssim(image, sharp, mask).item()
            values[f"psnr_static_{side}"] = metrics.static_psnr(image, sharp, mask).item()
            eight_bits = np.rint(image[0].permute(1, 2, 0).numpy().clip(0, 1) * 255).astype(np.uint8)
            values[f"niqe_{side}"] = metrics.niqe(eight_bits)
        values["mask_iou"] = metrics.mask_iou(restored.masks[-1], mask).item()
        assert {name: row[name] for name in values} == pytest.approx(values)
        place = {"scene", "id", "crop", "y", "x", "height", "width", "blurred"}
        missing = {name for name, value in row.items() if value is None}
        assert row.keys() == values.keys() | place | missing
        assert missing == {
            f"{name}_{side}" for name in ("clipiqa_plus", "musiq_paq2piq") for side in ("input", "output")
        }
    expected = np.mean([row["niqe_output"] for row in result.rows])
    assert result.overall["niqe_output"] == pytest.approx(expected)
    assert result.excluded["niqe"] == 0
    assert "clipiqa_plus" not in result.excluded and "clipiqa_plus_output" not in result.overall


def test_the_written_files_tell_of_crops(result, tmp_path):
    table, everything = result.write(tmp_path)
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], row["y"], row["x"]) for row in rows][2:4] == [("0001", "0", "288"), ("0001", "88", "0")]
    assert float(rows[0]["niqe_input"]) == result.rows[0]["niqe_input"]
    assert rows[0]["clipiqa_plus_input"] == rows[0]["musiq_paq2piq_output"] == ""
    content = json.loads(everything.read_text())
    assert (content["images"], content["images_by_scene"]) == (2, {"hall": 2})
    assert content["crops"]["kept"] == len(content["rows"]) == 5
    assert content["rows"][0]["clipiqa_plus_input"] is None
    order = sorted(result.rows, key=lambda row: row["psnr_w_output"])[:2]
    names = [f"{row['id']}_y{row['y']}_x{row['x']}" for row in order]
    assert content["worst"] == [f"hall/{name}" for name in names]
    pictures = sorted(path.name for path in (tmp_path / "worst").iterdir())
    assert pictures == [f"{rank:02d}_hall_{name}.png" for rank, name in enumerate(names, start=1)]


def test_learnt_metrics_have_columns_where_pyiqa_is(checkpoint, tmp_path, monkeypatch):
    package = types.ModuleType("pyiqa")
    package.create_metric = lambda name, device: lambda images: images.mean() + (name == "musiq-paq2piq")
    monkeypatch.setitem(sys.modules, "pyiqa", package)
    src = write_dataset(
        tmp_path / "d", {"a": "test"}, pairs=1, size=(200, 210), draw=draw_textures([(50, 50, 100, 150)])
    )
    seen = []
    result = evaluate(checkpoint, src, protocol="exprdiff", progress=lambda *args: seen.append(args))
    assert seen == [(1, 1, "a/0000_y0_x0")]
    blur = to_tensor(open_dataset(src)[0].blur)
    assert result.rows[0]["clipiqa_plus_input"] == pytest.approx(blur.mean().item(), rel=1e-5)
    assert result.overall["musiq_paq2piq_input"] == pytest.approx(blur.mean().item() + 1, rel=1e-5)
    assert result.excluded["clipiqa_plus"] == result.excluded["musiq_paq2piq"] == 0
    # The whole of a smaller image is its only crop.
    assert (result.rows[0]["height"], result.rows[0]["width"]) == (200, 210)
    assert result.notes[1:] == ("1 of 1 images have sides below 512 px: their crops are as small",)


def test_crops_lie_within_the_valid_area(checkpoint, tmp_path):
    valid = np.zeros((220, 240), np.uint8)
    valid[7:215, 13:233] = 255
    draw = draw_textures([(50, 50, 100, 150)])
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, size=(220, 240), valid=valid, draw=draw)
    result = evaluate(checkpoint, src, protocol="exprdiff")
    assert [result.rows[0][name] for name in ("y", "x", "height", "width")] == [7, 13, 208, 220]
    sample = open_dataset(src)[0]
    assert result.rows[0]["niqe_input"] == metrics.niqe(sample.blur[7:215, 13:233])


def test_small_images_have_no_niqe(checkpoint, dataset_dir):
    result = evaluate(checkpoint, dataset_dir, protocol="exprdiff")
    assert [row["id"] for row in result.rows] == ["0000", "0002"]  # nothing is blurred in 0001
    assert result.excluded["niqe"] == 2
    assert math.isnan(result.overall["niqe_input"])
    assert result.overall["psnr_w_input"] > 0


def test_nothing_blurred_names_the_dataset(checkpoint, tmp_path):
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, unblurred=("a/0000",))
    with pytest.raises(
        TrainingError, match=r"d: holds no crop of 512 px .* Score whole images: --protocol reloblur"
    ):
        evaluate(checkpoint, src, protocol="exprdiff")


def test_alignment_is_of_crops_too(checkpoint, tmp_path):
    draw = draw_textures([(50, 50, 100, 150)])
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, size=(200, 210), draw=draw)
    result = evaluate(checkpoint, src, protocol="exprdiff", aligned=True)
    sample = open_dataset(src)[0]
    blur, sharp = (to_tensor(image)[None] for image in (sample.blur, sample.sharp))
    expected = metrics.aligned_psnr(blur, sharp, "exprdiff").item()
    assert result.rows[0]["psnr_a_input"] == pytest.approx(expected, nan_ok=True)


def test_a_network_is_given_the_short_exposure(tmp_path):
    options = {"width": 4, "enc_blocks": [1], "middle_blocks": 1, "dec_blocks": [1], "in_channels": 6}
    torch.manual_seed(1)
    model = create_model("nafnet", **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones multiply every block by 0
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_checkpoint(tmp_path / "m.safetensors", model, "nafnet", options, {})
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, short=True)
    for protocol in ("exprdiff", "reloblur"):
        row = evaluate(tmp_path / "m.safetensors", src, protocol=protocol).rows[0]
        sample = open_dataset(src)[0]
        blur, short, sharp = (to_tensor(image)[None] for image in (sample.blur, sample.short, sample.sharp))
        with torch.no_grad():
            output = model(torch.cat([blur, short], dim=1)).image
        assert row["psnr_output"] == pytest.approx(metrics.psnr(output, sharp).item(), rel=1e-5)
        assert row["psnr_input"] == metrics.psnr(blur, sharp).item()
    without = write_dataset(tmp_path / "e", {"a": "test"}, pairs=1)
    with pytest.raises(TrainingError, match=r"a\.h5: has no short exposures"):
        evaluate(tmp_path / "m.safetensors", without)
