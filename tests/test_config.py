"""Strict configuration: what is accepted, how errors read, what the hash covers."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from relo.config import Config, apply_overrides, build_config, canonical_json, config_sha256, load_config, read_yaml
from relo.errors import ConfigError, MissingExtraError, ReloError
from relo.postprocess.steps import PostprocessConfig


class Inner(Config):
    alpha: float = Field(0.5, gt=0)
    beta: tuple[int, int] = (1, 2)


class Outer(Config):
    name: str = ""
    inner: Inner = Inner()


def test_yaml_and_overrides_are_layered(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("name: rig\ninner:\n  alpha: 2\n")
    config = load_config(Outer, file, ["inner.beta=[3, 4]", "inner.alpha=1e-3"])
    assert config == Outer(name="rig", inner=Inner(alpha=0.001, beta=(3, 4)))
    assert load_config(Outer) == Outer()


@pytest.mark.parametrize("text", ["", "# only a remark\n"])
def test_empty_file_means_defaults(tmp_path: Path, text: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert load_config(Outer, file) == Outer()


def test_unknown_key_lists_the_known_ones_on_one_line(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("inner:\n  gamma: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, file)
    message = str(caught.value)
    assert message == f"{file}: unknown key 'inner.gamma' (known here: alpha, beta)"
    with pytest.raises(ConfigError, match=r"unknown key 'innner' \(known here: inner, name\)"):
        build_config(Outer, {"innner": {}}, "x")


def test_value_error_names_key_and_value():
    with pytest.raises(ConfigError, match=r"^here: 'inner.alpha': .*greater than 0.*\(got -1\)$"):
        build_config(Outer, {"inner": {"alpha": -1}}, "here")
    with pytest.raises(ConfigError, match=r"'inner\.alpha': .*finite"):
        build_config(Outer, {"inner": {"alpha": float("nan")}}, "here")


def test_many_problems_stay_on_one_line():
    with pytest.raises(ConfigError) as caught:
        build_config(Outer, {"a": 1, "b": 1, "c": 1, "d": 1, "name": [1]}, "x")
    assert "and 2 more" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1, 2\nb: 3\n", "not valid YAML"),
        (b"- 1\n- 2\n", "holds a list"),
        (b"\xff\xfe\x00bad", "cannot be read"),
    ],
)
def test_bad_files_are_named_on_one_line(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    for path in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_config(Outer, path)
        assert str(path) in str(caught.value)


def test_a_date_is_a_wrong_value_and_no_crash(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("name: 2026-01-31\n")
    with pytest.raises(ConfigError, match="'name'"):
        load_config(Outer, file)


@pytest.mark.parametrize("override", ["alpha", "=1", "inner..alpha=1", "inner.=1", "name.x=1"])
def test_malformed_overrides(override: str):
    with pytest.raises(ConfigError, match="--set " + re.escape(override)):
        apply_overrides({"name": "rig"}, [override])


def test_override_error_names_the_override():
    with pytest.raises(ConfigError, match=r"--set inner\.alpha=no: 'inner\.alpha'"):
        load_config(Outer, None, ["inner.alpha=no"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        apply_overrides({}, ["a=[1"])


def test_overrides_leave_their_input_alone():
    values = {"inner": {"beta": [1, 2]}}
    result = apply_overrides(values, ["inner.alpha=1", "inner.beta=[5, 6]"])
    assert values == {"inner": {"beta": [1, 2]}}
    assert result == {"inner": {"beta": [5, 6], "alpha": 1}}


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text("abcd", min_size=1, max_size=3),
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aü\n ") | st.booleans(),
    )
)
def test_canonical_json_is_json_and_ignores_order(values: dict):
    text = canonical_json(values)
    assert json.loads(text) == values
    assert canonical_json(dict(reversed(values.items()))) == text
    assert "\n" not in text


def test_hash_follows_values_and_not_their_spelling():
    same = [{}, {"develop": {"output_scale": 1}}, {"colour": {"degree": 3}, "gain": {}}]
    hashes = {config_sha256(build_config(PostprocessConfig, values, "x")) for values in same}
    assert len(hashes) == 1
    assert config_sha256(build_config(PostprocessConfig, {"colour": {"degree": 4}}, "x")) not in hashes


def test_resolved_config_is_a_valid_input():
    config = build_config(PostprocessConfig, {"warp": {"light": "linear"}, "develop": {"output_scale": 0.5}}, "x")
    again = build_config(PostprocessConfig, json.loads(canonical_json(config.model_dump(mode="json"))), "x")
    assert again == config


def test_configs_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "other"  # type: ignore[misc]


def test_errors_read_file_reason_advice():
    assert (
        str(ReloError("is empty", file="a/b.dng", advice="Copy it again.")) == "a/b.dng: is empty. Copy it again."
    )
    assert str(ReloError("is empty")) == "is empty"
    missing = str(MissingExtraError("lightning", "train"))
    assert "lightning" in missing
    assert "relo[train]" in missing
