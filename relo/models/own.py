"""Networks of the user's own: a class or function in a Python file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relo.errors import ConfigError


def read_own(file: Path, name: str) -> Callable[..., Any]:
    """Execute a Python file and return what it calls `name`.

    Only ever called with a file that the user has named; a checkpoint cannot make relo execute one.

    Raises
    ------
    ConfigError
        The file fails, or has no callable of that name.
    """
    # By its full path in sys.modules: classes look themselves up there, and another file may have the same name.
    module_name = f"relo_own_{file.resolve()!s}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ConfigError("is no Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        sys.modules.pop(module_name, None)
        raise ConfigError(f"cannot be executed ({type(error).__name__}: {error})", file=file) from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"has no class or function '{name}'", file=file, advice=f"Found: {', '.join(public)}.")
    return found
