"""The log with buckets in it, over a real directory and a real S3 server, with the ledger in Postgres."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from rollup_engine.buckets import directory, offsets, reader
from rollup_engine.buckets.log import BucketLog
from rollup_engine.buckets.store import open_store
from rollup_engine.config.model import Bucket
from rollup_engine.errors import PartitionHalted
from rollup_engine.ports import Record
from rollup_engine.runtime import sql
from rollup_engine.runtime.bucket_ledger import PostgresLedger
from rollup_engine.runtime.memory import MemoryLog
from tests.s3 import S3Server

Put = Callable[[str, bytes], None]
PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    made = S3Server.start()
    with made.environment():
        yield made
    made.stop()


@pytest.fixture(params=["directory", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Put]:
    """A bucket's URL, and what puts an object into it."""
    if request.param == "directory":

        def put(name: str, content: bytes) -> None:
            (tmp_path / name).write_bytes(content)

        return f"file://{tmp_path}/", put
    server: S3Server = request.getfixturevalue("server")
    name = f"log-{os.urandom(4).hex()}"
    server.client.create_bucket(Bucket=name)
    return f"s3://{name}/in/", lambda key, content: void(server.put(name, f"in/{key}", content))


def void(value: object) -> None:
    pass


@pytest.fixture
async def bucket(pool: "asyncpg.Pool[asyncpg.Record]", where: tuple[str, Put]) -> Bucket:
    made = Bucket(url=where[0], format="ndjson", poll_ms=1_000)
    await pool.fetchval(sql.queries("buckets")["declare"], "app", made.topic, made.url, made.format, True)
    return made


@pytest.fixture
async def log(pool: "asyncpg.Pool[asyncpg.Record]", bucket: Bucket) -> AsyncIterator[BucketLog]:
    made = BucketLog(MemoryLog(), PostgresLedger(pool, "app"), {bucket.topic: bucket})
    yield made
    await made.close()


async def listed(pool: "asyncpg.Pool[asyncpg.Record]", bucket: Bucket, objects: int) -> None:
    """All that is there is known to the ledger."""
    ledger, store = PostgresLedger(pool, "app"), open_store(bucket.url)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (await ledger.known())[bucket.topic].objects < objects:  # a file counts as written after a while
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
        async for page in store.pages():
            await ledger.take_in(bucket.topic, page)
    await store.close()


async def test_what_is_put_is_read_from_any_position(
    pool: "asyncpg.Pool[asyncpg.Record]",
    log: BucketLog,
    bucket: Bucket,
    where: tuple[str, Put],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "FILL_SECONDS", 0.02)
    monkeypatch.setattr(directory, "SETTLED_SECONDS", 0.2)
    for number in range(6):
        where[1](f"{number}.ndjson", b"".join(b'{"n":%d%d}\n' % (number, line) for line in range(3)))
    await listed(pool, bucket, 6)
    topic = bucket.topic
    assert [await log.bounds(topic, number) for number in range(4)] == [
        (0, offsets.after(number)) for number in (4, 5, 2, 3)
    ]

    async def read(partition: int, offset: int) -> list[Record]:
        one = await log.reader(topic, partition, offset)
        found: list[Record] = []
        while one.position < (await log.bounds(topic, partition))[1]:
            found += await one.read(100, 100)
        await one.close()
        return found

    records = await read(1, 0)
    assert [record.value for record in records] == [b'{"n":%d}' % n for n in (10, 11, 12, 50, 51, 52)]
    assert [record.offset for record in records] == [offsets.offset_of(n, line) for n in (1, 5) for line in (1, 2, 3)]
    assert len({record.timestamp for record in records}) == 1
    for number, one in enumerate(records):
        again = await read(1, one.offset)
        assert [(record.offset, record.value) for record in again] == [
            (record.offset, record.value) for record in records[number:]
        ]
    assert await read(1, offsets.after(1)) == records[3:]
    assert await read(1, offsets.after(5)) == []


async def test_other_topics_are_those_of_the_log_it_wraps(log: BucketLog, bucket: Bucket) -> None:
    assert await log.create("raw", 2, {})
    assert [await log.partitions(topic) for topic in ("raw", "nothing", bucket.topic)] == [2, 0, 4]
    assert await log.append("raw", 1, b"value") == 0
    assert await log.bounds("raw", 1) == (0, 1)
    one = await log.reader("raw", 1, 0)
    assert [record.value for record in await one.read(10, 10)] == [b"value"]
    await log.trim("raw", 1, 1)
    assert await log.bounds("raw", 1) == (1, 1)
    with pytest.raises(ValueError, match="objects are put into it"):
        await log.append(bucket.topic, 0, b"value")
    await log.trim(bucket.topic, 0, 5)
    assert await log.bounds(bucket.topic, 0) == (0, 0)


@pytest.mark.parametrize("where", ["s3"], indirect=True)  # in a directory root may read every file
async def test_an_object_that_may_not_be_read_halts(
    pool: "asyncpg.Pool[asyncpg.Record]", log: BucketLog, bucket: Bucket, where: tuple[str, Put], server: S3Server
) -> None:
    where[1]("a.ndjson", b"1\n")
    await listed(pool, bucket, 1)
    server.fault = lambda method, path: (403, "AccessDenied") if "a.ndjson" in path else None
    one = log.bucket_reader(bucket.topic, 0)
    one.seek(0)
    try:
        with pytest.raises(PartitionHalted):
            await one.read(10, PATIENCE_SECONDS * 1_000)
    finally:
        server.fault = None
        await one.close()
