"""Postgres or Kafka away for a while, with the engine running: it waits, and goes on; nothing is lost or twice."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from rollup_engine.runtime.database import lock_schema
from rollup_engine.runtime.embedded import Database, adopt_broker, start_database
from tests.acceptance.cli import PATIENCE_SECONDS, Engine, get, until
from tests.acceptance.traffic import events, recount, send, totals


@pytest.fixture
def database() -> Iterator[Database]:
    """A server of its own, to be stopped and started."""
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-outage-"))
    directory.chmod(0o755)
    yield start_database(directory)
    start_database(directory).destroy()
    shutil.rmtree(directory)


def test_postgres_restarts_under_load(make_engine: Callable[..., Engine], database: Database) -> None:
    engine = make_engine(database_url=database.database_url)
    up = engine.up()
    lines = events(6_000, seed=30)
    engine.produce(lines[:3_000])
    database.stop()
    engine.produce(lines[3_000:])
    up.says("database fault, trying again")
    assert up.popen.poll() is None
    again = start_database(database.state_dir)
    assert again.port == database.port
    status = engine.settled(len(lines))
    assert status["counted"] == len(lines)
    assert up.stop() == 0, up.output
    assert asyncio.run(totals(database.database_url)) == recount(lines)


def test_a_kafka_that_hangs_is_waited_for(engine: Engine) -> None:
    """The broker's process stands still for a while, and then goes on as if nothing had been."""
    up = engine.up()
    lines = events(4_000, seed=31)
    engine.produce(lines[:2_000])
    broker = adopt_broker(engine.state_dir)
    assert broker is not None
    psutil.Process(broker.pid).suspend()
    try:
        assert up.popen.poll() is None
    finally:
        psutil.Process(broker.pid).resume()
    engine.produce(lines[2_000:])
    engine.settled(len(lines))
    assert up.stop() == 0, up.output
    assert asyncio.run(totals(engine.environment["ROLLUP_DATABASE_URL"])) == recount(lines)


def test_a_record_of_others_in_an_internal_topic_halts_that_partition(engine: Engine) -> None:
    """It says what to do, the other partitions go on, and the end is not called a good one."""
    up = engine.up()
    asyncio.run(send(engine.endpoints()["kafka"], [(0, b"not ours")], topic="rollup-engine.events"))
    up.says("partition halted")
    page = next(line for line in up.output.splitlines() if line.startswith("work ")).split()[1]
    code, body = get(page)
    health = json.loads(body)
    assert (code, health["healthy"]) == (503, False)
    (halted,) = health["halted"]
    assert (halted["stage"], halted["partition"]) == ("dedup", "rollup-engine.events/0")
    assert "did not write" in halted["cause"]
    assert halted["remedy"]
    engine.produce(events(400, seed=33))

    def half() -> bool:
        counted = int(engine.status()["counted"])
        return 100 < counted < 300

    until("the other partition's share", half)
    assert up.stop() == 1
    assert "Traceback" not in up.output


def test_a_stop_before_it_has_begun_ends_at_once(engine: Engine) -> None:
    """It waits for another process that changes the schema, and has nothing to finish."""

    async def stop_while_locked() -> int:
        connection = await asyncpg.connect(engine.environment["ROLLUP_DATABASE_URL"])
        try:
            await connection.execute("BEGIN")
            await lock_schema(connection)
            up = engine.start("up")
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await connection.fetchval(waiting):
                    await asyncio.sleep(0.05)
            up.send(signal.SIGTERM)
            return await asyncio.to_thread(up.ends, 20)
        finally:
            await connection.close()

    assert asyncio.run(stop_while_locked()) == 0
    assert adopt_broker(engine.state_dir) is None


def test_a_stop_before_postgres_is_back_still_ends(make_engine: Callable[..., Engine], database: Database) -> None:
    """Asked a second time it ends at once; what was not emitted is, by the next start."""
    engine = make_engine(database_url=database.database_url)
    up = engine.up()
    roles = up.children()
    lines = events(1_000, seed=32)
    engine.produce(lines)
    database.stop()
    up.says("database fault, trying again")
    up.send(signal.SIGTERM)
    up.says("Stopping")
    up.send(signal.SIGTERM)
    assert up.ends(30) == 1
    until("the end of the roles", lambda: not any(role.is_running() for role in roles))
    assert "Traceback" not in up.output
    start_database(database.state_dir)
