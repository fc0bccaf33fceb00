"""The rollup stage on its own: what is emitted when, what is read back, restarts and holes."""

from typing import Any

import polars as pl
import pytest

from rollup_engine.errors import ClaimLost, PartitionHalted
from rollup_engine.exchange import HOLE_MS_MAX
from rollup_engine.progress import ROLLUP
from rollup_engine.tables import Schema
from rollup_engine.windows import stage as windows_stage
from tests.unit.windows.bench import DELTAS, EMIT_EVERY_MS, GENERATION, SOURCE, Bench, deltas


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_changed_groups_are_emitted_every_so_often_and_only_those(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a", "b"))
    await bench.partition.tick()
    assert bench.rows() == []
    await bench.emit()
    assert bench.rows() == [("a", 1, "5", GENERATION), ("b", 1, "5", GENERATION)]
    await bench.take(deltas(1, 2, "b"))
    await bench.emit()
    await bench.emit()
    assert bench.rows()[2:] == [("b", 2, "10", GENERATION + 1)]


async def test_a_late_tick_does_not_delay_the_emissions_after_it(bench: Bench) -> None:
    await bench.start()
    bench.clock.advance(EMIT_EVERY_MS + 400)
    assert await bench.partition.tick() == EMIT_EVERY_MS - 400
    bench.clock.advance(3 * EMIT_EVERY_MS)  # some were missed: one makes up for all
    assert await bench.partition.tick() == EMIT_EVERY_MS - 400


async def test_a_clean_stop_emits_what_is_pending(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"))
    await bench.partition.close()
    assert bench.rows() == [("a", 1, "5", GENERATION)]


async def test_what_was_not_emitted_is_read_again_and_what_was_is_read_back(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"))
    await bench.emit()
    await bench.take(deltas(1, 2, "a"))
    assert await bench.start() == 1
    await bench.take()
    await bench.emit()
    assert bench.rows() == [("a", 1, "5", GENERATION), ("a", 2, "10", GENERATION + 1)]


async def test_only_windows_that_may_have_totals_are_read_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[int] = []
    read_back = bench.sink.read_back

    async def asking(schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        asked_for.extend(wanted["window_ms"].to_list())
        return await read_back(schema, wanted)

    monkeypatch.setattr(bench.sink, "read_back", asking)
    await bench.start()
    await bench.take(deltas(0, 1, "a", window_ms=1_000))
    await bench.emit()
    assert asked_for == [], "the table was empty"
    await bench.start()
    await bench.take(deltas(1, 2, "a", window_ms=1_000), deltas(2, 3, "a", window_ms=2_000))
    await bench.emit()
    assert asked_for == [1_000]


async def test_the_position_moves_without_changes_too(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1), deltas(1, 1))
    await bench.emit()
    assert (bench.row.next_offset, bench.rows()) == (2, [])
    assert await bench.log.bounds(DELTAS, 0) == (2, 2), "what is behind the position may go"


async def test_repeats_and_other_cuts_add_nothing(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"), deltas(0, 1, "a"), deltas(1, 3, "a"), deltas(2, 3, "a"), deltas(0, 3, "a"))
    await bench.emit()
    assert bench.rows() == [("a", 2, "10", GENERATION + 4)]


async def test_nothing_behind_a_hole_is_emitted_and_revisions_rise_over_a_restart_there(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"), deltas(2, 3, "a"), deltas(1, 2, "a"))
    await bench.emit()
    assert (bench.rows(), bench.row.next_offset) == ([("a", 1, "5", GENERATION)], 1)
    assert await bench.start() == 1
    await bench.take()
    await bench.emit()
    assert len(bench.rows()) == 1
    await bench.take(deltas(2, 3, "a"))
    await bench.emit()
    assert bench.rows()[1:] == [("a", 3, "15", GENERATION + 3)]


async def test_a_hole_that_stays_open_halts(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(1, 2, "a"))
    await bench.partition.tick()
    bench.clock.advance(HOLE_MS_MAX + 1)
    with pytest.raises(PartitionHalted, match=r"app\.events/0 from offset 0"):
        await bench.partition.tick()


async def test_a_zombie_writes_nothing(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"))
    await bench.sink.claim(ROLLUP, SOURCE, 0)
    with pytest.raises(ClaimLost):
        await bench.emit()
    assert bench.rows() == []


async def test_many_changed_groups_are_emitted_early_many_deltas_of_few_are_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_stage, "CHANGED_ROWS_MAX", 3)
    await bench.start()
    await bench.take(*(deltas(number, number + 1, "a") for number in range(10)))
    assert bench.rows() == []
    await bench.take(deltas(10, 11, "b", "c", "d"))
    assert [(customer, count) for customer, count, *_ in bench.rows()] == [("a", 10), ("b", 1), ("c", 1), ("d", 1)]


async def test_a_worker_with_an_older_yaml_stops(bench: Bench) -> None:
    """Its revisions would lie below those written, and hide what it adds."""
    await bench.start(generation=2)
    await bench.take(deltas(0, 1, "a", generation=2))
    await bench.start(generation=1)
    with pytest.raises(PartitionHalted, match="generation 2 is active"):
        await bench.take()
    await bench.start(generation=2)
    await bench.take()
    await bench.emit()
    with pytest.raises(PartitionHalted, match="generation 2 is active"):
        await bench.start(generation=1)


async def test_bounds_are_those_under_the_claim(bench: Bench) -> None:
    """Records that came, and a position that moved, while the claim was under way are no reason to halt."""
    await bench.start()
    claim, before = bench.sink.claim, bench.partition

    async def slow_claim(stage: str, partition: str, first_offset: int) -> Any:
        bench.partition = before
        await bench.take(deltas(0, 1, "a"))
        await bench.emit()
        return await claim(stage, partition, first_offset)

    bench.sink.claim = slow_claim  # type: ignore[method-assign]
    assert await bench.start() == 1


async def test_an_emission_that_fails_is_made_again_by_the_next_session(bench: Bench) -> None:
    await bench.start()
    await bench.take(deltas(0, 1, "a"))
    with bench.answers_lost(), pytest.raises(ConnectionError):
        await bench.emit()
    assert await bench.start() == 1
    await bench.take(deltas(0, 2, "a"))
    await bench.emit()
    assert bench.rows() == [("a", 1, "5", GENERATION), ("a", 2, "10", GENERATION + 1)]
