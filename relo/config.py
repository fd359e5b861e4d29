"""Frozen, strict configuration: YAML file, `--set key=value` overrides, canonical hash.

A configuration is a tree of pydantic models; a stage's model lives beside the stage it configures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from relo.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", file=path, advice="Give a readable YAML file.") from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply", file=path, advice="Mend it.") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"is not valid YAML ({' '.join(str(error).split())})", file=path, advice="Mend it."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"holds a {type(content).__name__}, expected 'key: value' lines", file=path)
    return content


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with `stage.key=value` strings applied; the right side is read as YAML."""
    result = deepcopy(dict(values))
    for override in overrides:
        dotted, separator, text = override.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not separator or not all(keys):
            raise ConfigError(f"--set {override}: expected stage.key=value, as in shards.bits=16")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML.") from error
        node = result
        for key in keys[:-1]:
            child = {} if node.get(key) is None else node[key]
            node[key] = child
            if not isinstance(child, dict):
                raise ConfigError(f"--set {override}: '{key}' is a value, not a group of settings.")
            node = child
        node[keys[-1]] = value
    return result


def build_config(kind: type[C], values: Mapping[str, Any], origin: str) -> C:
    """Validate `values` as a `kind`; an error names `origin`, the key and the known keys.

    A key without a value (a YAML group whose lines are all commented out) counts as not given.
    """
    try:
        return kind.model_validate(_without_empty(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {describe_validation_error(kind, error)}") from error


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_empty(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def load_config(
    kind: type[C],
    path: Path | None = None,
    overrides: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
) -> C:
    """Defaults, then the YAML file `path`, then `--set` overrides, then what is `given` by options of its own."""
    values = read_yaml(path) if path else {}
    overrides = list(overrides)
    origin = str(path) if path else "configuration"
    if overrides:
        origin += " with " + " ".join(f"--set {override}" for override in overrides)
    return build_config(kind, merged(apply_overrides(values, overrides), given or {}), origin)


def merged(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those `given` in their place, group by group."""
    result = dict(values)
    for key, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result


def describe_validation_error(kind: type[BaseModel], error: ValidationError) -> str:
    """One line for the first few problems of a pydantic error; an unknown key lists its known siblings."""
    parts = []
    problems = error.errors()
    for problem in problems[:3]:
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_fields_at(kind, problem["loc"][:-1]))
            parts.append(f"unknown key '{where}'" + (f" (known here: {known})" if known else ""))
        elif not problem["loc"]:  # a rule about several settings: the input is all of them
            parts.append(problem["msg"].removeprefix("Value error, "))
        else:
            parts.append(f"'{where}': {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})")
    if len(problems) > 3:
        parts.append(f"and {len(problems) - 3} more")
    return "; ".join(parts)


def _fields_at(kind: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = kind.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return sorted(kind.model_fields)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_sha256(config: Config) -> str:
    """Hash of everything in `config`: put into it only what changes the result."""
    return hashlib.sha256(canonical_json(config.model_dump(mode="json")).encode()).hexdigest()
