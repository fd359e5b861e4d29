"""Two processes under torchrun train what one process trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from relo.errors import ConfigError
from relo.training import load_checkpoint, load_recipe, train
from relo.training.run.distributed import Processes

from .conftest import TINY, write_dataset

SETTINGS = [
    *TINY, "model.options={num_res: 1, width: 4, dropout: 0.0}", "batch=4", "val_images=3", "log_every=4",
    "ema=0.5", "clip=0.5", "device=cpu",
]  # fmt: skip


def command(src, out, *more):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
    return [*torchrun, "-m", "relo", "train", "lbag-tiny", str(src), "-o", str(out), *settings]


def environment():
    root = str(Path(__file__).parents[2])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}


def run(words):
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(line):
    return [
        value
        for part in (line, line.get("validation", {}))
        for value in part.values()
        if not isinstance(value, dict)
    ]


def assert_equal_runs(one, two):
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(numbers(b), numbers(a), rtol=1e-5)
    expected, found = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_what_one_trains_and_resume(dataset_dir, tmp_path):
    """Slow, because Python and torch start in six processes."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(load_recipe("lbag-tiny", [*SETTINGS, "steps=10"]), dataset_dir, one)
    first = run(command(dataset_dir, two, "steps=6"))
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("trained 6 steps") == 1, "the first process alone reports"
    again = run([*command(dataset_dir, two, "steps=10"), "--resume"])
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in lines(two)] == [4, 4, 8, 8, 10, 10]
    assert_equal_runs(one, two)
    assert sorted(path.name for path in (two / "samples").iterdir()) == [
        "step_00000004.png", "step_00000006.png", "step_00000008.png", "step_00000010.png"
    ]  # fmt: skip
    assert len(list((two / "tensorboard").iterdir())) == 2, "one log for each start, not for each process"


MOTION = """
from relo.models.restoration import MotionRestoration, Restoration
from torch import nn


class Motion(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.grid = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, blur):
        if not self.training:
            return Restoration(self.image(blur), (), ())
        grid = self.grid(blur)
        return MotionRestoration(self.image(blur), (), (), grid[:, :2], grid[:, 2:])
"""


@pytest.mark.slow
def test_motion_stages_and_sources_in_two_processes(dataset_dir, tmp_path):
    """Every process has another source, and the steps are those of one process all the same."""
    (tmp_path / "motion.py").write_text(MOTION)
    second = write_dataset(tmp_path / "second", {"pond": "train"}, size=(40, 33), dtype=np.uint16)
    settings = [
        f"model={{name: {tmp_path / 'motion.py'}:Motion}}", "steps=5", "ema=0",
        "progressive=[{steps: 3, crop: 24, batch: 2}]", f"sources=[{{path: {second}, share: 0.5, masks: ones}}]",
        "loss={l1: 1.0, ssim: 0, msfr: 0, mask: 0, shift_invariant: false, mask_ce: 0.1, reblur: 1.0, tv: 0.01}",
        "clip=0", "lr=1e-3",
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    train(load_recipe("lbag-tiny", [*SETTINGS, *settings]), dataset_dir, one)
    done = run(command(dataset_dir, two, *settings))
    assert done.returncode == 0, done.stderr
    assert {"mask_ce", "reblur", "tv"} <= lines(two)[0].keys()
    assert_equal_runs(one, two)


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all(dataset_dir, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    refused = run(command(dataset_dir, tmp_path / "run", "steps=2"))
    assert refused.returncode != 0
    assert refused.stderr.count("holds a training run already") == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.safetensors"]


def test_a_batch_that_cannot_be_shared_out_is_refused(dataset_dir, tmp_path, monkeypatch):
    names = {"TORCHELASTIC_RUN_ID": "x", "RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    recipe = load_recipe("lbag-tiny", [*SETTINGS, "batch=3"])
    with pytest.raises(ConfigError, match=r"batch of 3 .* equally among 2 processes\. Use --set batch=4\."):
        train(recipe, dataset_dir, tmp_path / "run")
    staged = load_recipe("lbag-tiny", [*SETTINGS, "progressive=[{steps: 1, crop: 16, batch: 5}]"])
    with pytest.raises(ConfigError, match=r"batch of 5 .* --set batch=6 and such batches in `progressive`"):
        train(staged, dataset_dir, tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_at_one_process_stops_all_at_the_same_step(dataset_dir, tmp_path):
    out = tmp_path / "run"
    words = command(dataset_dir, out, "steps=100000", "log_every=5", "val_fraction=0")
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) as agent:
        wait_for(lambda: (out / "metrics.jsonl").is_file(), agent)
        worker = child_of_rank(agent.pid, 1)
        os.kill(worker, signal.SIGINT)
        agent.wait(timeout=60)
        told = agent.stderr.read()
    assert "Stopped after a whole step" in told, told
    assert load_checkpoint(out).training["steps"] == lines(out)[-1]["step"] < 100_000
    assert (out / "last.ckpt").is_file()


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def child_of_rank(parent, rank):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ranks = {f"RANK={rank}".encode()}
    return next(
        int(pid) for pid in children if ranks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    )


def test_the_environment_of_torchrun_is_read(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.of_torchrun() == Processes()
    monkeypatch.setenv("WORLD_SIZE", "8")  # batch systems set it as well
    assert Processes.of_torchrun() == Processes()
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "x"),
        ("RANK", "5"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "4"),
    ):
        monkeypatch.setenv(name, value)
    found = Processes.of_torchrun()
    assert found == Processes(rank=5, size=8, local_rank=1, local_size=4)
    assert not found.is_first


def test_one_process_needs_no_connection():
    alone = Processes()
    with alone.connected("cpu"):
        assert alone.by_first(lambda: 3) == 3
        assert alone.any(True) is True and alone.any(False) is False
        assert alone.gathered([1, 2]) == [1, 2]
