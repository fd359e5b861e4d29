"""Values of options: types are told in words before anything is built, for every option of every network."""

import numpy as np
import pytest
import torch

from relo.errors import ConfigError
from relo.models import create_model, list_models, model_options
from relo.models.options import check_types, option_names


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("restormer", "blocks", 4, "a list of integers, got 4"),
        ("restormer", "blocks", "abc", "a list of integers, got 'abc'"),
        ("restormer", "heads", [1, 2, "4", 8], r"a list of integers, got \[1, 2, '4', 8\]"),
        ("restormer", "bias_free_norm", 1, "true or false, got 1"),
        ("stripformer", "width", 16.0, "an integer, got 16.0"),
        ("stripformer", "blocks", "abc", "an integer, got 'abc'"),
        ("nafnet", "width", True, "an integer, got True"),
        ("nafnet", "enc_blocks", {"a": 1}, r"a list of integers, got {'a': 1}"),
        ("mimo_unet_plus", "dropout", "0.1", "a number, got '0.1'"),
        ("m2aenet", "trajectory_form", "cubic", "'quadratic' or 'linear' or 'learned', got 'cubic'"),
        ("m2aenet", "temperature", None, "a number, got None"),
        ("blurdm", "backbone", 3, "text, got 3"),
        ("blurdm", "tile", 64.5, "an integer or null, got 64.5"),
        ("exprdiff_detector", "soft_labels", "no", "true or false, got 'no'"),
    ],
)
def test_a_value_of_another_type_is_told_in_words(name, option, value, message):
    with pytest.raises(ConfigError, match=f"^model {name}: option '{option}' must be {message}$"):
        create_model(name, **{option: value})


def test_options_of_a_backbone_are_checked_too():
    with pytest.raises(ConfigError, match=r"^model stripformer: option 'width' must be an integer, got '4'$"):
        create_model("blurdm", backbone="stripformer", width="4")


@pytest.mark.parametrize("name", list_models())
def test_every_option_has_a_type_that_can_be_told(name):
    for option in model_options(name):
        with pytest.raises(ConfigError, match=f"model {name}: option '{option}' must be .*, got <object"):
            create_model(name, **{option: object()})


def test_integers_are_numbers_and_tuples_are_lists():
    options = {"dim": 4, "blocks": (1, 1, 1, 1), "refinement_blocks": 0, "heads": [1, 1, 1, 1], "expansion": 2}
    with torch.device("meta"):
        assert create_model("restormer", **options).encoder_level1[0].ffn.project_out.in_channels == 8


def test_numbers_of_numpy_are_numbers():
    options = {"dim": np.int64(4), "blocks": np.ones(4, int), "refinement_blocks": 0, "heads": [np.int32(1)] * 4}
    with torch.device("meta"):
        assert create_model("restormer", **options, expansion=np.float32(2)).patch_embed.proj.out_channels == 4
    with pytest.raises(ConfigError, match="option 'dim' must be an integer"):
        create_model("restormer", dim=np.float64(4))


def test_what_is_passed_on_unnamed_is_left_to_who_gets_it():
    def build(width: int = 1, **others: int) -> None:
        """Take a width and others."""

    assert option_names(build) == ("width",)
    check_types("net", build, {"width": 3, "others": "of any type"})


def test_networks_of_ones_own_say_for_themselves_what_they_take(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from __future__ import annotations\nimport torch\n"
        "class Net(torch.nn.Identity):\n"
        "    def __init__(self, scale: Unknown = 1):\n        super().__init__()\n        self.scale = scale\n"
    )
    assert create_model(f"{file}:Net", scale="large").scale == "large"
    with pytest.raises(ConfigError, match=r"no option 'size'\. Known: scale"):
        create_model(f"{file}:Net", size=3)
