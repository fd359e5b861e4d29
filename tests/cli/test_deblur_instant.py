"""`relo deblur exprdiff-instant` from the command line, from end to end and with mistakes."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from relo.cli.main import main
from relo.images import read_image, write_image
from relo.models import create_model
from relo.training import save_checkpoint

SIZE = (180, 240)


def call(*arguments):
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    return leave.value.code


@pytest.fixture
def photographs(tmp_path):
    """in/a.png of 8 bits and in/b.tif of 16, short/a.jpg and short/b.tif, masks/a_mask.png and masks/b.png."""
    mask = np.zeros(SIZE, np.uint8)
    mask[50:120, 60:160] = 255
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for name, short, of_mask, depth in (("a.png", "a.png", "a_mask", 1), ("b.tif", "b.png", "b", 257)):
        noise = cv2.GaussianBlur(rng.standard_normal((*SIZE, 3)), (0, 0), 1.5)
        sharp = np.clip(128 + 45 * noise / noise.std(), 20, 235)
        blur = np.where(mask[..., None] > 0, cv2.blur(sharp, (15, 1)), sharp)
        write_image(tmp_path / "in" / name, np.rint(depth * blur).astype(np.uint8 if depth == 1 else np.uint16))
        write_image(tmp_path / "short" / short, np.rint(sharp / 2 + rng.normal(0, 1, sharp.shape)).astype(np.uint8))
        Image.fromarray(mask).save(tmp_path / "masks" / f"{of_mask}.png")
    return tmp_path


def instant(folder, *options):
    return call(
        "deblur", "exprdiff-instant", folder / "in", "--short", folder / "short", "-o", folder / "out", *options
    )


def test_from_end_to_end(photographs, capsys):
    assert instant(photographs, "--mask-from", photographs / "masks") == 0
    captured = capsys.readouterr()
    assert f"{photographs / 'in' / 'a.png'}: 16.2% blurred, 16.2% computed\n" in captured.out
    assert "done 2, skipped 0, quarantined 0, failed 0" in captured.out
    inside = read_image(photographs / "masks" / "b.png")[..., 0] > 0
    for name in ("a.png", "b.tif"):
        before, after = read_image(photographs / "in" / name), read_image(photographs / "out" / name)
        assert after.dtype == before.dtype
        assert np.array_equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).mean() > 0.9
    assert instant(photographs, "--mask-from", photographs / "masks") == 0
    assert "done 0, skipped 2" in capsys.readouterr().out


def test_no_blur_found_is_said_and_changes_nothing(photographs, capsys):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(photographs / "none.png")
    assert instant(photographs, "--mask-from", photographs / "none.png", "--json", "--mask") == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["done"] == 2
    assert captured.err.count("no blur found: the photograph is left as it is") == 2
    for name in ("a.png", "b.tif"):
        assert np.array_equal(read_image(photographs / "in" / name), read_image(photographs / "out" / name))
    assert not read_image(photographs / "out" / "a_mask.png").any()


def test_a_detector_finds_the_blur(photographs, monkeypatch, capsys):
    save_checkpoint(
        photographs / "run" / "model.safetensors", create_model("exprdiff_detector"), "exprdiff_detector", {}, {}
    )
    seen = []

    def fake(model, image):
        seen.append((type(model).__name__, image.dtype))
        return read_image(photographs / "masks" / "b.png")[..., 0] > 0

    monkeypatch.setattr("relo.models.exprdiff.detector.detect_blur", fake)
    assert instant(photographs, "--detector", photographs / "run", "--device", "cpu") == 0
    assert seen == [("BlurDetector", np.uint8), ("BlurDetector", np.uint16)]
    assert "16.2% blurred" in capsys.readouterr().out


def test_one_that_fails_does_not_stop_the_other(photographs, capsys):
    write_image(photographs / "short" / "a.png", np.full((90, 240, 3), 50, np.uint8))
    assert instant(photographs, "--mask-from", photographs / "masks") == 3
    captured = capsys.readouterr()
    assert "done 1, skipped 0, quarantined 0, failed 1" in captured.out
    assert "a.png: the short exposure is 240x90, the photograph 240x180. Both must" in captured.err
    assert not (photographs / "out" / "a.png").exists()


def test_a_missing_short_exposure_is_one_failure(photographs, capsys):
    (photographs / "short" / "b.png").unlink()
    assert instant(photographs, "--mask-from", photographs / "masks") == 3
    assert "short: holds no short exposure of b.tif. Its file is called b, with any" in capsys.readouterr().err


def test_inputs_are_never_overwritten(photographs, capsys):
    options = ("--short", photographs / "short", "--mask-from", photographs / "masks", "-o", photographs / "short")
    assert call("deblur", "exprdiff-instant", photographs / "in" / "a.png", *options) == 3
    assert "would overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--short", "short"], "nothing says where the photographs are blurred. Give masks with --mask-from"),
        (["--mask-from", "masks"], "exprdiff-instant needs short exposures. Give a file or a folder with --short."),
        (["--short", "nowhere", "--mask-from", "masks"], "nowhere: does not exist. --short takes"),
        (["--short", "short", "--mask-from", "nowhere"], "nowhere: does not exist. --mask-from takes"),
        (["--short", "short", "--mask-from", "masks", "--detector", "run"], "both masks and a detector are given"),
        (
            ["--short", "short", "--mask-from", "masks", "--tile", "512"],
            "--tile cannot be used with exprdiff-instant",
        ),
        (["--short", "short", "--detector", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(options, message, photographs, monkeypatch, capsys):
    monkeypatch.chdir(photographs)
    assert call("deblur", "exprdiff-instant", "in", "-o", "out", *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (photographs / "out").exists()


@pytest.mark.parametrize("name", ["exprdiff-instnt", "exprdiff"])
def test_a_mistyped_name_is_no_checkpoint(name, photographs, monkeypatch, capsys):
    monkeypatch.chdir(photographs)
    assert call("deblur", name, "in", "--short", "short", "--mask-from", "masks", "-o", "out") == 2
    told = "Error: {}: does not exist. Give a run folder, a weights file, or exprdiff-instant.\n"
    assert capsys.readouterr().err == told.format(name)


def test_another_network_is_no_detector(photographs, capsys):
    options = {"num_res": 1, "width": 4}
    save_checkpoint(
        photographs / "run" / "model.safetensors", create_model("mimo_unet", **options), "mimo_unet", options, {}
    )
    assert instant(photographs, "--detector", photographs / "run") == 2
    assert "holds mimo_unet, which is no blur detector. Train one with" in capsys.readouterr().err


def test_short_exposures_mean_nothing_to_a_network(photographs, capsys):
    options = {"num_res": 1, "width": 4}
    file = photographs / "run" / "model.safetensors"
    save_checkpoint(file, create_model("mimo_unet", **options), "mimo_unet", options, {})
    command = ("deblur", file, photographs / "in", "-o", photographs / "out")
    assert call(*command, "--short", photographs / "short") == 2
    assert "the network sees no short exposure" in capsys.readouterr().err
    assert call(*command, "--detector", photographs / "run") == 2
    assert "--detector is for exprdiff-instant and runs of exprdiff only. Leave it out." in capsys.readouterr().err
