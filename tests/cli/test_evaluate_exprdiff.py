"""`relo evaluate --protocol exprdiff`: its table, its notes and its files."""

import json
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from relo.atomic import file_sha256
from relo.cli.main import main
from relo.models import create_model
from relo.shards import ShardWriter
from relo.training import save_checkpoint


@pytest.fixture(autouse=True)
def no_pyiqa(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = {"num_res": 1, "width": 4}
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, create_model("mimo_unet", **options), "mimo_unet", options, {})
    return path


def write_scene(path, sides):
    """A shard of one pair for each side of a blurred square, 0 for none."""
    rng = np.random.default_rng(0)
    with ShardWriter(path, size=(200, 230), scene=path.stem, split="test") as writer:
        for number, side in enumerate(sides):
            sharp = uniform_filter(rng.normal(size=(200, 230, 3)), (3, 3, 0)) * 150 + 128
            sharp = (sharp.clip(0, 255) // 8 * 8).astype(np.uint8)
            mask = np.zeros((200, 230), np.uint8)
            mask[20 : 20 + side, 20 : 20 + side] = 255
            smeared = uniform_filter(sharp.astype(float), (0, 15, 0)).astype(np.uint8)
            blur = np.where(mask[..., None] > 0, smeared, sharp)
            writer.append(f"{number:04d}", blur=blur, sharp=sharp, mask=mask)
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    return leave.value.code


def test_the_table_has_niqe_and_says_what_is_missing(checkpoint, tmp_path, capsys):
    shard = write_scene(tmp_path / "hall.h5", [60, 80, 0])
    assert call("evaluate", checkpoint, shard, "--protocol", "exprdiff", "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert lines[0] == "mimo_unet on split test, protocol exprdiff:"
    before, after = (content["overall"][f"niqe_{side}"] for side in ("input", "output"))
    niqe = next(line for line in lines if line.startswith("NIQE")).split()
    assert niqe == ["NIQE", "(lower)", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]
    assert not any(line.startswith(("CLIPIQA+", "MUSIQ")) for line in lines)
    notes = [line for line in lines if line.startswith("note: ")]
    assert notes[0].startswith("note: 2 of 3 crops of 512 px were scored (67%): those of which more than 1 % is")
    assert notes[1] == "note: 3 of 3 images have sides below 512 px: their crops are as small"
    assert notes[2].startswith("note: without clipiqa+ and musiq-paq2piq: the package 'pyiqa' is not installed.")
    assert "done 2, skipped 0, quarantined 0, failed 0" in lines
    pictures = {path.name[3:] for path in (tmp_path / "out" / "worst").iterdir()}
    assert pictures == {"hall_0000_y0_x0.png", "hall_0001_y0_x0.png"}


def test_json_is_one_object(checkpoint, tmp_path, capsys):
    shard = write_scene(tmp_path / "hall.h5", [60])
    assert call("evaluate", checkpoint, shard, "--protocol", "exprdiff", "-o", tmp_path / "out", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["crops"] == {"side": 512, "blurred_share": 0.01, "kept": 1, "all": 1}
    assert answer["overall"]["niqe_input"] > 0
    assert answer["protocol"] == "exprdiff"


def test_other_protocols_have_neither(checkpoint, tmp_path, capsys):
    shard = write_scene(tmp_path / "hall.h5", [60])
    assert call("evaluate", checkpoint, shard, "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "NIQE" not in out and "pyiqa" not in out and "crops" not in out
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["crops"] is None


def test_scenes_are_compared_by_niqe_too(checkpoint, tmp_path, capsys):
    shards = [write_scene(tmp_path / "shards" / f"{name}.h5", [60]) for name in ("attic", "hall")]
    entries = [{"file": path.name, "sha256": file_sha256(path)} for path in shards]
    index = {"format": "relo-dataset", "version": 1, "shards": entries}
    (tmp_path / "shards" / "dataset.json").write_text(json.dumps(index))
    assert call("evaluate", checkpoint, tmp_path / "shards", "--protocol", "exprdiff", "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("scene"))
    assert lines[heading].endswith("NIQE (lower)")
    means = json.loads((tmp_path / "out" / "evaluation.json").read_text())["scenes"]["hall"]
    assert lines[heading + 2].endswith(f"{means['niqe_input']:.3f} > {means['niqe_output']:.3f}")


def test_a_blur_detector_is_scored_by_its_patches(tmp_path, capsys):
    options = {"width": 8}
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, create_model("exprdiff_detector", **options), "exprdiff_detector", options, {})
    shard = write_scene(tmp_path / "hall.h5", [60, 0])
    assert call("evaluate", path, shard, "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["patches"] == 2 * 4 * 4
    assert content["overall"]["majority"] == 28 / 32  # the square touches four patches
    assert "exprdiff_detector on split test" in out and f"{28 / 32:.4f}" in out
    assert "done 2, skipped 0, quarantined 0, failed 0" in out
    assert "PSNR" not in out and not (tmp_path / "out" / "worst").exists()
    assert call("evaluate", path, shard, "-o", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["overall"] == content["overall"]


def test_nothing_blurred_is_one_line(checkpoint, tmp_path, capsys):
    shard = write_scene(tmp_path / "hall.h5", [0])
    assert call("evaluate", checkpoint, shard, "--protocol", "exprdiff", "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"Error: {shard}: holds no crop of 512 px with more than 1 % blurred pixels (crops: 1). "
        "Score whole images: --protocol reloblur.\n"
    )


def test_the_path_without_a_network_is_not_scored(tmp_path, capsys):
    with pytest.raises(SystemExit) as leave:
        main(["evaluate", "exprdiff-instant", str(tmp_path)])
    assert leave.value.code == 2
    assert capsys.readouterr().err.startswith("Error: exprdiff-instant cannot be scored here")
