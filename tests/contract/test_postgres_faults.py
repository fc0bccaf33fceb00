"""The Postgres sink when the database fails: every advance takes place exactly once, or not at all and says so."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl
import pytest

from rollup_engine.errors import ClaimLost, DatabaseUnavailable
from rollup_engine.progress import DEDUP, NOTHING, Books, Partials, Writes
from rollup_engine.runtime import postgres, schema
from rollup_engine.runtime.database import persist
from rollup_engine.runtime.embedded import start_database
from rollup_engine.runtime.postgres import PostgresSink
from tests.contract.specs import APP_ID, config, declared, migrated
from tests.contract.tcp_proxy import COMMIT, Fault, Proxy, proxied

PATIENCE_SECONDS = 30
WINDOW_MS = 1_660_489_800_000


def writes(window_ms: int = WINDOW_MS, region: str = "eu") -> Writes:
    frame = pl.DataFrame(
        {
            "window_ms": [window_ms],
            "tuple_key": pl.Series([7], dtype=pl.UInt128),
            "idempotency_key": pl.Series([8], dtype=pl.UInt128),
            "external_customer_id": ["c"],
            "region": [region],
            "count": [1],
            "sum_bytes": ["1"],
            "revision": [1],
        }
    )
    return Writes(books=(Books("e", "raw/0", counted=1),), partials=(Partials("downloads", frame),))


ONE_STATEMENT = Writes(books=writes().books)  # it commits itself


async def held(pool: "asyncpg.Pool[asyncpg.Record]") -> tuple[int, int]:
    """(events counted, partials), over everything written."""
    counted = await pool.fetchval("SELECT coalesce(sum(counted), 0)::bigint FROM rollup_engine.books")
    return counted, await pool.fetchval('SELECT count(*) FROM rollups."downloads_aggregated"')


@pytest.fixture
async def declared_pool(pool: "asyncpg.Pool[asyncpg.Record]") -> "asyncpg.Pool[asyncpg.Record]":
    await declared(pool, config())
    return pool


@pytest.fixture
async def through_proxy(
    declared_pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> AsyncIterator[tuple[PostgresSink, Proxy]]:
    async with proxied(database_url) as (url, proxy):
        pool = await schema.connect(url, connections_max=2)
        try:
            yield PostgresSink(pool, APP_ID), proxy
        finally:
            pool.terminate()


class TestAmbiguousCommit:
    @pytest.mark.parametrize("fault", ["lose the answer", "lose the commit"])
    @pytest.mark.parametrize(
        ("wanted", "at"), [(writes(), COMMIT), (ONE_STATEMENT, b'"at"')], ids=["COMMIT", "one statement"]
    )
    async def test_the_advance_takes_place_once(
        self,
        through_proxy: tuple[PostgresSink, Proxy],
        declared_pool: "asyncpg.Pool[asyncpg.Record]",
        fault: Fault,
        wanted: Writes,
        at: bytes,
    ) -> None:
        sink, proxy = through_proxy
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, wanted)
        for number in range(2, 5):
            proxy.order(fault, at)
            claim = await sink.advance(claim, number, {"at": number}, wanted)
            assert (claim.next_offset, claim.position.version) == (number, number)
        assert proxy.faults == 3
        assert await held(declared_pool) == (4, 4 * len(wanted.partials))
        assert await sink.position(DEDUP, "events/0") == claim.position

    async def test_a_statement_that_arrives_after_it_was_tried_again_does_nothing(
        self, through_proxy: tuple[PostgresSink, Proxy], declared_pool: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        sink, proxy = through_proxy
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, ONE_STATEMENT)
        proxy.order("delay the commit", b'"at"')
        claim = await sink.advance(claim, 2, {"at": 2}, ONE_STATEMENT)
        proxy.release()
        await asyncio.wait_for(proxy.met.wait(), PATIENCE_SECONDS)
        assert await held(declared_pool) == (2, 0)
        assert await sink.position(DEDUP, "events/0") == claim.position

    async def test_a_statement_that_arrives_as_it_is_tried_again_took_place(
        self,
        through_proxy: tuple[PostgresSink, Proxy],
        declared_pool: "asyncpg.Pool[asyncpg.Record]",
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The second try finds the row moved, and that was nobody else."""
        sink, proxy = through_proxy
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, ONE_STATEMENT)
        move = sink._move

        async def once_it_arrived(*args: Any) -> None:
            if proxy.faults:
                proxy.release()
                await asyncio.wait_for(proxy.met.wait(), PATIENCE_SECONDS)
            await move(*args)

        monkeypatch.setattr(sink, "_move", once_it_arrived)
        proxy.order("delay the commit", b'"at"')
        moved = await sink.advance(claim, 2, {"at": 2}, ONE_STATEMENT)
        assert await held(declared_pool) == (2, 0)
        assert await sink.position(DEDUP, "events/0") == moved.position

    async def test_a_commit_under_way_is_waited_for(
        self, through_proxy: tuple[PostgresSink, Proxy], declared_pool: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        """The connection is gone, but the server has yet to read the COMMIT: its transaction holds the row."""
        sink, proxy = through_proxy
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, writes())
        proxy.order("delay the commit")
        advancing = asyncio.ensure_future(sink.advance(claim, 2, {}, writes()))
        await self._someone_waits(declared_pool)
        assert not advancing.done()
        proxy.release()
        moved = await asyncio.wait_for(advancing, PATIENCE_SECONDS)
        assert moved.next_offset == 2
        assert await held(declared_pool) == (2, 2)
        assert (await sink.advance(moved, 3, {}, NOTHING)).next_offset == 3

    async def test_a_takeover_meanwhile_is_no_success(
        self, through_proxy: tuple[PostgresSink, Proxy], declared_pool: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        sink, proxy = through_proxy
        other = PostgresSink(declared_pool, APP_ID)
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, writes())
        proxy.order("delay the commit")
        advancing = asyncio.ensure_future(sink.advance(claim, 2, {}, writes()))
        await self._someone_waits(declared_pool)
        claiming = asyncio.ensure_future(other.claim(DEDUP, "events/0", 0))
        proxy.release()
        taken = await asyncio.wait_for(claiming, PATIENCE_SECONDS)
        done = (await asyncio.wait_for(asyncio.gather(advancing, return_exceptions=True), PATIENCE_SECONDS))[0]
        # Told of the commit or not, by who came first to the row: either way it took place once, and was the last.
        assert taken.next_offset == 2
        assert isinstance(done, ClaimLost) or done.next_offset == 2
        assert await held(declared_pool) == (2, 2)

    async def _someone_waits(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not await pool.fetchval(query):
            assert time.monotonic() < deadline, "nobody waits for the row"
            await asyncio.sleep(0.02)


async def test_what_cannot_be_written_to_its_end_is_not_written(
    declared_pool: "asyncpg.Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = PostgresSink(declared_pool, APP_ID)
    claim = await sink.claim(DEDUP, "events/0", 0)

    async def pieces(frame: pl.DataFrame) -> AsyncIterator[bytes]:
        yield postgres._csv(frame)
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(postgres, "_pieces", pieces)
        with pytest.raises(MemoryError):
            await sink.advance(claim, 1, {}, writes())
    assert await held(declared_pool) == (0, 0)
    await sink.advance(claim, 1, {}, writes())
    assert await held(declared_pool) == (1, 1)


class TestPassingFaults:
    async def test_backends_terminated_all_the_time(
        self, declared_pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
    ) -> None:
        """Thirty advances, while their connection is ended a dozen times, wherever it is."""
        victims = await schema.connect(database_url, connections_max=2)
        sink, rng, ended = PostgresSink(victims, APP_ID), random.Random(1), 0

        async def terminate() -> None:
            nonlocal ended
            while ended < 12:
                ended += await declared_pool.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await asyncio.sleep(rng.uniform(0, 0.02))

        killing = asyncio.ensure_future(terminate())
        try:
            claim = await sink.claim(DEDUP, "events/0", 0)
            for number in range(1, 31):
                claim = await asyncio.wait_for(
                    sink.advance(claim, number, {}, writes(WINDOW_MS + number * 31 * 86_400_000)), PATIENCE_SECONDS
                )
        finally:
            await killing
            victims.terminate()
        assert await held(declared_pool) == (30, 30)

    async def test_a_deadlock_is_tried_again(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        tries = 0

        async def attempt() -> str:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            return "done"

        assert await persist("try", attempt) == "done"
        assert tries == 3

    @pytest.fixture
    def own_server(self) -> Iterator[Path]:
        directory = Path(tempfile.mkdtemp(prefix="rollup-engine-restart-"))
        directory.chmod(0o755)
        yield directory
        start_database(directory).destroy()
        shutil.rmtree(directory)

    async def test_a_restart_of_the_server_is_waited_out(self, own_server: Path) -> None:
        server = start_database(own_server)
        async with migrated(server.database_url) as pool:
            await declared(pool, config())
            sink = PostgresSink(pool, APP_ID)
            claim = await sink.claim(DEDUP, "events/0", 0)
            await asyncio.to_thread(server.stop)
            advancing = asyncio.ensure_future(sink.advance(claim, 1, {}, writes()))
            await asyncio.sleep(0)
            assert not advancing.done()
            again = await asyncio.to_thread(start_database, own_server)
            assert again.port == server.port
            assert (await asyncio.wait_for(advancing, PATIENCE_SECONDS)).next_offset == 1
            assert await held(pool) == (1, 1)

    async def test_a_database_that_is_not_there_is_an_error_at_once(self) -> None:
        with pytest.raises(
            DatabaseUnavailable, match=r"127\.0\.0\.1:1/x does not answer.*ROLLUP_DATABASE_URL"
        ) as raised:
            await schema.connect("postgresql://someone:secret@127.0.0.1:1/x")
        assert "secret" not in str(raised.value)


class TestDataFaults:
    """Trying again would not help: they are raised, and nothing of the advance is there."""

    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            (writes(region="a\0b"), asyncpg.CharacterNotInRepertoireError),
            (
                Writes(partials=(Partials("nowhere", writes().partials[0].frame),), books=writes().books),
                asyncpg.UndefinedTableError,
            ),
            (
                Writes(books=(Books("e", "raw/0", counted=1), Books("e", "raw/1", counted=1 << 70))),
                asyncpg.DataError,
            ),
        ],
    )
    async def test_they_are_raised(
        self, declared_pool: "asyncpg.Pool[asyncpg.Record]", bad: Writes, error: type[Exception]
    ) -> None:
        sink = PostgresSink(declared_pool, APP_ID)
        claim = await sink.claim(DEDUP, "events/0", 0)
        with pytest.raises(error):
            await asyncio.wait_for(sink.advance(claim, 1, {}, bad), PATIENCE_SECONDS)
        assert await held(declared_pool) == (0, 0)
        assert await sink.position(DEDUP, "events/0") == claim.position
        assert (await sink.advance(claim, 1, {}, writes())).next_offset == 1

    async def test_a_dropped_month_is_made_again(self, declared_pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Old months are dropped by whoever keeps the database; the next advance raises, a session later it works."""
        sink = PostgresSink(declared_pool, APP_ID)
        claim = await sink.claim(DEDUP, "events/0", 0)
        claim = await sink.advance(claim, 1, {}, writes())
        await declared_pool.execute('DROP TABLE rollups."downloads_aggregated_202208"')
        with pytest.raises(asyncpg.CheckViolationError):
            await sink.advance(claim, 2, {}, writes())
        claim = await sink.claim(DEDUP, "events/0", 0)
        assert (await sink.advance(claim, 2, {}, writes())).next_offset == 2
        assert await held(declared_pool) == (2, 1)

    async def test_months_made_from_two_places_at_once(
        self, declared_pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
    ) -> None:
        other = await schema.connect(database_url)
        try:
            sinks = [PostgresSink(pool, APP_ID) for pool in (declared_pool, other) for _ in range(3)]
            claims = [await sink.claim(DEDUP, f"events/{n}", 0) for n, sink in enumerate(sinks)]
            await asyncio.gather(
                *(sink.advance(claim, 1, {}, writes()) for sink, claim in zip(sinks, claims, strict=True))
            )
        finally:
            await other.close()
        assert await held(declared_pool) == (6, 6)
