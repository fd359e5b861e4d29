"""`relo train exprdiff` and `relo deblur RUN` from the command line, with a tiny random SDXL."""

import numpy as np
import pytest
from PIL import Image
from support.datasets import make_dataset
from support.program import relo

from relo.images import read_image, write_image

SIZE = (96, 128)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from support.tiny_sdxl import save_tiny_sdxl

    root = tmp_path_factory.mktemp("exprdiff")
    base = save_tiny_sdxl(root / "sdxl")
    shards = make_dataset(root / "shards", [{"scene": "attic", "size": SIZE, "short": True}])
    options = [part for setting in (f"base={base}", "steps=1", "radius=4") for part in ("--set", setting)]
    answer = relo("train", "exprdiff-tiny", shards, "-o", root / "run", "--json", *options)
    assert answer.code == 0, answer
    assert answer.json["done"] == 1

    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (SIZE[0] // 4, SIZE[1] // 4, 3)).astype(np.uint8)
    blur = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
    mask = np.zeros(SIZE, np.uint8)
    mask[40:60, 50:80] = 255
    write_image(root / "photo.png", blur)
    write_image(root / "short.png", blur // 2)
    Image.fromarray(mask).save(root / "mask.png")
    return root


def test_a_photograph_is_restored_where_it_is_blurred(trained):
    command = ("deblur", trained / "run", trained / "photo.png", "--short", trained / "short.png")
    out = trained / "out"
    answer = relo(*command, "--mask-from", trained / "mask.png", "--set", "steps=2", "-o", out, "--json")
    assert answer.code == 0, answer
    blur, restored = read_image(trained / "photo.png"), read_image(out / "photo.png")
    changed = (blur != restored).any(axis=2)
    assert changed[45:55, 55:75].mean() > 0.5
    changed[24:76, 34:96] = False
    assert not changed.any(), "beyond 16 px around the mask"


def test_nothing_blurred_leaves_the_photograph(trained):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(trained / "empty.png")
    command = ("deblur", trained / "run", trained / "photo.png", "--short", trained / "short.png")
    answer = relo(*command, "--mask-from", trained / "empty.png", "-o", trained / "same")
    assert answer.code == 0 and "no blur found" in answer.err
    assert np.array_equal(read_image(trained / "same" / "photo.png"), read_image(trained / "photo.png"))


def test_mistakes_are_one_line(trained, tmp_path):
    photo, short, mask = (trained / name for name in ("photo.png", "short.png", "mask.png"))
    run = ("deblur", trained / "run", photo, "-o", tmp_path / "out")
    relo(*run).error("needs short exposures", "--short")
    relo(*run, "--short", short).error("nothing says where", "--mask-from")
    relo(*run, "--short", short, "--mask-from", mask, "--set", "steps=0").error("steps")
    relo(*run, "--short", short, "--mask-from", mask, "--set", f"base={tmp_path / 'gone'}").error("gone")
    relo("train", "exprdiff", trained / "shards", "-o", tmp_path / "run").error("base")
    relo("evaluate", trained / "run", trained / "shards").error("guide")
