"""Looking for objects: soon, whatever their names; what changed is told, once. Over a store and ledger in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rollup_engine.buckets import watch
from rollup_engine.buckets.ledger import Finished
from rollup_engine.buckets.store import Found, ObjectGone
from rollup_engine.buckets.watch import Watch
from rollup_engine.config.model import Bucket
from rollup_engine.errors import StoreRefused, StoreUnavailable
from tests.contract.bucket_memory import MemoryLedger, MemoryStore

POLL_SECONDS = 0.02
BUCKET = Bucket(url="s3://test/", format="ndjson", poll_ms=20)
HOURLY = Bucket(url="s3://test/", format="ndjson", poll_ms=3_600_000)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RENEW_SECONDS", POLL_SECONDS)
    monkeypatch.setattr(watch, "UNSETTLED_SECONDS", POLL_SECONDS)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(BUCKET.topic)


@asynccontextmanager
async def watched(store: MemoryStore, ledger: MemoryLedger, bucket: Bucket = BUCKET) -> AsyncIterator[None]:
    task = asyncio.create_task(Watch(bucket, store, ledger).forever())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def names(ledger: MemoryLedger) -> list[str]:
    return [row.object.name for row in ledger.rows]


async def test_new_objects_are_found_whatever_their_names(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.put("b", b"")
    store.put("d", b"")
    async with watched(store, ledger):
        await until(lambda: ledger.listed_ms is not None)
        assert names(ledger) == ["b", "d"]
        for name in ("e", "a", "c"):
            store.put(name, b"")
            await until(lambda: names(ledger)[-1] == name)  # noqa: B023 - called before the next


async def test_behind_the_greatest_name_one_is_found_while_a_long_listing_goes_on(ledger: MemoryLedger) -> None:
    class Slow(MemoryStore):
        async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
            async for page in super().pages(after):
                yield page
                await asyncio.sleep(0 if after else 10 * POLL_SECONDS)

    store = Slow(page_max=1)
    for number in range(100):  # a complete listing takes 20 s
        store.put(f"{number:02}", b"")
    await ledger.take_in(BUCKET.topic, store.listing())
    async with watched(store, ledger):
        await asyncio.sleep(3 * POLL_SECONDS)
        store.put("a", b"")
        await until(lambda: "a" in names(ledger))
        assert ledger.listed_ms is None


async def test_a_change_after_the_end_is_told_once(store: MemoryStore, ledger: MemoryLedger) -> None:
    told: list[str] = []
    store.put("a", b"1")
    async with watched(store, ledger):
        await until(lambda: bool(ledger.rows))
        await ledger.finish(BUCKET.topic, [Finished(0, 1, "read")])
        changed = ledger.changed

        async def counted(topic: str, number: int, etag: str, note: str) -> bool:
            told.append(etag)
            return await changed(topic, number, etag, note)

        ledger.changed = counted  # type: ignore[method-assign]
        etag = store.put("a", b"2")
        await until(lambda: ledger.rows[0].object.outcome == "changed")
        await asyncio.sleep(5 * POLL_SECONDS)
        assert told == [etag]
        assert "It is not read again" in ledger.rows[0].note


async def test_a_listing_older_than_what_was_read_is_no_alarm(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.put("a", b"1")
    etag = store.put("a", b"2")
    await ledger.take_in(BUCKET.topic, store.listing())
    await ledger.finish(BUCKET.topic, [Finished(0, 1, "read")])
    looks = 0

    class Behind(MemoryStore):
        async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
            nonlocal looks
            looks += 1
            yield [Found("a", "1", 1)]

    async with watched(Behind(objects={"a": (etag, b"2")}), ledger):
        await until(lambda: looks > 3)
        assert ledger.rows[0].object.outcome == "read"


async def test_one_at_a_time_lists_and_another_follows(store: MemoryStore, ledger: MemoryLedger) -> None:
    looks: list[str] = []

    class Named(MemoryStore):
        async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
            looks.append(self.url)
            async for page in super().pages(after):
                yield page

    async with watched(Named(url="second"), MemoryLedger(BUCKET.topic)):
        await until(lambda: bool(looks))
    looks.clear()
    async with watched(Named(url="first"), ledger):
        await until(lambda: bool(looks))
        async with watched(Named(url="second"), ledger):
            await asyncio.sleep(5 * POLL_SECONDS)
            assert set(looks) == {"first"}
    async with watched(Named(url="second"), ledger):
        await until(lambda: "second" in looks)


async def test_a_refusal_is_told_until_it_is_over(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.fault = StoreRefused("no permission", "Give it.")
    async with watched(store, ledger):
        await until(lambda: ledger._refusal == ("no permission", "Give it."))
        store.fault = None
        store.put("a", b"")
        await until(lambda: ledger._refusal is None)
        assert names(ledger) == ["a"]


async def test_a_store_that_does_not_answer_is_asked_again(store: MemoryStore, ledger: MemoryLedger) -> None:
    """Soon, whatever `poll` says."""
    ledger.listed_ms = 1  # nobody else wants a listing
    store.fault = StoreUnavailable("the network is down")
    async with watched(store, ledger, HOURLY):
        await asyncio.sleep(3 * POLL_SECONDS)
        assert ledger._refusal is None
        store.fault = None
        store.put("a", b"")
        await until(lambda: names(ledger) == ["a"])


async def test_what_may_still_be_written_is_looked_at_again_soon(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.unsettled = True
    ledger.listed_ms, ledger.clock_ms = 1, 10_000
    before_ms = 10_000 - int(1000 * POLL_SECONDS)
    async with watched(store, ledger, HOURLY):
        await until(lambda: ledger.listed_ms == before_ms)  # what was written since then is not known
        await asyncio.sleep(3 * POLL_SECONDS)
        assert ledger.listed_ms == before_ms
        store.put("a", b"")
        store.unsettled = False
        await until(lambda: names(ledger) == ["a"])
        await until(lambda: ledger.listed_ms == 10_000)


async def test_who_cannot_list_lets_another_try(store: MemoryStore, ledger: MemoryLedger) -> None:
    away = MemoryStore(fault=StoreUnavailable("no route to host, on this machine"))
    refused = MemoryStore(fault=StoreRefused("no such directory, on this machine", "Mount it."))
    store.put("a", b"")
    async with watched(away, ledger), watched(refused, ledger):
        await asyncio.sleep(3 * POLL_SECONDS)
        async with watched(store, ledger):
            await until(lambda: names(ledger) == ["a"])
            await until(lambda: ledger._refusal is None)


async def test_an_empty_listing_is_refused_while_objects_wait(store: MemoryStore, ledger: MemoryLedger) -> None:
    """A directory that is not mounted is an empty one."""
    for name in "ab":
        store.put(name, b"")
    await ledger.take_in(BUCKET.topic, store.listing())
    away, store.objects = store.objects, {}
    async with watched(store, ledger):
        await until(lambda: ledger._refusal is not None and "is empty" in ledger._refusal[0])
        assert ledger.listed_ms is None
        store.objects = away
        await until(lambda: ledger.listed_ms is not None and ledger._refusal is None)
        await ledger.finish(BUCKET.topic, [Finished(0, 1, "read"), Finished(1, 1, "read")])
        store.objects, ledger.clock_ms = {}, 5
        await until(lambda: ledger.listed_ms == 5)  # read and deleted


async def test_whatever_a_listing_raises_is_told(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.fault = ObjectGone("404")
    async with watched(store, ledger):
        await until(lambda: ledger._refusal is not None and "ObjectGone" in ledger._refusal[0])
        assert ledger.listed_ms is None


async def test_a_name_too_long_for_the_ledger_is_refused(store: MemoryStore, ledger: MemoryLedger) -> None:
    store.put("é" * 600, b"")
    async with watched(store, ledger):
        await until(lambda: ledger._refusal is not None)
        assert ledger._refusal is not None
        assert "1024 bytes" in ledger._refusal[0]
