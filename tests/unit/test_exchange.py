"""Rule 1: records survive packing and cutting, and any history of sends is taken exactly once, in order."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.errors import PartitionHalted
from rollup_engine.exchange import HOLE_MS_MAX, Marks, Packed, accept, pack, unpack


def packed(start: int, end: int, rows: list[int] | None = None, source: str = "raw/0", text: str = "") -> Packed:
    offsets = list(range(start, end)) if rows is None else rows
    frame = pl.DataFrame(
        {"offset": pl.Series(offsets, dtype=pl.Int64), "text": pl.Series([text] * len(offsets), dtype=pl.String)}
    )
    return Packed("life", 3, source, start, end, 99, {"event:e": frame})


def test_what_is_packed_is_unpacked() -> None:
    one = packed(5, 9, text="x")
    (value,) = pack(one)
    again = unpack(value)
    assert again.tables["event:e"].equals(one.tables["event:e"])
    assert (again.incarnation, again.generation, again.source) == ("life", 3, "raw/0")
    assert (again.start, again.end, again.clock_ms) == (5, 9, 99)


def test_a_record_without_rows_still_covers() -> None:
    (value,) = pack(packed(5, 9, rows=[]))
    assert (unpack(value).start, unpack(value).end, unpack(value).rows) == (5, 9, 0)


@given(rows=st.lists(st.integers(0, 30), unique=True).map(sorted), limit=st.integers(200, 3000))
def test_a_large_record_is_cut_without_gap_or_overlap(rows: list[int], limit: int) -> None:
    values = [unpack(value) for value in pack(packed(0, 31, rows=rows, text="some text"), limit)]
    assert values[0].start == 0
    assert values[-1].end == 31
    assert values[-1].clock_ms == 99
    for one, following in zip(values, values[1:], strict=False):
        assert one.end == following.start
    found = []
    for one in values:
        for frame in one.tables.values():
            assert all(one.start <= offset < one.end for offset in frame["offset"])
            found += frame["offset"].to_list()
    assert found == rows


@given(st.binary(max_size=300))
def test_foreign_bytes_halt_and_say_so(value: bytes) -> None:
    with pytest.raises(PartitionHalted, match="did not write"):
        unpack(value)


def test_another_version_halts() -> None:
    (value,) = pack(packed(0, 1))
    with pytest.raises(PartitionHalted):
        unpack(b"\x02" + value[1:])


def test_accept() -> None:
    assert accept(5, 6, 9) is None
    for start, end, mark in ((5, 9, 9), (2, 9, 9), (2, 4, 5), (5, 5, 5)):
        taken = accept(5, start, end)
        assert taken is not None
        assert (taken.cut, taken.mark) == (5, mark)


sends = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=30)


@given(history=sends, reads=st.lists(st.integers(1, 5), max_size=30))
def test_any_history_of_sends_is_taken_once_and_in_order(history: list[tuple[int, int]], reads: list[int]) -> None:
    """Repeats, other cuts, zombies that run ahead; at the end the live sender has sent everything from the start."""
    log = [packed(start, start + length) for start, length in history] + [packed(0, 20)]
    marks, taken, at = Marks({"raw/0": 0}), list[int](), 0
    position = 0
    for step in [*reads, len(log)]:
        batch = list(enumerate(log))[at : at + step]
        at += len(batch)
        ready, position = marks.admit(batch, at)
        for _, one in ready:
            verdict = marks.take(one.source, one.start, one.end)
            if verdict is not None:  # else a later record, admitted with it, covers all of this one
                taken += [offset for offset in one.tables["event:e"]["offset"] if offset >= verdict.cut]
    assert taken == list(range(20))
    assert position == len(log)


@given(history=sends, crash_after=st.integers(0, 30))
def test_a_restart_at_the_position_given_takes_the_same(history: list[tuple[int, int]], crash_after: int) -> None:
    log = [packed(start, start + length) for start, length in history] + [packed(0, 20)]
    marks, taken = Marks({"raw/0": 0}), list[int]()

    def run(batch: list[tuple[int, Packed]], end: int) -> int:
        ready, position = marks.admit(batch, end)
        for _, one in ready:
            verdict = marks.take(one.source, one.start, one.end)
            if verdict is not None:
                taken.extend(offset for offset in one.tables["event:e"]["offset"] if offset >= verdict.cut)
        return position

    read = min(crash_after, len(log))
    position = run(list(enumerate(log))[:read], read)
    marks = Marks(marks.by_source)  # what the sink holds; what waited is read again
    run(list(enumerate(log))[position:], len(log))
    assert taken == list(range(20))


def test_a_hole_that_stays_open_is_an_alarm() -> None:
    marks = Marks({"raw/0": 0, "raw/1": 4})
    ready, position = marks.admit([(7, packed(2, 3)), (8, packed(4, 5, source="raw/1"))], 9)
    assert (ready, position) == ([], 7)
    marks.watch("events/0", 1000)
    marks.watch("events/0", 1000 + HOLE_MS_MAX)
    with pytest.raises(PartitionHalted, match="raw/0 from offset 0"):
        marks.watch("events/0", 1001 + HOLE_MS_MAX)


def test_a_hole_that_closes_is_none() -> None:
    marks = Marks({"raw/0": 0})
    marks.admit([(7, packed(2, 3))], 8)
    marks.watch("events/0", 0)
    ready, position = marks.admit([(8, packed(0, 3))], 9)
    assert len(ready) == 2
    assert position == 9
    marks.watch("events/0", 10 * HOLE_MS_MAX)
