"""The adapter to pyiqa, with a stand-in for the package: relo is never tested with pyiqa itself."""

import sys
import types

import numpy as np
import pytest
import torch

from relo.errors import TrainingError
from relo.training import metrics, no_reference
from relo.training.pyiqa_metrics import NAMES, load_metric


@pytest.fixture
def pyiqa(monkeypatch):
    """A package that gives the mean of each image, as (1, 1) like pyiqa, and talks on stdout like pyiqa."""
    package = types.ModuleType("pyiqa")
    package.made = []

    def create_metric(name, device):
        package.made.append((name, device))
        sys.stdout.write("Loading pretrained model\n")

        def metric(images):
            assert images.shape[0] == 1 and images.dtype == torch.float32 and not torch.is_grad_enabled()
            return images.mean()[None, None]

        return metric

    package.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", package)
    return package


def write_package(folder, code, monkeypatch):
    """A package pyiqa whose import runs `code`."""
    (folder / "pyiqa").mkdir()
    (folder / "pyiqa" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)


@pytest.mark.parametrize(("name", "published"), [("clipiqa_plus", "clipiqa+"), ("musiq_paq2piq", "musiq-paq2piq")])
def test_a_metric_is_asked_for_by_its_published_name(pyiqa, capsys, name, published):
    score = load_metric(name, "cpu")
    assert pyiqa.made == [(published, torch.device("cpu"))]
    images = torch.rand(3, 3, 20, 30, dtype=torch.float64, requires_grad=True)
    values = score(images)
    assert (values.shape, values.dtype) == ((3,), torch.float64)
    np.testing.assert_allclose(values, images.detach().mean(dim=(1, 2, 3)), rtol=1e-6)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Loading pretrained model\n")


def test_an_unknown_name_is_refused(pyiqa):
    with pytest.raises(ValueError, match="unknown metric 'niqe', expected one of clipiqa_plus, musiq_paq2piq"):
        load_metric("niqe")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(TrainingError) as caught:
        load_metric("clipiqa_plus")
    message = str(caught.value)
    assert "'pyiqa' is not installed. Install it with  pip install -c constraints.txt pyiqa" in message
    assert "no commercial use" in message and "downloads weights" in message


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "raise RuntimeError('operator torchvision::nms\\n does not exist')",
            "RuntimeError: operator torchvision::nms does not exist",
        ),
        (
            "import torchvision_that_is_not_there",
            "ModuleNotFoundError: No module named 'torchvision_that_is_not_there'",
        ),
        ("raise OSError('libcudart.so: cannot open')", "OSError: libcudart.so: cannot open"),
    ],
)
def test_a_package_that_cannot_be_imported_is_told_apart(tmp_path, monkeypatch, code, told):
    write_package(tmp_path, code, monkeypatch)
    with pytest.raises(TrainingError) as caught:
        load_metric("clipiqa_plus")
    message = str(caught.value)
    assert f"is installed but cannot be imported ({told}). It needs a torchvision built for the torch" in message
    assert "\n" not in message


def test_weights_that_cannot_be_downloaded_are_one_line(pyiqa, monkeypatch):
    def create_metric(name, device):
        raise ConnectionError("Max retries exceeded\n" + "x" * 1000)

    pyiqa.create_metric = create_metric
    with pytest.raises(TrainingError) as caught:
        load_metric("musiq_paq2piq")
    message = str(caught.value)
    assert message.startswith("pyiqa cannot set up musiq-paq2piq (ConnectionError: Max retries exceeded xxx")
    assert "downloads weights" in message and "\n" not in message and len(message) < 400


def test_metrics_that_cannot_be_had_are_named_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    scorers, notes = no_reference.load_scorers(torch.device("cpu"))
    assert {name: scorer is not None for name, scorer in scorers.items()} == {"niqe": True} | dict.fromkeys(
        NAMES, False
    )
    assert len(notes) == 1
    assert notes[0].startswith("without clipiqa+ and musiq-paq2piq: the package 'pyiqa' is not installed")


def test_one_metric_may_be_missing(pyiqa):
    ready = pyiqa.create_metric

    def create_metric(name, device):
        if name == "clipiqa+":
            raise OSError("offline")
        return ready(name, device)

    pyiqa.create_metric = create_metric
    scorers, notes = no_reference.load_scorers(torch.device("cpu"))
    assert scorers["clipiqa_plus"] is None and scorers["musiq_paq2piq"] is not None
    assert [note.split(": ")[0] for note in notes] == ["without clipiqa+"]


def test_scores_are_of_8_bits(pyiqa):
    scorers, notes = no_reference.load_scorers(torch.device("cpu"))
    assert notes == []
    image = torch.from_numpy(np.random.default_rng(0).normal(0.5, 0.4, (3, 200, 230)))
    rounded = (image.clamp(0, 1) * 255).round() / 255
    values = no_reference.score(scorers, image)
    assert values["niqe"] == metrics.niqe(rounded[None]).item()
    assert values["clipiqa_plus"] == values["musiq_paq2piq"] == pytest.approx(rounded.mean().item(), rel=1e-6)


def test_small_images_have_no_value(pyiqa):
    scorers, _ = no_reference.load_scorers(torch.device("cpu"))
    assert all(np.isnan(value) for value in no_reference.score(scorers, torch.rand(3, 191, 400)).values())
    scorers["clipiqa_plus"] = None
    assert no_reference.score(scorers, torch.rand(3, 20, 20))["clipiqa_plus"] is None
