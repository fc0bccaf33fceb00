"""The looks that freshness takes in PostgreSQL: whose rows they show, and what the token tells apart."""

import asyncpg
import msgspec

from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.ports import Span
from rollup_engine.progress import DEDUP, NOTHING, ROLLUP, ROUTE
from rollup_engine.route.state import RouteState
from rollup_engine.runtime import freshness, sql
from rollup_engine.runtime.freshness import Look, Row, StateOf
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.windows.accumulator import RollupState

STATES = {
    (ROUTE, "raw/0"): RouteState(watermarks={"download": 5_000}, clock_ms=7, received={"download": 3}, quiet_ms=60),
    (DEDUP, "mine.events/0"): DedupState(marks={"raw/0": 12}, clocks={"raw/0": 9}, covered={"downloads": 4}),
    (ROLLUP, "mine.deltas.downloads/0"): RollupState(
        marks={"mine.events/0": 7}, closed_ms=600_000, unfinished=Span(0, 600_000, 0)
    ),
}


async def test_a_look_shows_the_rows_of_its_app_id(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    assert await freshness.look(pool, "mine") == Look({}, {})
    for app_id, offset in (("mine", 5), ("other", 50)):
        sink = PostgresSink(pool, app_id)
        for (stage, source), state in STATES.items():
            claim = await sink.claim(stage, source, 2)
            await sink.advance(claim, offset, msgspec.to_builtins(state), NOTHING)
        await pool.execute(sql.queries("registry")["add_topic"], app_id, "mine.events", f"life of {app_id}", 3)
    expected = {
        (ROUTE, "raw/0"): StateOf(watermarks={"download": 5_000}, quiet_ms=60),
        (DEDUP, "mine.events/0"): StateOf(marks={"raw/0": 12}),
        (ROLLUP, "mine.deltas.downloads/0"): StateOf(marks={"mine.events/0": 7}, closed_ms=600_000),
    }
    assert await freshness.look(pool, "mine") == Look(
        {"mine.events": ("life of mine", 3)}, {key: Row(*key, 5, 2, state) for key, state in expected.items()}
    )


async def test_a_row_that_was_only_claimed(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await PostgresSink(pool, "mine").claim(ROUTE, "raw/0", 2)
    look = await freshness.look(pool, "mine")
    assert look.rows == {(ROUTE, "raw/0"): Row(ROUTE, "raw/0", 2, 2, StateOf())}


async def test_the_token_changes_with_what_totals_may_change(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    sink, tokens = PostgresSink(pool, "mine"), [await freshness.token(pool, "mine")]
    assert tokens == [(0, 0, 0)]

    async def token() -> tuple[int, int, int]:
        tokens.append(await freshness.token(pool, "mine"))
        return tokens[-1]

    one = await sink.claim(ROLLUP, "mine.deltas.downloads/0", 0)
    other = await sink.claim(ROLLUP, "mine.deltas.downloads/1", 0)
    await token()
    one = await sink.advance(one, 5, {}, NOTHING)
    await token()
    await sink.advance(other, 5, {}, NOTHING)
    await token()
    await sink.claim(ROLLUP, "mine.deltas.downloads/1", 0)
    await token()
    await sink.advance(one, 5, {}, NOTHING)  # finished windows are written without moving on
    await token()
    await pool.execute(sql.queries("registry")["add_generation"], "mine", "digest", "{}")
    await token()
    assert tokens[-1][2] == 1
    assert len(set(tokens)) == len(tokens)
    route = await sink.claim(ROUTE, "raw/0", 0)
    await sink.advance(route, 5, {}, NOTHING)
    await PostgresSink(pool, "other").claim(ROLLUP, "other.deltas.downloads/0", 0)
    assert await token() == tokens[-2]
