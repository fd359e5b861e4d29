"""`relo deblur --only-blurred` from the command line, from end to end and with mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from relo.cli.main import main
from relo.images import read_image, write_image
from relo.models import create_model
from relo.training import save_checkpoint

SIZE = (200, 260)
OPTIONS = {"num_res": 1, "width": 4}


def call(*arguments):
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    return leave.value.code


def save_model(folder, name):
    torch.manual_seed(0)
    save_checkpoint(folder / "model.safetensors", create_model(name, **OPTIONS), name, OPTIONS, {})
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("run"), "mimo_unet")


@pytest.fixture
def photographs(tmp_path):
    """a.png and b.tif, with masks of a corner."""
    folder = tmp_path / "in"
    rng = np.random.default_rng(0)
    write_image(folder / "a.png", rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    write_image(folder / "b.tif", rng.integers(0, 65536, (*SIZE, 3)).astype(np.uint16))
    mask = np.zeros(SIZE, np.uint8)
    mask[:20, :10] = 255
    (tmp_path / "masks").mkdir()
    for name in ("a_mask.png", "b.png"):
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    return folder


def test_only_blurred_from_end_to_end(run_folder, photographs, tmp_path, capsys):
    options = ("--only-blurred", "--mask-from", tmp_path / "masks")
    assert call("deblur", run_folder, photographs, "-o", tmp_path / "out", *options) == 0
    captured = capsys.readouterr()
    assert f"{photographs / 'a.png'}: 0.4% blurred, 31.5% computed\n" in captured.out
    assert "done 2, skipped 0, quarantined 0, failed 0" in captured.out
    for name in ("a.png", "b.tif"):
        before, after = read_image(photographs / name), read_image(tmp_path / "out" / name)
        assert np.array_equal(after[36:], before[36:])
        assert np.array_equal(after[:, 26:], before[:, 26:])
        assert (after[:20, :10] != before[:20, :10]).mean() > 0.5


def test_json_tells_what_was_computed_and_what_differs(run_folder, photographs, tmp_path, capsys):
    options = ("--only-blurred", "--mask-from", tmp_path / "masks" / "b.png", "--compare", "--mask", "--json")
    assert call("deblur", run_folder, photographs, "-o", tmp_path / "out", *options) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["regions"].keys() == {str(photographs / "a.png"), str(photographs / "b.tif")}
    for region in answer["regions"].values():
        assert region["blurred"] == 200 / (200 * 260)
        assert region["computed"] == 128 * 128 / (200 * 260)
        difference = region["difference"]
        assert difference["everywhere"]["max"] > difference["everywhere"]["rms"] > 0
        assert 0 < difference["everywhere"]["psnr"] < 60
        assert difference["blurred"]["max"] < 0.26 < difference["everywhere"]["max"]
    assert len(answer["notes"]) == 2
    assert (
        captured.err.count("Note: ") == captured.err.count("differs from the restoration of the whole image") == 2
    )
    with Image.open(tmp_path / "out" / "b_mask.png") as used, Image.open(tmp_path / "masks" / "b.png") as given:
        assert np.array_equal(np.asarray(used), np.asarray(given))


def test_equal_images_have_no_psnr_in_json(run_folder, photographs, tmp_path, capsys):
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "all.png")
    options = ("--only-blurred", "--mask-from", tmp_path / "all.png", "--compare", "--json")
    assert call("deblur", run_folder, photographs / "a.png", "-o", tmp_path / "out", *options) == 0
    region = json.loads(capsys.readouterr().out)["regions"][str(photographs / "a.png")]
    assert region["difference"]["blurred"] == {"max": 0, "rms": 0, "psnr": None}
    assert region["computed"] == 1


def test_a_network_that_predicts_masks_needs_none(photographs, tmp_path, capsys):
    run_folder = save_model(tmp_path / "run", "lbag")
    assert (
        call("deblur", run_folder, photographs / "a.png", "-o", tmp_path / "out", "--only-blurred", "--json") == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["regions"][str(photographs / "a.png")]["difference"] is None


def test_a_missing_mask_is_one_failure(run_folder, photographs, tmp_path, capsys):
    (tmp_path / "masks" / "a_mask.png").unlink()
    options = ("--only-blurred", "--mask-from", tmp_path / "masks")
    assert call("deblur", run_folder, photographs, "-o", tmp_path / "out", *options) == 3
    captured = capsys.readouterr()
    assert "done 1, skipped 0, quarantined 0, failed 1" in captured.out
    assert f"Error: {tmp_path / 'masks'}: holds no mask of a.png, neither a_mask.png nor a.png." in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only-blurred"], "its network predicts no blur mask, so where the blur is has to be told. Give masks"),
        (["--compare"], "Add --only-blurred."),
        (["--mask-from", "masks"], "Add --only-blurred."),
        (["--only-blurred", "--mask-from", "nowhere"], "nowhere: does not exist. --mask-from takes a mask, or a"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(options, message, run_folder, photographs, tmp_path, capsys):
    assert call("deblur", run_folder, photographs, "-o", tmp_path / "out", *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()
