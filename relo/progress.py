"""How long work tells that it gets on."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what) after each item."""
