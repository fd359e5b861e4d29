"""A network that is given short exposures, from training to a photograph: by the command line, end to end."""

import numpy as np
import pytest
from PIL import Image
from support.program import relo

from relo.images import read_image, write_image
from relo.shards import open_dataset
from relo.training import deblur

from .conftest import write_dataset

OPTIONS = ("model.options.width=4", "crop=16", "steps=3", "batch=2", "val_every=3", "log_every=1", "loss.msfr=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("short")
    shards = write_dataset(root / "shards", {"a": "train", "b": "train", "c": "test"}, size=(64, 80), short=True)
    sets = [part for option in OPTIONS for part in ("--set", option)]
    done = relo("train", "nafnet_short-tiny", str(shards), "-o", str(root / "run"), *sets)
    assert done.code == 0, done.err
    sample = open_dataset(shards)[0]
    for name in ("blur", "short"):
        (root / name).mkdir()
        write_image(root / name / "photo.png", getattr(sample, name))
    return root


def test_it_is_evaluated(trained):
    done = relo("evaluate", trained / "run", trained / "shards", "--json")
    assert done.code == 0, done.err
    assert done.json["done"] == 3


@pytest.mark.parametrize("options", [[], ["--only-blurred"]])
def test_a_photograph_is_restored_with_its_short_exposure(trained, options):
    out = trained / f"out{len(options)}"
    mask = np.zeros((64, 80), np.uint8)
    mask[20:30, 20:30] = 255
    Image.fromarray(mask).save(trained / "mask.png")
    extra = [*options, "--mask-from", str(trained / "mask.png")] if options else []
    command = ["deblur", str(trained / "run"), str(trained / "blur" / "photo.png"), "-o", str(out)]
    done = relo(*command, "--short", str(trained / "short"), *extra)
    assert done.code == 0, done.err
    blur, short = (read_image(trained / name / "photo.png") for name in ("blur", "short"))
    given = mask if options else None
    expected = deblur(trained / "run", blur, short=short, only_blurred=bool(options), mask=given)
    assert np.array_equal(read_image(out / "photo.png"), expected)
    other = deblur(trained / "run", blur, short=blur, only_blurred=bool(options), mask=given)
    assert not np.array_equal(other, expected), "the short exposure matters"


def test_what_is_missing_or_of_no_use_is_one_line(trained, tmp_path):
    photo, run_dir = str(trained / "blur" / "photo.png"), str(trained / "run")
    done = relo("deblur", run_dir, photo, "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert "given a short exposure too" in done.err and "--short" in done.err
    done = relo("deblur", run_dir, photo, "-o", str(tmp_path / "out"), "--short", str(tmp_path / "nothing"))
    assert done.code == 2 and "does not exist" in done.err
    write_image(tmp_path / "small.png", np.zeros((10, 12, 3), np.uint8))
    done = relo("deblur", run_dir, photo, "-o", str(tmp_path / "out"), "--short", str(tmp_path / "small.png"))
    assert done.code == 3 and "12x10, the photograph 80x64" in done.err
    done = relo(
        "deblur", run_dir, photo, "-o", str(tmp_path / "out"), "--short", str(trained), "--detector", run_dir
    )
    assert done.code == 2 and "--detector is for exprdiff-instant" in done.err
