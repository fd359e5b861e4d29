"""How far camera S's clock is ahead of camera B's: the offset under which most files find one partner.

Conventions: times are int64 [ns]; offset = clock S - clock B, so that `sharp` and `blur + offset` agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from relo.capture.ingest.timestamps import SECOND
from relo.errors import CaptureError

# Differences looked at: beyond this many (2000 x 2000 files) camera B's times are thinned out for the search.
_MOST_DIFFERENCES = 4_000_000
_CANDIDATES = 60

# Offsets named in a message about too many of them.
_LISTED = 4

# Fewer pairs agree on some offset by chance.
_FEWEST_PAIRS = 3
# An offset that explains all but this share of the pairs of the best one, or this many standard deviations of
# chance less, is as good as the best one ...
_ABOUT_EQUAL = 0.1
_FEW = 4
_CHANCE = 3
# ... unless its spread is that much larger, over enough pairs.
_CLEARLY_WIDER = 3
_ENOUGH_PAIRS = 20


class Partners(NamedTuple):
    """Positions of files that have exactly one partner, each other's."""

    blur: np.ndarray
    sharp: np.ndarray


@dataclass(frozen=True)
class ClockOffset:
    """What the two clocks say about each other.

    Attributes
    ----------
    offset_ns : int
        Clock S minus clock B [ns].
    pairs : int
        Pairs that agree with it within the tolerance.
    spread_ns : int
        Two thirds of them (68 %) agree better than this [ns].
    largest_ns : int
        The worst one's distance from the offset [ns].
    drift_ns : int
        How much clock S gains on clock B from the first pair to the last [ns], by a straight line.
    given : bool
        By the user, not found.
    """

    offset_ns: int
    pairs: int
    spread_ns: int
    largest_ns: int = 0
    drift_ns: int = 0
    given: bool = False


def partners(blur: np.ndarray, sharp: np.ndarray, offset: int, tolerance: int) -> Partners:
    """Pairs without doubt: each is the only one within the tolerance of the other.

    Parameters
    ----------
    blur, sharp : (n,), (m,) int64 arrays
        Sorted times [ns].
    offset, tolerance : int
        [ns]; a distance equal to the tolerance counts.

    Returns
    -------
    Partners
        Positions in `blur` and `sharp`, in the order of time.
    """
    first, end = candidates(blur, sharp, offset, tolerance)
    back_first, back_end = candidates(sharp, blur, -offset, tolerance)
    alone = np.flatnonzero(end - first == 1)
    other = first[alone]
    mutual = (back_end - back_first)[other] == 1
    return Partners(alone[mutual], other[mutual])


def candidates(times: np.ndarray, others: np.ndarray, offset: int, tolerance: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `times` the range first..end of those `others` that lie within the tolerance of it."""
    first = np.searchsorted(others, times + (offset - tolerance), side="left")
    return first, np.searchsorted(others, times + (offset + tolerance), side="right")


def measure(blur: np.ndarray, sharp: np.ndarray, offset: int, tolerance: int, *, given: bool) -> ClockOffset:
    """How well `offset` explains the sorted times."""
    found = partners(blur, sharp, offset, tolerance)
    rest = sharp[found.sharp] - blur[found.blur] - offset
    if not rest.size:
        return ClockOffset(offset, 0, 0, given=given)
    size = np.abs(rest)
    drift = 0.0
    span = float(blur[found.blur[-1]] - blur[found.blur[0]])
    if rest.size > 2 and span > 0:
        x = (blur[found.blur] - blur[found.blur[0]]) / span
        drift = float(np.polyfit(x, rest, 1)[0])
    spread = int(np.percentile(size, 68, method="higher"))
    return ClockOffset(offset, int(rest.size), spread, int(size.max()), round(drift), given)


def find_offset(blur: np.ndarray, sharp: np.ndarray, tolerance: int) -> ClockOffset:
    """The offset with most pairs; among about as many, the smallest spread.

    Parameters
    ----------
    blur, sharp : (n,), (m,) int64 arrays
        Sorted times [ns], neither empty.
    tolerance : int
        [ns]

    Raises
    ------
    CaptureError
        Several offsets explain the times about equally well, as where the frames come periodically; or no
        offset gives three pairs without doubt, as where they come faster than the tolerance.
    """
    # Below what the clocks resolve a spread says nothing.
    whole = not (blur % SECOND).any() or not (sharp % SECOND).any()
    resolution = SECOND if whole else SECOND // 200

    def width(one: ClockOffset) -> int:
        return max(one.spread_ns, resolution)

    def best_of(group: Iterable[ClockOffset]) -> ClockOffset:
        return min(group, key=lambda one: (width(one), -one.pairs, one.spread_ns, one.offset_ns))

    tried = {near for offset in _search(blur, sharp, tolerance) for near in _around(blur, sharp, offset, tolerance)}
    measured = [measure(blur, sharp, offset, tolerance, given=False) for offset in sorted(tried)]
    measured = sorted((one for one in measured if one.pairs), key=lambda one: (-one.pairs, one.spread_ns))
    if not measured:
        raise CaptureError(
            "the clock offset cannot be found: whatever it is, every file has several partners within "
            f"{tolerance / SECOND:g} s, or none",
            advice="Give a --tolerance below half the interval between frames, or pair by name or CSV.",
        )
    files = max(blur.size, sharp.size)
    # Offsets less than the tolerance apart mean the same pairs.
    peaks: list[list[ClockOffset]] = []
    for one in measured:
        near = next((peak for peak in peaks if abs(peak[0].offset_ns - one.offset_ns) <= tolerance), None)
        if near is None:
            peaks.append([one])
        elif one.pairs >= max(_FEWEST_PAIRS, _enough(near[0].pairs, files)):
            near.append(one)
    most = measured[0].pairs
    if most < _FEWEST_PAIRS:
        raise CaptureError(
            f"the clock offset cannot be found: no more than {most} pairs agree on one, {_FEWEST_PAIRS} are needed",
            advice="Give it with --offset SECONDS (clock S minus clock B), or pair by name or CSV.",
        )
    enough = _enough(most, files)
    rivals = [best_of(peak) for peak in peaks if peak[0].pairs >= enough]
    best = best_of(rivals)
    equal = [
        one
        for one in rivals
        if min(one.pairs, best.pairs) < _ENOUGH_PAIRS or width(one) < _CLEARLY_WIDER * width(best)
    ]
    if len(equal) > 1:
        raise _ambiguous(equal)
    return best


def _ambiguous(equal: list[ClockOffset]) -> CaptureError:
    listed = ", ".join(
        f"{one.offset_ns / SECOND:+.3f} s ({one.pairs} pairs, spread {one.spread_ns / SECOND:.3f} s)"
        for one in equal[:_LISTED]
    )
    more = f" and {len(equal) - _LISTED} more" if len(equal) > _LISTED else ""
    return CaptureError(
        f"the clock offset is ambiguous, as where frames come periodically: {listed}{more} explain the times about "
        "equally well",
        advice="Give the true one with --offset SECONDS (clock S minus clock B), try a smaller --tolerance, or "
        "pair by name or CSV.",
    )


def _enough(most: int, files: int) -> int:
    """Pairs that make an offset about as good as one that pairs `most` of `files` files.

    A share less is as good, for a frame lost here and there costs an offset that much. Where hardly a file is
    left over, a few pairs less tell already: scenes of periodic frames agree on their pauses only once. Where
    many are missing, the number of pairs at any offset is a matter of chance, of about its square root.
    """
    left = files - most
    share = min(_ABOUT_EQUAL * most, _FEW + 3 * left)
    return max(2, most - max(1, round(share), round(_CHANCE * left / files * most**0.5)))


def _search(blur: np.ndarray, sharp: np.ndarray, tolerance: int) -> list[int]:
    """Offsets worth trying: where many differences sharp - blur lie close together.

    The wide window sees clocks of whole seconds, whose differences fall on two neighbouring seconds; the
    narrow one finds the peak among many chance agreements.
    """
    room = max(1, _MOST_DIFFERENCES // sharp.size)
    if blur.size > room:
        blur = blur[np.linspace(0, blur.size - 1, room).round().astype(np.int64)]
    differences = np.sort((sharp[np.newaxis, :] - blur[:, np.newaxis]).ravel())
    offsets: list[int] = []
    for width in (2 * tolerance, tolerance // 4):
        end = np.searchsorted(differences, differences + width, side="right")
        counts = end - np.arange(differences.size)
        # The fullest window in each stretch of one width, then the fullest stretches.
        bins = (differences - differences[0]) // max(1, width)
        starts = np.flatnonzero(np.r_[True, bins[1:] != bins[:-1]])
        fullest = np.maximum.reduceat(counts, starts)
        for stretch in np.argsort(-fullest, kind="stable")[:_CANDIDATES]:
            stop = starts[stretch + 1] if stretch + 1 < starts.size else differences.size
            left = starts[stretch] + int(np.argmax(counts[starts[stretch] : stop]))
            offsets.append(int(differences[left] + differences[end[left] - 1]) // 2)
    return sorted(set(offsets))


def _around(blur: np.ndarray, sharp: np.ndarray, offset: int, tolerance: int) -> list[int]:
    """`offset`, and the median and the middle of the differences that agree with it."""
    found = partners(blur, sharp, offset, tolerance)
    if not found.blur.size:
        return [offset]
    rest = np.sort(sharp[found.sharp] - blur[found.blur])
    return [offset, int(rest[rest.size // 2]), int(rest[0] + rest[-1]) // 2]
