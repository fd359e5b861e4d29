"""Evaluation against a direct computation over the shards."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from relo.errors import ShardError, TrainingError
from relo.models import create_model
from relo.shards import open_dataset
from relo.training import evaluate, metrics, save_checkpoint
from relo.training.data import to_tensor

from .conftest import draw_pair, write_dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = {"num_res": 1, "width": 4}
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, create_model("lbag", **options), "lbag", options, {})
    return path


def test_rows_and_means_equal_a_direct_computation(checkpoint, dataset_dir):
    torch.manual_seed(0)
    model = create_model("lbag", num_res=1, width=4).eval()
    seen = []
    result = evaluate(checkpoint, dataset_dir, progress=lambda *args: seen.append(args))
    assert seen[-1] == (3, 3, "yard/0002")
    assert (result.split, result.notes, list(result.scenes)) == ("test", (), ["yard"])
    expected = []
    for sample, row in zip(open_dataset(dataset_dir, split="test"), result.rows, strict=True):
        blur, sharp = to_tensor(sample.blur)[None], to_tensor(sample.sharp)[None]
        mask = torch.from_numpy(sample.mask)[None, None]
        with torch.no_grad():
            image = model(blur).image
        values = {}
        for side, x in (("input", blur), ("output", image)):
            values[f"psnr_{side}"] = metrics.psnr(x, sharp).item()
            values[f"ssim_{side}"] = metrics.ssim(x, sharp).item()
            values[f"psnr_w_{side}"] = metrics.weighted_psnr(x, sharp, mask).item()
            values[f"ssim_w_{side}"] = metrics.weighted_ssim(x, sharp, mask).item()
        assert (row["scene"], row["id"]) == (sample.scene, sample.id)
        assert {name: row[name] for name in values} == pytest.approx(values, nan_ok=True)
        expected.append(values)
    # Pair 0001 is not blurred at all: undefined when weighted, and infinite PSNR of its input.
    assert result.excluded == {"psnr": 0, "ssim": 0, "psnr_w": 1, "ssim_w": 1}
    assert result.overall["psnr_w_output"] == pytest.approx(
        np.mean([expected[0]["psnr_w_output"], expected[2]["psnr_w_output"]])
    )
    assert result.overall["psnr_output"] == pytest.approx(np.mean([row["psnr_output"] for row in expected]))
    assert result.overall["psnr_input"] == math.inf
    assert result.scenes["yard"] == result.overall


def test_the_written_files_hold_the_numbers(checkpoint, dataset_dir, tmp_path):
    result = evaluate(checkpoint, dataset_dir)
    table, everything = result.write(tmp_path / "out")
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["0000", "0001", "0002"]
    assert float(rows[0]["psnr_w_output"]) == result.rows[0]["psnr_w_output"]
    content = json.loads(everything.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["overall"]["psnr_output"] == result.overall["psnr_output"]
    assert content["overall"]["psnr_input"] is None
    assert content["rows"][1]["psnr_w_output"] is None
    assert (content["protocol"], content["images"]) == ("reloblur", 3)


def test_without_a_test_split_everything_is_scored_and_said(checkpoint, tmp_path):
    src = write_dataset(tmp_path / "d", {"a": "train", "b": "val"}, pairs=1)
    result = evaluate(checkpoint, src)
    assert result.split == "all"
    assert len(result.rows) == 2
    assert "no split 'test': all 2 images" in result.notes[0]
    assert set(result.scenes) == {"a", "b"}
    assert len(evaluate(checkpoint, src, split="val").rows) == 1
    with pytest.raises(ShardError, match="no split 'eval'"):
        evaluate(checkpoint, src, split="eval")


def test_invalid_borders_are_cropped_off_and_said(checkpoint, tmp_path):
    valid = np.full((30, 41), 255, np.uint8)
    valid[:4], valid[:, 35:] = 0, 0

    def draw(rng, size, dtype, blurred):
        blur, sharp, mask = draw_pair(rng, size, dtype, blurred)
        blur[valid == 0] = 0
        return blur, sharp, mask

    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, valid=valid, draw=draw)
    result = evaluate(checkpoint, src)
    assert "1 of 1 images were cropped" in result.notes[0]
    sample = open_dataset(src)[0]
    blur, sharp = (to_tensor(image[4:, :35])[None] for image in (sample.blur, sample.sharp))
    assert result.rows[0]["psnr_input"] == pytest.approx(metrics.psnr(blur, sharp).item())


def test_a_frame_without_valid_pixels_is_refused(checkpoint, tmp_path):
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=1, valid=np.zeros((30, 41), np.uint8))
    with pytest.raises(TrainingError, match="no valid area"):
        evaluate(checkpoint, src)
