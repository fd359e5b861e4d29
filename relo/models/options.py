"""Options of networks, told by the signature of what builds them: their names and the types of their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from relo.errors import ConfigError

_ONE = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_SEVERAL = {int: "integers", float: "numbers"}


def option_names(build: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the options that a class or function takes, without those that it passes on unnamed."""
    parameters = inspect.signature(build).parameters.items()
    return tuple(key for key, parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)


def check_names(model: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that there are not.

    Parameters
    ----------
    model : str
        Name of the network, for the message.
    build : callable
        Class or function that builds it. Where that passes options on, as to the backbone of blurdm, they are
        refused there.
    options : mapping of str to value

    Raises
    ------
    ConfigError
        A name is unknown; the known ones are given.
    """
    known = option_names(build)
    unknown = [key for key in options if key not in known]
    if unknown and len(known) == len(inspect.signature(build).parameters):
        raise ConfigError(f"model {model} has no option '{unknown[0]}'", advice=f"Known: {', '.join(known)}.")


def check_types(model: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse values of another type than the annotation of their option; ranges are checked by the networks.

    "3" and 3.0 are no integers, and true is no number. An integer is a number, lists, tuples, ranges and arrays are
    sequences, and numbers of numpy are numbers.

    Parameters
    ----------
    model, build, options
        As in `check_names`.

    Raises
    ------
    ConfigError
    """
    for key, parameter in inspect.signature(build, eval_str=True).parameters.items():
        if key in options and parameter.kind is not parameter.VAR_KEYWORD:
            try:
                TypeAdapter(parameter.annotation).validate_python(_plain(options[key]), strict=True)
            except ValidationError as error:
                wanted = _described(parameter.annotation)
                reason = f"model {model}: option '{key}' must be {wanted}, got {options[key]!r}"
                raise ConfigError(reason) from error


def _plain(value: Any) -> Any:
    """Numbers and sequences of numpy and torch, which do as well, as those of Python."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, list | tuple | range) else value


def _described(annotation: Any) -> str:
    """Say what values an annotation allows: "an integer", "'code' or 'paper'", "a list of integers"."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return " or ".join(map(repr, arguments))
    if kind in (Union, UnionType):
        return " or ".join(map(_described, arguments))
    if kind is Sequence:
        return f"a list of {_SEVERAL[arguments[0]]}"
    return _ONE[annotation]
