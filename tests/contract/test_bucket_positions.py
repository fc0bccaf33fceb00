"""Where offsets are far apart: positions as an embedded broker starts anew, lag, and the offsets themselves."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.buckets import offsets
from rollup_engine.buckets.ledger import Finished
from rollup_engine.buckets.store import Found
from rollup_engine.config.model import Bucket, Config
from rollup_engine.errors import ConfigError
from rollup_engine.runtime import bucket_ledger, sql
from rollup_engine.runtime.bucket_ledger import PostgresLedger
from rollup_engine.runtime.bucket_status import BucketStatus, collect
from rollup_engine.runtime.buckets import make_topic
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.registry import Registry
from tests.contract.specs import APP_ID, config, event_type, rollup

BUCKET = Bucket(url="s3://test/in/", format="ndjson", poll_ms=1_000)
CONFIG = config(event_type(bucket=BUCKET))
SOURCE, RAW = f"{BUCKET.topic}/1", "raw/0"
Row = tuple[int, int, dict[str, Any]]  # next offset, first offset, state


async def write(pool: "asyncpg.Pool[asyncpg.Record]", rows: Mapping[tuple[str, str], Row], partitions: int) -> None:
    async with pool.acquire() as connection:
        await bucket_ledger.declare(connection, APP_ID, CONFIG, anew=False)
    await pool.execute(sql.queries("registry")["add_topic"], APP_ID, f"{APP_ID}.events", "life", partitions)
    for (stage, source), (next_offset, first_offset, state) in rows.items():
        await pool.execute(
            "INSERT INTO rollup_engine.progress VALUES ($1, $2, $3, 7, 9, $4, $5, $6)",
            *(APP_ID, stage, source, next_offset, first_offset, json.dumps(state)),
        )


async def positions(pool: "asyncpg.Pool[asyncpg.Record]") -> dict[tuple[str, str], Row]:
    found = await pool.fetch("SELECT * FROM rollup_engine.progress WHERE epoch = 8 AND version = 10")
    return {
        (row["stage"], row["source"]): (row["next_offset"], row["first_offset"], json.loads(row["state"]))
        for row in found
    }


async def restarted(
    pool: "asyncpg.Pool[asyncpg.Record]", marks: list[dict[str, int]], partitions: int = 2
) -> dict[tuple[str, str], Row]:
    """All rows after a new embedded broker; dedup had these marks."""
    rows: dict[tuple[str, str], Row] = {
        ("route", SOURCE): (900, 100, {"records": 5, "last_offset": 899, "last_crc": 1}),
        ("route", RAW): (50, 0, {"records": 50, "last_offset": 49, "last_crc": 1}),
        ("rollup", "deltas/0"): (8, 0, {"marks": {"events/0": 4}, "revision_offset": 3}),
    }
    for number, judge in enumerate(marks):
        rows["dedup", f"events/{number}"] = (40, 0, {"marks": judge, "clocks": {SOURCE: 5}, "covered": {"t": 3}})
    await write(pool, rows, partitions)
    await pool.execute(sql.queries("registry")["restart_positions"], APP_ID)
    return await positions(pool)


async def test_route_goes_back_to_what_every_partition_of_dedup_has_judged(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    rows = await restarted(pool, [{SOURCE: 700, RAW: 50}, {SOURCE: 800, RAW: 48}])
    assert rows["route", SOURCE] == (700, 100, {"records": 5})
    assert rows["dedup", "events/0"] == (0, 0, {"marks": {SOURCE: 700}, "clocks": {SOURCE: 5}})
    assert rows["dedup", "events/1"] == (0, 0, {"marks": {SOURCE: 800}, "clocks": {SOURCE: 5}})


async def test_everything_else_begins_again(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    rows = await restarted(pool, [{SOURCE: 700}, {SOURCE: 700}])
    assert rows["route", RAW] == (0, 0, {"records": 50})
    assert rows["rollup", "deltas/0"] == (0, 0, {})


async def test_what_a_partition_of_dedup_never_heard_of_is_sent_from_the_start(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    assert (await restarted(pool, [{SOURCE: 700}, {}]))["route", SOURCE][:2] == (100, 100)


async def test_so_it_is_where_one_of_them_has_not_begun(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    assert (await restarted(pool, [{SOURCE: 700}]))["route", SOURCE][:2] == (100, 100)


async def test_what_dedup_has_beyond_routes_own_position_is_not_sent_again(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    """Sent and judged, and route died before its advance."""
    assert (await restarted(pool, [{SOURCE: 950}, {SOURCE: 990}]))["route", SOURCE][:2] == (950, 100)


async def test_a_buckets_topic_is_made_once_for_all_and_stays_empty(
    pool: "asyncpg.Pool[asyncpg.Record]", broker: str
) -> None:
    buckets = [Bucket(url=f"s3://test/{uuid4().hex}/", format="ndjson", poll_ms=1_000) for _ in range(2)]
    async with KafkaLog.connect({"bootstrap_servers": broker}) as log:
        for app_id, table in (("one", "a"), ("two", "b"), ("one", "a")):
            one = config(event_type("download", rollup(table), bucket=buckets[0], kafka_topics=()))
            topology = await Registry(pool, app_id + buckets[0].topic[-8:]).join(log, one, 1, "route")
            assert buckets[0].topic not in topology.incarnations
        assert await log.partitions(buckets[0].topic) == offsets.BUCKET_PARTITIONS
        await log.append(buckets[0].topic, 0, b"who reads this?")
        with pytest.raises(ConfigError, match="somebody has produced to it"):
            await make_topic(log, buckets[0].topic)
        await log.create(buckets[1].topic, 3, {})
        with pytest.raises(ConfigError, match="has 3 partitions"):
            await make_topic(log, buckets[1].topic)


async def bucket_status(pool: "asyncpg.Pool[asyncpg.Record]") -> BucketStatus:
    (found,) = await collect(pool, APP_ID, CONFIG, await pool.fetch(sql.queries("status")["positions"], APP_ID))
    return found


async def test_lag_is_in_objects_that_are_not_wholly_in_the_books(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    within, behind = offsets.offset_of(1, 7), offsets.after(5)
    marks = [{SOURCE: behind}, {SOURCE: within}]
    rows: dict[tuple[str, str], Row] = {("route", SOURCE): (behind, 0, {"records": 900})}
    rows |= {("dedup", f"events/{number}"): (4, 0, {"marks": one}) for number, one in enumerate(marks)}
    await write(pool, rows, 2)
    ledger = PostgresLedger(pool, APP_ID)
    assert (await bucket_status(pool)).lag == 1, "a listing is awaited"
    await ledger.listed(BUCKET.topic, await ledger.now_ms() + 1)
    assert (await bucket_status(pool)).lag == 0
    await ledger.take_in(BUCKET.topic, [Found(f"{number}", "1", 1) for number in range(10)])
    # Of partition 1 (objects 1, 5 and 9) all three; of the others nobody has heard anything: seven.
    assert (await bucket_status(pool)).lag == 10
    await pool.execute("DELETE FROM rollup_engine.progress WHERE source = 'events/1'")
    assert (await bucket_status(pool)).lag == 10, "one that has not begun has nothing in the books"
    state = json.dumps({"marks": {f"{BUCKET.topic}/{number}": offsets.end(number, 10) for number in range(4)}})
    await pool.execute(
        "INSERT INTO rollup_engine.progress VALUES ($1, 'dedup', 'events/1', 1, 1, 0, 0, $2)", APP_ID, state
    )
    await pool.execute("UPDATE rollup_engine.progress SET state = $1 WHERE stage = 'dedup'", state)
    assert (await bucket_status(pool)).lag == 0


async def test_a_bucket_that_is_no_longer_listed_shows(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await write(pool, {}, 2)
    ledger = PostgresLedger(pool, APP_ID)
    await ledger.listed(BUCKET.topic, await ledger.now_ms() + 1)
    found = await bucket_status(pool)
    assert found.listed_at is not None
    assert (found.lag, found.overdue) == (0, False)
    await pool.execute("UPDATE rollup_engine.buckets SET wanted_at = 'epoch', listed_at = now() - interval '5 minutes'")
    found = await bucket_status(pool)
    assert (found.lag, found.overdue) == (1, True)
    await pool.execute("UPDATE rollup_engine.buckets SET listing_ms = 100_000")  # a million objects
    assert not (await bucket_status(pool)).overdue


async def test_problems_are_shown_until_they_are_accepted(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await write(pool, {}, 2)
    ledger = PostgresLedger(pool, APP_ID)
    await ledger.take_in(BUCKET.topic, [Found(name, "1", 1) for name in "abc"])
    await ledger.finish(BUCKET.topic, [Finished(0, 1, "read"), Finished(1, 4, "damaged", "why")])
    found = await bucket_status(pool)
    assert (found.problems, [(one.object, one.outcome) for one in found.latest]) == (1, [("s3://test/in/b", "damaged")])


async def test_a_bucket_that_was_read_in_another_format_is_refused(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await write(pool, {}, 2)
    ledger = PostgresLedger(pool, APP_ID)
    await ledger.take_in(BUCKET.topic, [Found("a", "1", 1)])
    await ledger.begin(BUCKET.topic, 0, "1")
    other = Config(events=(event_type(bucket=BUCKET.model_copy(update={"format": "csv"})),))
    async with pool.acquire() as connection:
        with pytest.raises(ConfigError, match="has been read as ndjson, and the YAML says csv"):
            await bucket_ledger.declare(connection, APP_ID, other, anew=False)


@given(st.integers(0, 1 << 26), st.integers(1, 1 << 36))
def test_an_offset_is_an_object_and_a_line(number: int, line: int) -> None:
    offset = offsets.offset_of(number, line)
    assert (offsets.number_of(offset), offsets.line_of(offset)) == (number, line)
    assert offset < offsets.after(number) <= offsets.offset_of(number + 1, 1) < 1 << 63


@given(st.integers(0, 60), st.integers(0, 3), st.integers(0, 50), st.booleans())
def test_positions_and_ends_are_those_of_a_list_of_objects(
    objects: int, partition: int, done: int, within: bool
) -> None:
    ours = range(partition, objects, offsets.BUCKET_PARTITIONS)
    assert offsets.end(partition, objects) == (offsets.after(ours[-1]) if ours else 0)
    left = [number for number in ours if number >= done]
    position = offsets.offset_of(done, 5) if within and done in ours else offsets.offset_of(done, 1)
    assert offsets.objects_between(partition, position, objects) == len(left)
    if left:
        assert offsets.next_number(partition, position) == left[0]
