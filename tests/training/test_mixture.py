"""Where draws come from: exact shares at any moment, every source in its own order."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relo.training.mixture import Mixture


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.integers(1, 40), min_size=1, max_size=4), more=st.integers(1, 40))
def test_shares_are_exact_and_positions_have_no_gaps(parts, more):
    whole = sum(parts) + more
    shares = [Fraction(part, whole) for part in parts]
    mixture = Mixture([3] * (len(parts) + 1), shares)
    given_so_far = [0] * (len(parts) + 1)
    for draw in range(3 * whole):
        source, position = mixture.place(draw)
        assert position == given_so_far[source], "the draws of a source are numbered without gaps"
        given_so_far[source] += 1
        for number, share in enumerate([1 - sum(shares), *shares]):
            assert abs(given_so_far[number] - share * (draw + 1)) < len(parts)
    assert given_so_far == [3 * more, *(3 * part for part in parts)]


def test_one_half_alternates():
    mixture = Mixture([5, 7], [Fraction(1, 2)])
    assert [mixture.place(draw).source for draw in range(6)] == [0, 1, 0, 1, 0, 1]
    assert mixture.firsts == (0, 5)


def test_a_share_that_has_no_exact_binary_number_is_exact_after_a_billion_draws():
    mixture = Mixture([5, 7], [Fraction("0.1")])
    assert mixture.place(10**9 - 1) == (1, 10**8 - 1)
    assert mixture.place(10**9) == (0, 9 * 10**8)


def test_one_source_gives_every_draw():
    assert [tuple(Mixture([4]).place(draw)) for draw in range(3)] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_no_batch_is_far_from_its_share(batch):
    mixture = Mixture([9, 9], [Fraction(1, 2)])
    for step in range(20):
        drawn = [mixture.place(draw).source for draw in range(step * batch, (step + 1) * batch)]
        assert sum(drawn) in (batch // 2, -(-batch // 2))
