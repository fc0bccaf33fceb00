"""Ranges of time: what cutting and joining them leaves, compared with sets of single instants."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billable_metrics.timeline import Range, intersect, join_up, steps_around, subtract, union

END = 40
RANGES = st.lists(
    st.tuples(st.integers(0, END), st.integers(0, END)).filter(lambda each: each[0] < each[1]), max_size=8
)


def instants(ranges: list[Range]) -> set[int]:
    return {each for start, end in ranges for each in range(start, end)}


def check(ranges: list[Range]) -> None:
    """Sorted, disjoint, not empty."""
    assert all(start < end for start, end in ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


@given(RANGES, RANGES)
def test_ranges_are_sets_of_instants(left: list[Range], right: list[Range]) -> None:
    ours, theirs = union(left), union(right)
    check(ours)
    assert instants(ours) == instants(left)
    assert instants(intersect(ours, theirs)) == instants(left) & instants(right)
    assert instants(subtract(ours, theirs)) == instants(left) - instants(right)
    check(intersect(ours, theirs))
    check(subtract(ours, theirs))


@given(RANGES, RANGES, st.integers(1, 4))
def test_joining_up_stays_inside(left: list[Range], right: list[Range], most: int) -> None:
    whole = union(left)
    ranges = intersect(union(right), whole)
    joined = join_up(ranges, whole, most)
    check(joined)
    assert instants(ranges) <= instants(joined) <= instants(whole)
    assert len(joined) <= max(most, len(whole))
    assert len(joined) == len(ranges) or len(ranges) > most


def test_the_shortest_gaps_are_filled() -> None:
    assert join_up([(0, 1), (9, 10), (12, 13)], [(0, 40)], 2) == [(0, 1), (9, 13)]
    assert join_up([(0, 1), (9, 10), (12, 13)], [(0, 11), (12, 40)], 2) == [(0, 10), (12, 13)]


def test_the_steps_that_an_edge_cuts() -> None:
    assert list(steps_around([-5, 0, 7, 10, 13], 10)) == [(-10, 0), (0, 10), (10, 20)]
