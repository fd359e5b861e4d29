"""train, evaluate, deblur and models from the command line, on a dataset of real shards."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from relo.atomic import file_sha256
from relo.cli.main import main
from relo.images import read_image, write_image
from relo.shards import ShardWriter
from relo.training import load_checkpoint

TINY = ["--set", "model.options={num_res: 1, width: 4}", "--set", "crop=16", "--set", "steps=2"]


def noise(seed, dtype=np.uint8, size=(30, 41)):
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, 3), endpoint=True)
    return values.astype(dtype)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    entries = []
    for seed, (scene, split) in enumerate((("attic", "train"), ("barn", "train"), ("yard", "test"))):
        path = root / f"{scene}.h5"
        with ShardWriter(path, size=(30, 41), scene=scene, split=split) as writer:
            mask = np.zeros((30, 41), np.uint8)
            mask[8:20, 8:20] = 255
            writer.append("0000", blur=noise(seed), sharp=noise(seed + 10), mask=mask)
        entries.append({"file": path.name, "sha256": file_sha256(path)})
    index = {"format": "relo-dataset", "version": 1, "shards": entries}
    (root / "dataset.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module")
def run_folder(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert call("train", "lbag-tiny", shards, "-o", folder, *TINY) == 0
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    return leave.value.code


def test_train_says_what_comes_next(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("train", "lbag-tiny", shards, *TINY) == 0
    out = capsys.readouterr().out
    assert "trained 2 steps" in out
    assert "validation: PSNR_w" in out
    assert "done 2, skipped 0, quarantined 0, failed 0\noutput: runs/lbag-tiny\n" in out
    assert "last weights: runs/lbag-tiny/model.safetensors\nbest weights: runs/lbag-tiny/best.safetensors\n" in out
    assert "curves and pictures: tensorboard --logdir runs/lbag-tiny\n" in out
    assert f"next:   relo evaluate runs/lbag-tiny {shards}" in out
    assert (tmp_path / "runs" / "lbag-tiny" / "model.safetensors").is_file()


def test_train_json_is_one_object_and_resume_goes_on(run_folder, shards, capsys):
    assert (
        call("train", "lbag-tiny", shards, "-o", run_folder, *TINY, "--set", "steps=3", "--resume", "--json") == 0
    )
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["done"], answer["out"]) == (3, str(run_folder))
    assert answer["validation"].keys() == {"psnr", "psnr_input", "psnr_w", "psnr_w_input"}
    assert (answer["last"], answer["best"]) == tuple(
        str(run_folder / name) for name in ("model.safetensors", "best.safetensors")
    )
    assert answer["steps_per_second"] is None, "the one step that was left is start-up"
    assert captured.err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_loader_processes_last(number, shards, tmp_path):
    """Terminals and batch systems send it to loader processes too; the step is finished and saved all the same."""
    out = tmp_path / "run"
    settings = [*TINY, "--set", "steps=100000", "--set", "workers=1", "--set", "log_every=1", "--set", "batch=1"]
    words = [sys.executable, "-m", "relo", "train", "lbag-tiny", str(shards), "-o", str(out), *settings]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as program:
        end = time.monotonic() + 60
        while not (out / "metrics.jsonl").is_file():
            assert program.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        os.killpg(program.pid, number)
        told = program.communicate(timeout=60)[1]
    assert program.returncode == 130, told
    assert "Stopped after a whole step. Add --resume to the command to continue." in told
    assert "Traceback" not in told
    steps = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert load_checkpoint(out).training["steps"] == steps


def test_the_seed_option_is_the_setting(shards, tmp_path):
    assert call("train", "lbag-tiny", shards, "-o", tmp_path / "a", *TINY, "--seed", 7) == 0
    assert call("train", "lbag-tiny", shards, "-o", tmp_path / "b", *TINY, "--set", "seed=7") == 0
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_evaluate_refuses_a_folder_that_cannot_be_before_it_works(run_folder, shards, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert call("evaluate", run_folder, shards, "-o", out) == 2
        captured = capsys.readouterr()
        assert captured.err == f"Error: {out}: cannot be written to. Choose another folder with -o.\n"


def test_evaluate_prints_a_table_and_writes_files(run_folder, shards, tmp_path, capsys):
    assert call("evaluate", run_folder, shards, "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "lbag on split test, protocol reloblur:" in out
    labels = [line.split()[0] for line in out.splitlines()[2:8]]
    assert labels == ["PSNR", "SSIM", "PSNR_w", "SSIM_w", "static", "mask"]
    assert "scene" not in out  # there is only one
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["evaluation.csv", "evaluation.json", "worst"]
    assert [path.name for path in (tmp_path / "out" / "worst").iterdir()] == ["01_yard_0000.png"]
    assert call("evaluate", run_folder / "model.safetensors", shards, "-o", tmp_path / "out", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 1
    assert answer["overall"]["psnr_w_input"] < 12
    assert (answer["split"], answer["protocol"], answer["mask_versions"]) == ("test", "reloblur", ["1"])


def test_evaluate_follows_its_options(run_folder, shards, tmp_path, capsys):
    options = ["--protocol", "mimo", "--aligned", "--split", "train", "--worst", 1, "--model", "lbag"]
    assert call("evaluate", run_folder, shards, "-o", tmp_path / "out", *options) == 0
    out = capsys.readouterr().out
    assert "lbag on split train, protocol mimo:" in out
    # Noise cannot be aligned with other noise, or only by chance: the line is there either way.
    assert "PSNR_a [dB]" in out
    lines = out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("scene"))
    assert [line.split()[:2] for line in lines[heading + 1 : heading + 3]] == [["attic", "1"], ["barn", "1"]]
    assert len(list((tmp_path / "out" / "worst").iterdir())) == 1
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with_gain = next(line for line in lines if line.startswith("PSNR_w")).split()
    expected = [content["overall"][f"psnr_w_{side}"] for side in ("input", "output")]
    assert with_gain[2:4] == [f"{value:.2f}" for value in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--protocol", "gopro"], "'gopro' is not one of"), (["--worst", "-1"], "-1 is not in the range")],
)
def test_evaluate_refuses_unknown_options(run_folder, shards, capsys, options, message):
    assert call("evaluate", run_folder, shards, *options) == 2
    assert message in capsys.readouterr().err


def test_deblur_writes_and_reports_failures(run_folder, tmp_path, capsys):
    write_image(tmp_path / "a.png", noise(3, np.uint16))
    assert call("deblur", run_folder, tmp_path / "a.png", "-o", tmp_path / "out", "--tile", 128) == 0
    assert "done 1, skipped 0, quarantined 0, failed 0" in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "a.png").dtype == np.uint16
    (tmp_path / "b.png").write_bytes(b"no image")
    assert call("deblur", run_folder, tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out") == 3
    captured = capsys.readouterr()
    assert "done 0, skipped 1, quarantined 0, failed 1" in captured.out
    assert f"Error: {tmp_path / 'b.png'}: is no readable PNG, TIFF or JPEG image" in captured.err


def test_an_impossible_tile_is_one_line(run_folder, tmp_path, capsys):
    write_image(tmp_path / "a.png", noise(3))
    assert call("deblur", run_folder, tmp_path / "a.png", "-o", tmp_path / "out", "--tile", -70) == 2
    assert "must be positive" in capsys.readouterr().err


def test_deblur_json_tells_of_notes_and_masks(run_folder, tmp_path, capsys):
    rgba = np.dstack([noise(3), noise(4)[..., :1]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    windows = ("--tile", 128, "--overlap", 64, "--device", "cpu")
    kinds = ("--mask", "--format", "jpg", "--overwrite", "--json")
    assert call("deblur", run_folder, tmp_path / "a.png", "-o", tmp_path / "out", *windows, *kinds) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["written"] == [str(tmp_path / "out" / "a.jpg")]
    assert answer["notes"] == [[str(tmp_path / "a.png"), "alpha channel dropped"]]
    assert captured.err == f"Note: {tmp_path / 'a.png'}: alpha channel dropped\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a_mask.png"]


def test_deblur_passes_the_network_on(run_folder, tmp_path, capsys):
    write_image(tmp_path / "a.png", noise(3))
    assert call("deblur", run_folder, tmp_path / "a.png", "-o", tmp_path / "out", "--model", "lbagg") == 2
    assert "there is no model 'lbagg'" in capsys.readouterr().err


def test_models_lists_parameter_counts(capsys):
    assert call("models") == 0
    assert "16,109,670" in capsys.readouterr().out
    assert call("models", "--json") == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert models["lbag"]["published"]["psnr_w"] == 28.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lbagg", "SHARDS"], "there is no recipe 'lbagg'"),
        (["train", "exprdif", "SHARDS"], "Did you mean exprdiff or exprdiff-tiny"),
        (["train", "lbag-tiny", "missing"], "missing: does not exist"),
        (["train", "lbag-tiny", "SHARDS", "--set", "stepz=3"], "unknown key 'stepz'"),
        (
            ["train", "lbag-tiny", "SHARDS"],
            "patches of 96 px do not fit into its valid 41 x 30 px. Use --set crop=",
        ),
        (["train", "lbag-tiny", "SHARDS", *TINY, "--set", "model.weights=no.pkl"], "no.pkl: does not exist"),
        (["train", "lbag-tiny", "SHARDS", "--set", "device=cpu", "--set", "precision=16-mixed"], "needs a GPU"),
        (["evaluate", "missing", "SHARDS"], "missing: does not exist"),
        (["evaluate", "RUN", "SHARDS", "--split", "val"], "has no split 'val'"),
        (["deblur", "SHARDS", "x.png", "-o", "out"], "model.safetensors: does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message, run_folder, shards, capsys):
    places = {"SHARDS": str(shards), "RUN": str(run_folder)}
    assert call(*(places.get(argument, argument) for argument in arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
