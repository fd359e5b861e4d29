"""Which of several sources a draw is from: fixed shares, exact at any moment, without a random number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple


class Place(NamedTuple):
    """Where a draw comes from.

    Attributes
    ----------
    source : int
    position : int
        How many draws have come from this source before.
    """

    source: int
    position: int


class Mixture:
    """Sources whose pairs are numbered one source after the other.

    After n draws, a source with the share s has given n * s of them, rounded down or up; with more than one further
    source, each adds a draw at most to the difference. Where a draw comes from follows from its number alone, so
    that a run can be taken up at any draw.

    Parameters
    ----------
    counts : sequence of int
        Pairs of each source, at least one.
    shares : sequence of Fraction
        Shares of all sources but the first, which has the rest; their sum is below 1.
    """

    def __init__(self, counts: Sequence[int], shares: Sequence[Fraction] = ()) -> None:
        self.counts = tuple(counts)
        self.firsts = (0, *accumulate(self.counts[:-1]))
        # The last source is told from all others, then the one before it from the rest, down to the first. Each
        # needs its share of the draws that the sources after it leave.
        self._shares: list[tuple[int, Fraction]] = []
        left = Fraction(1)
        for source in range(len(shares), 0, -1):
            self._shares.append((source, shares[source - 1] / left))
            left -= shares[source - 1]

    def place(self, draw: int) -> Place:
        """Place of draw number `draw`, counted from 0 over the whole run."""
        for source, share in self._shares:
            before = draw * share.numerator // share.denominator
            if (draw + 1) * share.numerator // share.denominator > before:
                return Place(source, before)
            draw -= before
        return Place(0, draw)
