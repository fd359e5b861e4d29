"""Tiny datasets of real shards: textured scenes with a moving, blurred square."""

import json

import numpy as np
import pytest
import torch

from relo.atomic import file_sha256
from relo.shards import ShardWriter
from relo.training import load_recipe

TINY = (
    "model.options={num_res: 1, width: 4}",
    "crop=16",
    "batch=2",
    "val_every=4",
    "log_every=2",
    "checkpoint_every=1000",
    "val_images=2",
    "workers=0",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small only lose by sharing their work, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_pair(rng, size, dtype, blurred=True):
    """One (blur, sharp, mask): noise, with a square that is smeared sideways in `blur`."""
    top = np.iinfo(dtype).max
    sharp = (rng.integers(0, 16, (*size, 3)) * (top // 15)).astype(dtype)  # few levels, so that it compresses
    blur, mask = sharp.copy(), np.zeros(size, np.uint8)
    if blurred:
        y, x = int(rng.integers(2, size[0] - 14)), int(rng.integers(6, size[1] - 18))
        mask[y : y + 12, x : x + 12] = 255
        window = np.mean([sharp[y : y + 12, x + d : x + d + 12] for d in range(-2, 3)], axis=0)
        blur[y : y + 12, x : x + 12] = window.astype(dtype)
    return blur, sharp, mask


def write_dataset(
    root, scenes, *, pairs=3, size=(30, 41), dtype=np.uint8, valid=None, unblurred=(), draw=draw_pair, short=False
):
    """Write shards and dataset.json; `scenes` maps names to splits."""
    root.mkdir(parents=True)
    entries = []
    for number, (scene, split) in enumerate(scenes.items()):
        rng = np.random.default_rng(number)
        bits = 8 * np.dtype(dtype).itemsize
        path = root / f"{scene}.h5"
        with ShardWriter(path, size=size, scene=scene, split=split, bits=bits, valid=valid, short=short) as writer:
            for index in range(pairs):
                name = f"{index:04d}"
                blur, sharp, mask = draw(rng, size, dtype, blurred=f"{scene}/{name}" not in unblurred)
                writer.append(name, blur=blur, sharp=sharp, mask=mask, short=sharp // 2 if short else None)
        entries.append({"file": path.name, "sha256": file_sha256(path)})
    index = {"format": "relo-dataset", "version": 1, "shards": entries}
    (root / "dataset.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory):
    """Three train scenes and a test scene of 41 x 30 px, one pair of the test scene without blur."""
    scenes = {"attic": "train", "barn": "train", "cellar": "train", "yard": "test"}
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", scenes, unblurred=("yard/0001",))


@pytest.fixture
def tiny_recipe():
    """Function that gives a recipe of seconds, with further overrides."""
    return lambda *overrides: load_recipe("lbag-tiny", [*TINY, *overrides])
