"""Rule 1: packed records, marks, and what waits at a hole."""

import asyncio
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine import exchange
from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.exchange import HOLE_MS_MAX, Marks, accept, send, send_to_all
from rollup_engine.packing import Packed, unpack
from rollup_engine.runtime.memory import MemoryLog

# ------------------------------------------------------------------------------------------------------------- marks

Covers = tuple[str, int, int]  # source, start, end


def naive(records: list[Covers], first: int) -> tuple[dict[int, list[tuple[str, int]]], int]:
    """What each record of a log comes to, by its place, and up to which place no hole is open. One row an offset."""
    marks: dict[str, int] = {}
    owed: dict[str, int] = {}
    taken: dict[int, list[tuple[str, int]]] = {}
    whole = 0
    for place, (source, start, end) in enumerate(records):
        mark = marks.setdefault(source, first)
        if start > mark:
            owed[source] = max(owed.get(source, 0), end)
        else:
            taken[place] = [(source, offset) for offset in range(max(start, mark), end)]
            marks[source] = max(mark, end)
            if marks[source] >= owed.get(source, 0):
                owed.pop(source, None)
        if not owed:
            whole = place + 1
    return {place: rows for place, rows in taken.items() if place < whole}, whole


def covers_lists() -> st.SearchStrategy[list[Covers]]:
    one = st.tuples(st.sampled_from("ab"), st.integers(5, 12), st.integers(0, 5))
    return st.lists(one.map(lambda c: (c[0], c[1], c[1] + c[2])), max_size=25)


@given(covers_lists(), st.data())
def test_every_row_is_taken_once_and_never_past_a_hole(records: list[Covers], data: st.DataObject) -> None:
    """Whatever was repeated, cut differently, sent by a zombie or lost; and wherever the receiver starts anew."""
    marks, position = Marks({"a": 5, "b": 5}), 0
    read_to = 0
    taken: dict[int, list[tuple[str, int]]] = {}
    while read_to < len(records):
        upto = data.draw(st.integers(read_to + 1, len(records)))
        batch = [(place, Packed("", 1, *records[place], 0)) for place in range(read_to, upto)]
        read_to = upto
        ready, position = marks.admit(batch, upto)
        for place, packed in ready:
            before = marks.by_source[packed.source]
            one = marks.take(packed.source, packed.start, packed.end)
            if one is not None:
                assert one.cut == before
                taken[place] = [(packed.source, o) for o in range(max(packed.start, one.cut), packed.end)]
        if data.draw(st.booleans()):  # a crash after the advance: positions and marks are what the sink holds
            marks, read_to = Marks(marks.by_source), position
    expected, whole = naive(records, 5)
    assert {place: rows for place, rows in taken.items() if rows} == {p: rows for p, rows in expected.items() if rows}
    assert position == whole or not records
    rows = Counter(row for rows in taken.values() for row in rows)
    assert set(rows.values()) <= {1}
    for source in "ab":
        assert {offset for name, offset in rows if name == source} == set(range(5, marks.by_source[source]))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_accept(mark: int, start: int, length: int) -> None:
    taken = accept(mark, start, start + length)
    if start > mark:
        assert taken is None
    else:
        assert taken is not None
        assert (taken.cut, taken.mark) == (mark, max(mark, start + length))


def record(source: str, start: int, end: int, rows: int = 0) -> Packed:
    tables = {"t": pl.DataFrame({"offset": [start] * rows})} if rows else {}
    return Packed("", 1, source, start, end, 0, tables)


def test_a_hole_that_stays_open_is_an_alarm_that_names_it() -> None:
    marks = Marks({"raw/0": 3, "raw/1": 0})
    ready, position = marks.admit([(7, record("raw/1", 0, 2)), (8, record("raw/0", 5, 9))], 9)
    assert ([place for place, _ in ready], position) == ([7], 8)
    marks.watch("events/0", 1_000)
    marks.watch("events/0", 1_000 + HOLE_MS_MAX)
    with pytest.raises(PartitionHalted, match=r"events/0 lacks .* raw/0 from offset 3"):
        marks.watch("events/0", 1_001 + HOLE_MS_MAX)


def test_a_hole_that_closes_in_time_is_none() -> None:
    marks = Marks({"raw/0": 3})
    assert marks.admit([(8, record("raw/0", 5, 9))], 9) == ([], 8)
    marks.watch("events/0", 0)
    assert marks.admit([(9, record("raw/0", 3, 5))], 10)[1] == 8, "what was refused, up to 9, is not there yet"
    ready, position = marks.admit([(10, record("raw/0", 5, 9))], 11)
    assert ([place for place, _ in ready], position) == ([8, 9, 10], 11)
    marks.watch("events/0", 2 * HOLE_MS_MAX)
    assert marks.admit([(11, record("raw/0", 12, 13))], 12) == ([], 11)
    marks.watch("events/0", 3 * HOLE_MS_MAX)  # another hole, with a time of its own


def test_what_waits_at_a_hole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "WAITING_ROWS_MAX", 10)
    marks = Marks({"raw/0": 0})
    marks.admit([(0, record("raw/0", 1, 2, rows=10))], 1)
    marks.watch("events/0", 0)
    marks.admit([(1, record("raw/0", 2, 3, rows=1))], 2)
    with pytest.raises(PartitionHalted):
        marks.watch("events/0", 0)


# ----------------------------------------------------------------------------------------------------------- sending


class SlowLog(MemoryLog):
    """Records how appends overlap; fails where told to."""

    def __init__(self, fails_at: tuple[int, bytes] | None = None) -> None:
        super().__init__()
        self.open: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self.together = 0
        self._fails_at = fails_at

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        self.open[partition] += 1
        self.most[partition] = max(self.most[partition], self.open[partition])
        self.together = max(self.together, self.open.total())
        await asyncio.sleep(0)
        self.open[partition] -= 1
        if (partition, value) == self._fails_at:
            raise BrokerUnavailable("no answer")
        return await super().append(topic, partition, value)


async def values(log: MemoryLog, topic: str, partition: int) -> list[bytes | None]:
    return [found.value for found in log.read(topic, partition, 0, 1_000)]


async def test_one_unacknowledged_record_a_destination_all_destinations_side_by_side() -> None:
    log = SlowLog()
    await log.create("t", 3, {})
    await send(log, "t", {to: [b"1", b"2", b"3"] for to in range(3)})
    assert [await values(log, "t", to) for to in range(3)] == [[b"1", b"2", b"3"]] * 3
    assert (set(log.most.values()), log.together) == ({1}, 3)


async def test_nothing_is_sent_to_a_destination_after_a_failure_and_the_failure_is_raised_as_it_was() -> None:
    log = SlowLog(fails_at=(1, b"2"))
    await log.create("t", 2, {})
    with pytest.raises(BrokerUnavailable, match="no answer"):
        await send(log, "t", {to: [b"1", b"2", b"3"] for to in range(2)})
    assert await values(log, "t", 1) == [b"1"]
    sent = await values(log, "t", 0)
    assert sent == [b"1", b"2", b"3"][: len(sent)]


async def test_every_destination_gets_a_record_rows_or_not() -> None:
    log = MemoryLog()
    await log.create("t", 3, {})
    frame = pl.DataFrame({"offset": [4, 5]})
    await send_to_all(log, "t", 3, Packed("life", 1, "raw/0", 4, 6, 9), {1: {"event:a": frame}})
    found = [[unpack(value or b"") for value in await values(log, "t", to)] for to in range(3)]
    assert [len(one) for one in found] == [1, 1, 1]
    assert [(one[0].start, one[0].end, one[0].rows, one[0].clock_ms) for one in found] == [
        (4, 6, 0, 9),
        (4, 6, 2, 9),
        (4, 6, 0, 9),
    ]
