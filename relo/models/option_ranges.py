"""Ranges of options that several networks have."""

from __future__ import annotations

from collections.abc import Sequence

# A damaged number of blocks is refused instead of being built for hours; the most that was published is 28.
MOST_BLOCKS = 256


def check_blocks(least: int, **counts: int | Sequence[int]) -> None:
    """Refuse numbers of blocks that are not in [least, 256].

    Parameters
    ----------
    least : int
    **counts : int or sequence of int
        By the name of the option, one number or one for each stage.

    Raises
    ------
    ValueError
    """
    for option, count in counts.items():
        numbers = [count] if isinstance(count, int) else count
        if not all(least <= number <= MOST_BLOCKS for number in numbers):
            raise ValueError(f"{option} must be {least} to {MOST_BLOCKS}, got {count}")


def check_heads(heads: Sequence[int], channels: int) -> None:
    """Refuse numbers of attention heads among which the channels of a scale cannot be shared out evenly.

    Parameters
    ----------
    heads : sequence of int
        Of each scale, fine to coarse.
    channels : int
        Of the finest scale; each further one has twice as many.

    Raises
    ------
    ValueError
    """
    if not all(number >= 1 and (channels << scale) % number == 0 for scale, number in enumerate(heads)):
        raise ValueError(f"heads {heads!r} do not divide {channels} channels, doubled at each scale")
