"""What every `buckets.ledger.Ledger` owes readers and listers: one suite over the one in memory and Postgres.

The tests at the end are of Postgres alone: what two do at once, and what a million objects cost.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from rollup_engine.buckets.ledger import Finished, Known, Lease, Ledger
from rollup_engine.buckets.offsets import offset_of
from rollup_engine.buckets.store import Found
from rollup_engine.config.model import Bucket
from rollup_engine.errors import UsageError
from rollup_engine.runtime import sql
from rollup_engine.runtime.bucket_ledger import PostgresLedger
from rollup_engine.runtime.bucket_objects import accept, listed
from tests.contract.bucket_memory import MemoryLedger
from tests.contract.specs import migrated

BUCKET = Bucket(url="s3://test/in/", format="ndjson", poll_ms=1_000)
TOPIC = BUCKET.topic


def found(*names: str, etag: str = "1") -> list[Found]:
    return [Found(name, etag, len(name)) for name in names]


async def declare(pool: "asyncpg.Pool[asyncpg.Record]", format_: str = "ndjson") -> str:
    args = ("app", TOPIC, BUCKET.url, format_, True)
    return str(await pool.fetchval(sql.queries("buckets")["declare"], *args))


@pytest.fixture
async def postgres(pool: "asyncpg.Pool[asyncpg.Record]") -> PostgresLedger:
    await declare(pool)
    return PostgresLedger(pool, "app")


@pytest.fixture(params=["memory", "postgres"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger(TOPIC)
        return
    async with migrated(request.getfixturevalue("database_url")) as pool:
        await declare(pool)
        yield PostgresLedger(pool, "app")


async def names(ledger: Ledger, numbers: Sequence[int] = range(100)) -> list[str]:
    return [one.name for one in await ledger.objects(TOPIC, numbers)]


async def outcomes(ledger: Ledger) -> list[str | None]:
    return [one.outcome for one in await ledger.objects(TOPIC, range(100))]


async def test_numbers_are_given_in_order_and_once(ledger: Ledger) -> None:
    assert await ledger.known() == {TOPIC: Known(0)}
    assert (await ledger.take_in(TOPIC, found("a", "c"))).new == 2
    assert (await ledger.take_in(TOPIC, found("a", "b", "c", "d"))).new == 2
    assert (await ledger.take_in(TOPIC, found("a", "b", "c", "d"))).new == 0
    assert await names(ledger) == ["a", "c", "b", "d"]
    assert [one.number for one in await ledger.objects(TOPIC, [3, 1, 7])] == [1, 3]
    assert await ledger.known() == {TOPIC: Known(4)}


async def test_names_are_ordered_by_their_bytes(ledger: Ledger) -> None:
    assert await ledger.last_name(TOPIC) == ""
    await ledger.take_in(TOPIC, found("Z", "a", "é", "\U0001f600", "\uffff"))
    assert await ledger.last_name(TOPIC) == "\U0001f600"


async def test_what_was_not_begun_takes_over_its_new_etag(ledger: Ledger) -> None:
    await ledger.take_in(TOPIC, found("a", "b"))
    assert await ledger.begin(TOPIC, 1, "1")
    taken = await ledger.take_in(TOPIC, found("a", "b", etag="2"))
    assert (taken.new, list(taken.changed)) == (0, [])  # `b` is being read: its reader will find out
    a, b = await ledger.objects(TOPIC, [0, 1])
    assert (a.etag, a.begun, b.etag, b.begun) == ("2", False, "1", True)
    assert not await ledger.begin(TOPIC, 0, "1")
    assert await ledger.begin(TOPIC, 0, "2")


async def test_a_change_after_the_end_is_an_alarm_once_per_etag(ledger: Ledger) -> None:
    await ledger.take_in(TOPIC, found("a"))
    await ledger.begin(TOPIC, 0, "1")
    await ledger.finish(TOPIC, [Finished(0, 7, "read")])
    assert not (await ledger.take_in(TOPIC, found("a"))).changed
    ((known, seen),) = (await ledger.take_in(TOPIC, found("a", etag="2"))).changed
    assert (known.etag, known.outcome, seen.etag) == ("1", "read", "2")
    assert await ledger.changed(TOPIC, 0, "2", "why")
    assert not await ledger.changed(TOPIC, 0, "2", "why")
    assert not (await ledger.take_in(TOPIC, found("a", etag="2"))).changed
    assert (await ledger.take_in(TOPIC, found("a", etag="3"))).changed
    assert await ledger.changed(TOPIC, 0, "3", "why")
    assert await outcomes(ledger) == ["changed"]
    assert await ledger.listed(TOPIC, 1) == 1


async def test_a_problem_stays_whatever_a_session_says_that_was_taken_over(ledger: Ledger) -> None:
    await ledger.take_in(TOPIC, found("a", "b", "c"))
    await ledger.finish(TOPIC, [Finished(0, 3, "changed", "why"), Finished(1, 3, "read")])
    await ledger.finish(TOPIC, [Finished(0, 9, "read"), Finished(1, 2, "gone", "why")])
    assert await outcomes(ledger) == ["changed", "gone", None]


async def test_one_at_a_time_lists(ledger: Ledger) -> None:
    assert await ledger.hold(TOPIC, "one", 60) == Lease(True, wanted=True)
    assert await ledger.hold(TOPIC, "two", 60) == Lease(False)
    await ledger.listed(TOPIC, await ledger.now_ms() + 1)
    assert await ledger.hold(TOPIC, "one", 60) == Lease(True, wanted=False)
    await ledger.release(TOPIC, "two")
    assert await ledger.hold(TOPIC, "two", 60) == Lease(False)
    await ledger.release(TOPIC, "one")
    assert (await ledger.hold(TOPIC, "two", 60)).held


async def test_a_refusal_is_known_until_a_listing_ends_well(ledger: Ledger) -> None:
    await ledger.refused(TOPIC, "no permission", "Give it.")
    assert (await ledger.known())[TOPIC].refusal == ("no permission", "Give it.")
    await ledger.listed(TOPIC, 1)
    assert (await ledger.known())[TOPIC].refusal is None


async def test_when_all_was_listed_is_known_and_whether_something_waits(ledger: Ledger) -> None:
    assert not await ledger.waiting(TOPIC)
    await ledger.take_in(TOPIC, found("a", "b"))
    await ledger.finish(TOPIC, [Finished(0, 1, "read")])
    assert await ledger.waiting(TOPIC)
    await ledger.finish(TOPIC, [Finished(1, 0, "gone", "why")])
    assert not await ledger.waiting(TOPIC)
    for started_ms in (5_000, 3_000):  # a slow one that began before it
        await ledger.listed(TOPIC, started_ms)
    assert (await ledger.known())[TOPIC].listed_ms == 5_000


async def test_a_lister_that_died_is_followed_by_another(postgres: PostgresLedger) -> None:
    assert (await postgres.hold(TOPIC, "one", 2)).held
    assert not (await postgres.hold(TOPIC, "two", 60)).held
    await asyncio.sleep(2.1)
    assert (await postgres.hold(TOPIC, "two", 60)).held
    assert not (await postgres.hold(TOPIC, "one", 60)).held


async def test_whoever_starts_wants_a_listing_of_its_own(
    postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await postgres.listed(TOPIC, await postgres.now_ms() + 1)
    await asyncio.sleep(0.01)
    await declare(pool)
    assert await postgres.hold(TOPIC, "one", 60) == Lease(True, wanted=True)


async def test_the_format_is_that_of_the_first_object_read(
    postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await postgres.take_in(TOPIC, found("a"))
    assert await declare(pool, "csv") == "csv"
    await postgres.begin(TOPIC, 0, "1")
    assert await declare(pool, "parquet") == "csv"


async def test_the_format_stays_where_the_first_objects_were_gone(
    postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await postgres.take_in(TOPIC, found(*"abcde"))
    await postgres.finish(TOPIC, [Finished(number, 0, "gone", "why") for number in range(4)])
    await postgres.begin(TOPIC, 4, "1")
    assert await declare(pool, "csv") == "ndjson"


async def test_listers_at_once_give_no_number_twice(postgres: PostgresLedger) -> None:
    rng = random.Random(1)
    everything = [f"{number:03}" for number in range(300)]
    pages = [sorted(rng.sample(everything, 60)) for _ in range(24)]
    await asyncio.gather(*(postgres.take_in(TOPIC, found(*page)) for page in pages))
    objects = await postgres.objects(TOPIC, range(1_000))
    assert [one.number for one in objects] == list(range(len(objects)))
    assert sorted(one.name for one in objects) == sorted({name for page in pages for name in page})
    assert all(one.seen_ms <= next_.seen_ms for one, next_ in itertools.pairwise(objects))
    assert (await postgres.known())[TOPIC].objects == len(objects)


async def test_record_times_never_fall(postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await postgres.take_in(TOPIC, found("a"))
    await pool.execute("UPDATE rollup_engine.buckets SET seen_ms = 4000000000000")
    await postgres.take_in(TOPIC, found("b"))
    assert [one.seen_ms for one in await postgres.objects(TOPIC, [1])] == [4_000_000_000_000]


async def test_what_people_see_of_objects(postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await postgres.take_in(TOPIC, found("a", "b", "c", "d"))
    await postgres.begin(TOPIC, 1, "1")
    await postgres.finish(TOPIC, [Finished(2, 5, "read"), Finished(3, 2, "damaged", "why")])
    await pool.execute(
        "INSERT INTO rollup_engine.dead_letters (app_id, event, source, source_offset, recorded_at, outcome, reason,"
        " detail) SELECT 'app', 'e', $1 || '/3', unnest($2::bigint[]), now(), 'invalid', 'r', 'd'",
        TOPIC,
        [offset_of(3, 1), offset_of(3, 9), offset_of(4, 1), offset_of(2, 2)],
    )
    rows = await listed(pool, "app", problems=False, limit=10)
    assert [(row.object, row.state, row.rows, row.refused) for row in rows] == [
        ("d", "damaged", 2, 2),
        ("c", "read", 5, 0),
        ("b", "reading", None, 0),
        ("a", "waiting", None, 0),
    ]
    assert [row.object for row in await listed(pool, "app", problems=True, limit=10)] == ["d"]
    assert [row.object for row in await listed(pool, "app", problems=False, limit=2)] == ["d", "c"]
    for wrong in ("c", "nothing"):
        with pytest.raises(UsageError):
            await accept(pool, "app", wrong)
    assert await accept(pool, "app", "s3://test/in/d") == await accept(pool, "app", "d") == "s3://test/in/d"
    assert await listed(pool, "app", problems=True, limit=10) == []
    assert await postgres.listed(TOPIC, 1) == 0
    await postgres.changed(TOPIC, 3, "2", "changed after that")
    assert [row.state for row in await listed(pool, "app", problems=True, limit=10)] == ["changed"]


async def test_no_statement_that_is_asked_often_reads_a_table_whole(
    postgres: PostgresLedger, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    """Plans as they are with 20,000 objects, whose statistics Postgres does not have yet, nor gets meanwhile."""
    await pool.execute("ALTER TABLE rollup_engine.objects SET (autovacuum_enabled = false)")
    numbers = range(20_000)
    for start in range(0, len(numbers), 10_000):
        await postgres.take_in(TOPIC, found(*(f"{n:08}" for n in numbers[start : start + 10_000])))
    page = [f"{n:08}" for n in range(8_000, 9_000)]
    asked = {
        "known": (),
        "objects": (TOPIC, [1, 5, 9]),
        "begin": (TOPIC, 1, "1"),
        "finish": (TOPIC, [1], [1], ["read"], [""]),
        "last_name": (TOPIC,),
        "waiting": (TOPIC,),
        "news": (TOPIC, page, ["1"] * len(page)),
        "problems": (TOPIC, 20),
        "list": (False, 20),
    }
    async with pool.acquire() as connection:
        for name, args in asked.items():
            rows = await connection.fetch("EXPLAIN " + sql.queries("buckets")[name], "app", *args)
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan on objects" not in plan, f"{name}:\n{plan}"
