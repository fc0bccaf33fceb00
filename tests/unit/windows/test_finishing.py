"""Closed windows are finished: one more partial per group, final, once, whatever stops the partition on the way."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.config.model import Config
from rollup_engine.progress import ROLLUP, Position
from rollup_engine.windows import stage as windows_stage
from tests.unit.windows.bench import CONFIG, EMIT_EVERY_MS, GENERATION, SOURCE, Bench, deltas

GRACE_MS = 10  # and windows of 1,000


@pytest.fixture
async def bench() -> Bench:
    """Groups `a` and `b` in the windows at 0 and 1,000, emitted."""
    bench = Bench()
    await bench.start()
    await bench.take(deltas(0, 1, "a", "b"), deltas(1, 2, "a", window_ms=1_000))
    await bench.emit()
    assert len(bench.rows()) == 3
    return bench


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_stage, "FINISH_ROWS_MAX", 1)


async def test_a_window_is_finished_once_and_not_before_the_watermark_says_so(bench: Bench) -> None:
    bench.upstream(1_000 + GRACE_MS - 1)
    await bench.emit()
    assert bench.finals() == []
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    assert bench.finals() == [(0, "a", 1, GENERATION + 2), (0, "b", 1, GENERATION + 2)]
    assert bench.rows()[-2:] == [("a", 1, "5", GENERATION + 2), ("b", 1, "5", GENERATION + 2)]
    for _ in range(3):
        await bench.emit()
    assert len(bench.rows()) == 5
    bench.upstream(2_000 + GRACE_MS)
    await bench.emit()
    assert bench.finals()[2:] == [(1_000, "a", 1, GENERATION + 3)]


async def test_not_before_all_that_the_watermark_knows_is_in_the_totals(bench: Bench) -> None:
    bench.upstream(1_000 + GRACE_MS, routed=9, judged=8, to=2)
    await bench.emit()
    bench.upstream(1_000 + GRACE_MS, routed=9, judged=9, to=3)  # and that is in deltas not yet here
    await bench.emit()
    await bench.emit()
    assert bench.finals() == []
    await bench.take(deltas(2, 3, "a"))
    await bench.partition.tick()
    assert bench.finals() == [], "taken in, but not yet emitted"
    await bench.emit()
    assert [final[:3] for final in bench.finals()] == [(0, "a", 2), (0, "b", 1)]


async def test_a_window_that_is_opened_again_gets_final_partials_at_once(bench: Bench) -> None:
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    await bench.take(deltas(2, 3, "a", "c"), deltas(3, 4, "a", window_ms=1_000))
    await bench.emit()
    assert [final[:3] for final in bench.finals()[2:]] == [(0, "a", 2), (0, "c", 1)]
    assert bench.rows()[-1] == ("a", 2, "10", GENERATION + 3)
    await bench.start()
    await bench.take(deltas(4, 5, "a"))
    await bench.emit()
    assert [final[:3] for final in bench.finals()[4:]] == [(0, "a", 3)], "in another session too"


async def test_a_quiet_topic_closes_what_there_is_and_nothing_to_come(bench: Bench) -> None:
    bench.upstream(1_005)
    await bench.emit()
    assert bench.finals() == []
    bench.upstream(1_005, quiet_ms=GRACE_MS)
    await bench.emit()
    assert sorted(final[:3] for final in bench.finals()) == [(0, "a", 1), (0, "b", 1), (1_000, "a", 1)]
    bench.upstream(1_300, routed=2, judged=2)  # it wakes up, and what was closed stays so
    await bench.emit()
    await bench.emit()
    await bench.take(deltas(2, 3, "b", window_ms=1_000), deltas(3, 4, "b", window_ms=2_000))
    await bench.emit()
    assert [final[:3] for final in bench.finals()[3:]] == [(1_000, "b", 1)]


async def test_an_unlimited_grace_period_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = CONFIG.events[0].model_copy(update={"grace_ms": None})
    bench = Bench(Config(events=(unlimited,)))
    await bench.start()
    monkeypatch.delattr(type(bench.sink), "positions")
    bench.upstream(10**9, quiet_ms=10**9)
    await bench.take(deltas(0, 1, "a"))
    await bench.emit()
    await bench.emit()
    assert (len(bench.rows()), bench.finals()) == (1, [])


async def test_a_crash_between_two_parts_goes_on_behind_the_first(bench: Bench, one_by_one: None) -> None:
    bench.upstream(2_000 + GRACE_MS)
    await bench.emit()
    assert [final[:2] for final in bench.finals()] == [(1_000, "a")]
    await bench.start()
    await bench.partition.tick()
    assert [final[:2] for final in bench.finals()] == [(1_000, "a"), (0, "b")]
    await bench.start()
    for _ in range(4):
        await bench.partition.tick()
    assert [final[:2] for final in bench.finals()] == [(1_000, "a"), (0, "b"), (0, "a")]
    revisions = [revision for *_, revision in bench.finals()]
    assert revisions == sorted(set(revisions))


async def test_a_part_whose_answer_is_lost_is_not_written_twice(bench: Bench, one_by_one: None) -> None:
    bench.upstream(1_000 + GRACE_MS)
    with bench.answers_lost(), pytest.raises(ConnectionError):
        await bench.emit()
    await bench.start()
    for _ in range(3):
        await bench.partition.tick()
    assert [final[:2] for final in bench.finals()] == [(0, "b"), (0, "a")]


async def test_finishing_moves_no_position_over_what_is_not_emitted(bench: Bench, one_by_one: None) -> None:
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    await bench.take(deltas(2, 3, "a", "b"))
    await bench.partition.tick()
    assert bench.row.next_offset == 2
    assert await bench.start() == 2
    await bench.take()
    await bench.emit()
    assert bench.rows()[-2:] == [("a", 2, "10", GENERATION + 4), ("b", 2, "10", GENERATION + 4)]


async def test_a_group_that_changes_while_its_window_is_being_finished_is_final_once(
    bench: Bench, one_by_one: None
) -> None:
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    await bench.take(deltas(2, 3, "a"))
    await bench.emit()
    for _ in range(3):
        await bench.partition.tick()
    assert sorted(final[:3] for final in bench.finals()) == [(0, "a", 2), (0, "b", 1)]


async def test_each_partition_finishes_its_own_series() -> None:
    bench = Bench(partitions=2)
    await bench.start()
    await bench.take(deltas(0, 1, "b", "d"))  # keys 98 and 100
    await bench.emit()
    other = dict(bench.sink.partials["calls"][0])
    bench.sink.partials["calls"].append(other | {"tuple_key": 97, "external_customer_id": "a"})
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    assert [final[:2] for final in bench.finals()] == [(0, "b"), (0, "d")]


async def test_what_was_closed_stays_so_when_positions_begin_again(bench: Bench) -> None:
    """An embedded broker that starts anew: no marks, positions at 0, a new generation."""
    bench.upstream(1_000 + GRACE_MS)
    await bench.emit()
    row = bench.row
    state = {name: value for name, value in row.state.items() if name not in ("marks", "revision_offset")}
    bench.sink.rows[ROLLUP, SOURCE] = Position(0, 0, row.epoch + 1, row.version + 1, state)
    bench.log = type(bench.log)()
    await bench.start(generation=2)
    bench.upstream(500, routed=0, judged=0)
    await bench.take(deltas(0, 1, "a", generation=2), deltas(1, 2, "a", generation=2, window_ms=1_000))
    await bench.emit()
    assert bench.finals()[2:] == [(0, "a", 2, 2 * GENERATION + 1)]
    assert bench.rows()[-1] == ("a", 2, "10", 2 * GENERATION + 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("delta"), st.integers(0, 3), st.sampled_from("abc")),
        st.tuples(st.just("watermark"), st.integers(0, 1_500), st.none()),
        st.tuples(st.sampled_from(["emit", "tick", "crash", "lost answer"]), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_order_of_events_and_crashes(steps: list[tuple[str, Any, Any]]) -> None:
    """Revisions rise; a final partial is never followed by one that is not; each total is final once; none is lost."""
    asyncio.run(_any_order(steps))


async def _any_order(steps: list[tuple[str, Any, Any]]) -> None:
    rows_max, windows_stage.FINISH_ROWS_MAX = windows_stage.FINISH_ROWS_MAX, 1
    try:
        bench, counted, watermark_ms = Bench(), Counter[tuple[int, str]](), 0
        await bench.start()
        for what, number, group in [*steps, ("emit", None, None), ("emit", None, None)]:
            offset = counted.total()
            if what == "delta":
                counted[number * 1_000, group] += 1
                await bench.take(deltas(offset, offset + 1, group, window_ms=number * 1_000))
            elif what == "watermark":
                watermark_ms += number
                bench.upstream(watermark_ms, to=offset)
            elif what == "crash":
                await bench.start()
                await bench.take()
            elif what == "lost answer":
                await _lose_an_answer(bench)
            else:
                bench.clock.advance(EMIT_EVERY_MS * (what == "emit"))
                await bench.partition.tick()
        bench.upstream(watermark_ms, to=counted.total())
        for _ in range(2):
            await bench.emit()
            for _ in range(20):
                await bench.partition.tick()
        _check(bench, counted, watermark_ms)
    finally:
        windows_stage.FINISH_ROWS_MAX = rows_max


async def _lose_an_answer(bench: Bench) -> None:
    """The next advance takes place; the session ends nevertheless."""
    with bench.answers_lost(), suppress(ConnectionError):
        await bench.emit()
    await bench.start()
    await bench.take()


def _check(bench: Bench, counted: Counter[tuple[int, str]], watermark_ms: int) -> None:
    series: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in bench.sink.partials.get("calls", []):
        series.setdefault((row["window_ms"], row["external_customer_id"]), []).append(row)
    assert {key: found[-1]["count"] for key, found in series.items()} == dict(counted)
    for (window_ms, _), found in series.items():
        revisions = [row["revision"] for row in found]
        assert revisions == sorted(set(revisions))
        assert [row["final"] for row in found] == sorted(row["final"] for row in found)
        assert all(count == 1 for count in Counter(row["count"] for row in found if row["final"]).values())
        assert found[-1]["final"] == (window_ms + 1_000 + GRACE_MS <= watermark_ms)
