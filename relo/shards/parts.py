"""Divide the scenes of a session among the jobs of an array: disjoint, complete, and the same for each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from relo.errors import ConfigError

Part = tuple[int, int]


def parse_part(text: str) -> Part:
    """Read "2/8" as (2, 8): part 2 of 8, counted from 1.

    Raises
    ------
    ConfigError
        The text is something else, or there is no such part.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if match is None:
        raise ConfigError(f"--part {text}: expected i/n, as in 1/8")
    part = int(match[1]), int(match[2])
    check_part(part)
    return part


def check_part(part: Part) -> None:
    """Raise a ConfigError unless 1 <= i <= n."""
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f"--part {part[0]}/{part[1]}: the parts are 1/{part[1]} to {part[1]}/{part[1]}")


def scenes_of_part(pairs: Mapping[str, int], part: Part) -> set[str]:
    """Scenes that part i of n works on; about as many pairs for each part.

    Parameters
    ----------
    pairs : mapping of scene -> number of its pairs
    part : (i, n)
    """
    index, count = part
    loads = [0] * count
    mine = set()
    for scene in sorted(pairs, key=lambda scene: (-pairs[scene], scene)):
        lightest = loads.index(min(loads))
        loads[lightest] += max(1, pairs[scene])
        if lightest == index - 1:
            mine.add(scene)
    return mine
