"""Evaluation against a direct computation over the shards."""

import csv
import json
import math

import h5py
import numpy as np
import pytest
import torch

from relo.errors import ConfigError, ReloError, ShardError, TrainingError
from relo.images import read_image, to_bytes
from relo.models import create_model
from relo.shards import open_dataset
from relo.training import evaluate, evaluation, load_checkpoint, metrics, save_checkpoint
from relo.training.data import to_tensor
from relo.training.inference.whole_image import restore as whole

from .conftest import draw_pair, write_dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = {"num_res": 1, "width": 4}
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, create_model("lbag", **options), "lbag", options, {})
    return path


def restore(sample):
    """Blurred, restored and sharp image, mask and predicted mask as batches of one, by the checkpoint's network."""
    torch.manual_seed(0)
    model = create_model("lbag", num_res=1, width=4).eval()
    blur, sharp = to_tensor(sample.blur)[None], to_tensor(sample.sharp)[None]
    with torch.no_grad():
        restored = model(blur)
    return blur, restored.image, sharp, torch.from_numpy(sample.mask)[None, None] / 255, restored.masks[-1]


@pytest.mark.parametrize("protocol", ["reloblur", "paper", "lmdvit"])
def test_rows_and_means_equal_a_direct_computation(checkpoint, dataset_dir, protocol):
    seen = []
    result = evaluate(checkpoint, dataset_dir, protocol=protocol, progress=lambda *args: seen.append(args))
    assert seen == [(1, 3, "yard/0000"), (2, 3, "yard/0001"), (3, 3, "yard/0002")]
    assert (result.split, result.notes, list(result.scenes)) == ("test", (), ["yard"])
    assert (result.protocol, result.mask_versions) == (protocol, ("1",))
    expected = []
    for sample, row in zip(open_dataset(dataset_dir, split="test"), result.rows, strict=True):
        blur, image, sharp, mask, predicted = restore(sample)
        values = {}
        for side, x in (("input", blur), ("output", image)):
            values[f"psnr_{side}"] = metrics.psnr(x, sharp, protocol).item()
            values[f"ssim_{side}"] = metrics.ssim(x, sharp, protocol).item()
            values[f"psnr_w_{side}"] = metrics.weighted_psnr(x, sharp, mask, protocol).item()
            values[f"ssim_w_{side}"] = metrics.weighted_ssim(x, sharp, mask, protocol).item()
            values[f"psnr_static_{side}"] = metrics.static_psnr(x, sharp, mask, protocol).item()
        values["mask_iou"] = metrics.mask_iou(predicted, mask).item()
        assert (row["scene"], row["id"]) == (sample.scene, sample.id)
        assert row.keys() - {"scene", "id"} == values.keys()
        assert {name: row[name] for name in values} == pytest.approx(values, nan_ok=True)
        expected.append(values)
    # Pair 0001 is not blurred at all: undefined when weighted. Outside of the masks nothing differs.
    assert result.excluded == {"psnr": 0, "ssim": 0, "psnr_w": 1, "ssim_w": 1, "psnr_static": 0, "mask_iou": 0}
    assert result.overall["psnr_w_output"] == pytest.approx(
        np.mean([expected[0]["psnr_w_output"], expected[2]["psnr_w_output"]])
    )
    assert result.overall["psnr_output"] == pytest.approx(np.mean([row["psnr_output"] for row in expected]))
    if protocol == "lmdvit":
        assert result.infinite == {}
        assert result.rows[1]["psnr_input"] == pytest.approx(80)
    else:
        assert result.overall["psnr_input"] == math.inf
        assert result.infinite == {"psnr_input": 1, "psnr_static_input": 3}
    assert result.scenes["yard"] == result.overall


def test_alignment_is_done_when_asked_for(checkpoint, dataset_dir):
    seen = []
    result = evaluate(
        checkpoint, dataset_dir, aligned=True, protocol="realblur", progress=lambda *args: seen.append(args)
    )
    assert seen == [(1, 3, "yard/0000"), (2, 3, "yard/0001"), (3, 3, "yard/0002")]
    for sample, row in zip(open_dataset(dataset_dir, split="test"), result.rows, strict=True):
        blur, image, sharp, *_ = restore(sample)
        expected = [metrics.aligned_psnr(x, sharp, "realblur").item() for x in (blur, image)]
        assert [row["psnr_a_input"], row["psnr_a_output"]] == pytest.approx(expected, nan_ok=True)
    plain = evaluate(checkpoint, dataset_dir, protocol="realblur")
    for row, wanted in zip(result.rows, plain.rows, strict=True):
        without = {name: value for name, value in row.items() if not name.startswith("psnr_a")}
        assert str(without) == str(wanted)  # as text, because NaN is not itself


def test_few_images_wait_for_their_alignment(checkpoint, dataset_dir, monkeypatch):
    events = []
    monkeypatch.setattr(evaluation, "usable_cores", lambda: 1)
    monkeypatch.setattr(
        evaluation, "restore", lambda *args, **options: events.append("read") or whole(*args, **options)
    )
    evaluate(checkpoint, dataset_dir, aligned=True, progress=lambda *_: events.append("done"))
    assert events == ["read", "read", "done", "read", "done", "done"]


def test_an_image_without_a_value_on_one_side_is_left_out_of_both(checkpoint, dataset_dir, monkeypatch):
    values = iter([[20.0, 30.0], [math.nan, 40.0], [22.0, 34.0]])
    monkeypatch.setattr(metrics, "aligned_psnr", lambda *_: torch.tensor(next(values)))
    monkeypatch.setattr(evaluation, "usable_cores", lambda: 1)  # one after the other
    result = evaluate(checkpoint, dataset_dir, aligned=True)
    assert (result.overall["psnr_a_input"], result.overall["psnr_a_output"]) == (21, 32)
    assert result.excluded["psnr_a"] == 1
    assert math.isnan(result.rows[1]["psnr_a_input"])


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_evaluation_gives_the_same_bytes(checkpoint, dataset_dir, tmp_path):
    for name in ("a", "b"):
        evaluate(checkpoint, dataset_dir, aligned=True).write(tmp_path / name)
    first = files_of(tmp_path / "a")
    assert first == files_of(tmp_path / "b")
    assert {"evaluation.csv", "evaluation.json"} < first.keys()


def test_the_written_files_hold_the_numbers(checkpoint, dataset_dir, tmp_path):
    result = evaluate(checkpoint, dataset_dir)
    table, everything = result.write(tmp_path / "out")
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["0000", "0001", "0002"]
    assert float(rows[0]["psnr_w_output"]) == result.rows[0]["psnr_w_output"]
    assert (rows[1]["psnr_input"], rows[1]["psnr_w_input"]) == ("inf", "nan")
    content = json.loads(everything.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["overall"]["psnr_output"] == result.overall["psnr_output"]
    assert content["overall"]["psnr_input"] is None
    assert content["infinite"]["psnr_input"] == 1
    assert content["rows"][1]["psnr_w_output"] is None
    assert (content["protocol"], content["images"]) == ("reloblur", 3)
    assert content["images_by_scene"] == {"yard": 3}
    assert content["mask_versions"] == ["1"]


def test_the_worst_images_are_pictured(checkpoint, dataset_dir, tmp_path):
    result = evaluate(checkpoint, dataset_dir, worst=2)
    score = {
        row["id"]: row["psnr_output"] if math.isnan(row["psnr_w_output"]) else row["psnr_w_output"]
        for row in result.rows
    }
    order = sorted(score, key=score.get)[:2]
    assert [picture.id for picture in result.pictures] == order
    result.write(tmp_path)
    names = [f"{rank:02d}_yard_{name}.png" for rank, name in enumerate(order, start=1)]
    assert sorted(path.name for path in (tmp_path / "worst").iterdir()) == names
    assert json.loads((tmp_path / "evaluation.json").read_text())["worst"] == [f"yard/{name}" for name in order]
    sample = next(sample for sample in open_dataset(dataset_dir, split="test") if sample.id == order[0])
    blur, image, sharp, mask, _ = (tensor[0].numpy().transpose(1, 2, 0) for tensor in restore(sample))
    picture = read_image(tmp_path / "worst" / names[0])
    assert picture.shape == (30, 3 * 41, 3)
    assert (picture[:, 82:] == to_bytes(sharp)).all()
    assert (picture[:, 41:82] == to_bytes(image)).all()
    differs = (picture[:, :41] != to_bytes(blur)).any(axis=2)
    assert differs.any()
    assert (mask[..., 0][differs] > 0).all()


def test_pictures_of_an_earlier_evaluation_go_and_other_files_stay(checkpoint, dataset_dir, tmp_path):
    evaluate(checkpoint, dataset_dir).write(tmp_path)
    assert len(list((tmp_path / "worst").iterdir())) == 3
    (tmp_path / "worst" / "notes.txt").write_text("mine")
    result = evaluate(checkpoint, dataset_dir, worst=0)
    assert result.pictures == ()
    result.write(tmp_path)
    assert [path.name for path in (tmp_path / "worst").iterdir()] == ["notes.txt"]


def test_restoring_in_windows_is_said(checkpoint, tmp_path, monkeypatch):
    src = write_dataset(tmp_path / "d", {"a": "test"}, pairs=2, size=(140, 200))
    whole = evaluate(checkpoint, src)
    assert whole.notes == ()
    monkeypatch.setattr(evaluation, "choose_tile", lambda *_: 128)
    tiled = evaluate(checkpoint, src)
    assert "2 of 2 images were restored in windows" in tiled.notes[0]
    assert tiled.overall["ssim_output"] == pytest.approx(whole.overall["ssim_output"], abs=1e-3)


def test_mixed_mask_versions_are_said(checkpoint, tmp_path):
    src = write_dataset(tmp_path / "d", {"a": "test", "b": "test"}, pairs=1)
    with h5py.File(src / "b.h5", "r+") as file:
        file.attrs["mask_version"] = "annotated"
    result = evaluate(checkpoint, src)
    assert result.mask_versions == ("1", "annotated")
    assert "different versions (1, annotated)" in result.notes[0]


def test_a_network_without_masks_has_no_overlap(dataset_dir, tmp_path):
    options = {"num_res": 1, "width": 4}
    save_checkpoint(tmp_path / "m.safetensors", create_model("mimo_unet", **options), "mimo_unet", options, {})
    result = evaluate(tmp_path / "m.safetensors", dataset_dir)
    assert "mask_iou" not in result.rows[0] | result.overall | result.excluded


def test_a_blur_detector_is_refused(dataset_dir, tmp_path):
    options = {"width": 8}
    model = create_model("exprdiff_detector", **options)
    save_checkpoint(tmp_path / "m.safetensors", model, "exprdiff_detector", options, {})
    with pytest.raises(TrainingError, match=r"m\.safetensors: holds a blur detector, which .* restores nothing"):
        evaluate(tmp_path / "m.safetensors", dataset_dir)


def test_a_checkpoint_that_is_read_already_will_do(checkpoint, dataset_dir):
    again = evaluate(load_checkpoint(checkpoint), dataset_dir)
    assert str(again) == str(evaluate(checkpoint, dataset_dir))


def test_values_that_are_not_finite_are_an_error(dataset_dir, tmp_path):
    options = {"num_res": 1, "width": 4}
    model = create_model("lbag", **options)
    with torch.no_grad():
        next(model.parameters()).fill_(1e38)  # finite, so that the checkpoint itself is sound
    save_checkpoint(tmp_path / "m.safetensors", model, "lbag", options, {})
    with pytest.raises(TrainingError, match=r"m\.safetensors: gives values that are not finite for yard/0000"):
        evaluate(tmp_path / "m.safetensors", dataset_dir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "gopro"}, "no protocol 'gopro'. Known: reloblur, paper"),
        ({"worst": -1}, "not be negative, got -1"),
    ],
)
def test_options_that_do_not_exist_are_refused(checkpoint, dataset_dir, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(checkpoint, dataset_dir, **options)


def test_a_folder_that_cannot_be_written_is_one_line(checkpoint, dataset_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReloError, match=r"file: cannot be written .* Choose another folder with -o"):
        evaluate(checkpoint, dataset_dir, worst=1).write(tmp_path / "file")


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
