"""train, models and the refusals around a blur detector, from the command line."""

import json

import numpy as np
import pytest
from support.program import relo

from relo.atomic import file_sha256
from relo.shards import ShardWriter

TINY = ["--set", "model.options={patch: 12, width: 8}", "--set", "crop=24", "--set", "steps=2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    entries = []
    for scene, split in (("attic", "train"), ("barn", "train"), ("yard", "test")):
        path = root / f"{scene}.h5"
        with ShardWriter(path, size=(36, 48), scene=scene, split=split) as writer:
            mask = np.zeros((36, 48), np.uint8)
            mask[:12, :24] = 255
            blur, sharp = rng.integers(0, 256, (2, 36, 48, 3)).astype(np.uint8)
            writer.append("0000", blur=blur, sharp=sharp, mask=mask)
        entries.append({"file": path.name, "sha256": file_sha256(path)})
    index = {"format": "relo-dataset", "version": 1, "shards": entries}
    (root / "dataset.json").write_text(json.dumps(index))
    return root


def test_train_prints_accuracy_beside_the_majority(shards, tmp_path):
    answer = relo("train", "exprdiff-detector-tiny", shards, "-o", tmp_path / "run", *TINY)
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if line.startswith("validation")]
    assert line.startswith("validation: patch accuracy 0.")
    assert "of saying the same of all 0.8333" in line, "2 of 12 patches are blurred"
    again = relo("train", "exprdiff-detector-tiny", shards, "-o", tmp_path / "run", *TINY, "--set", "steps=3",
                 "--resume", "--json")  # fmt: skip
    told = json.loads(again.out)
    assert (told["done"], told["validation"]["majority"]) == (3, 0.8333)
    assert told["validation"].keys() <= {"accuracy", "majority", "precision", "recall"}


def test_models_lists_the_detector():
    answer = relo("models", "--json")
    models = {model["name"]: model for model in json.loads(answer.out)["models"]}
    assert models["exprdiff_detector"]["parameters"] == 405_954
    assert models["exprdiff_detector"]["published"] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.options={patch: 3}"], "exprdiff_detector: patch must be at least 8 px, got 3"),
        (["model.options={width: 12}"], "exprdiff_detector: width must be a multiple of 8, got 12"),
        (["model.options={layers: 3}"], "exprdiff_detector has no option 'layers'"),
        (["crop=120"], "patches of 120 px do not fit"),
    ],
)
def test_mistakes_are_one_line(settings, message, shards, tmp_path):
    settings = settings if "crop=120" in settings else ["crop=24", *settings]
    words = [word for setting in settings for word in ("--set", setting)]
    answer = relo("train", "exprdiff-detector-tiny", shards, "-o", tmp_path / "run", *words)
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1 and message in answer.err
