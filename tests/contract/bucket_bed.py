"""A bucket in memory, read by sessions that crash: what they commit is all that stays, as in route."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from rollup_engine.buckets import ends, offsets, reader
from rollup_engine.buckets.ends import Ends
from rollup_engine.buckets.reader import BucketReader
from rollup_engine.buckets.store import Found
from rollup_engine.config.model import Bucket
from rollup_engine.ports import Record
from tests.contract.bucket_memory import MemoryLedger, MemoryStore

BUCKET = Bucket(url="s3://test/", format="ndjson", poll_ms=1)
PARTITIONS = range(offsets.BUCKET_PARTITIONS)


@contextmanager
def without_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "ASK_SECONDS", 0.0)
        patch.setattr(reader, "NEWER_SECONDS", 0.001)
        patch.setattr(reader, "FILL_SECONDS", 0.002)
        yield


@dataclass
class Bed:
    """A bucket, its ledger, and what of it is committed."""

    store: MemoryStore = field(default_factory=MemoryStore)
    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(BUCKET.topic))
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    versions: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # etag -> (name, content)
    positions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    taken: list[Record] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> None:
        self.versions[self.store.put(name, content)] = name, content

    async def look(self) -> None:
        """A complete listing, begun after everything until now."""
        self.ledger.clock_ms += 1
        await self.take_in(self.ledger.clock_ms, self.store.listing())

    async def take_in(self, started_ms: int, page: list[Found]) -> None:
        await self.ledger.take_in(BUCKET.topic, page)
        await self.ledger.listed(BUCKET.topic, started_ms)

    async def look_on(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.001)

    def reader(self, partition: int) -> BucketReader:
        made = BucketReader(BUCKET, partition, self.store, self.ledger, Ends(self.ledger), self.threads)
        made.seek(self.positions[partition])
        return made

    async def read(self, one: BucketReader, partition: int, records_max: int, *, commits: bool = True) -> bool:
        """One batch, and whether anything moved."""
        before = one.position
        records = await one.read(records_max, 5)
        assert len(records) <= records_max
        places = [record.offset for record in records]
        assert places == sorted(set(places))
        assert all(before <= place < one.position for place in places)
        if commits:
            self.taken += records
            self.positions[partition] = one.position
        return one.position != before

    async def read_on(self, one: BucketReader, partition: int, position: int = 1 << 62) -> None:
        """As far as that; for ever, unless told otherwise."""
        while one.position < position:
            await self.read(one, partition, 100)

    async def read_all(self, partition: int) -> None:
        one = self.reader(partition)
        await self.read_on(one, partition, offsets.end(partition, len(self.ledger.rows)))
        await one.close()

    def rows(self) -> dict[str, list[bytes]]:
        """What was committed of each object, in order of lines."""
        found: dict[str, list[bytes]] = {row.object.name: [] for row in self.ledger.rows}
        for record in sorted(self.taken, key=lambda record: record.offset):
            found[self.ledger.rows[offsets.number_of(record.offset)].object.name].append(record.value or b"")
        return found


async def batch(bed: Bed, partition: int = 0, records_max: int = 100) -> list[Record]:
    """What the next read gives to a new session, which commits it."""
    one, before = bed.reader(partition), len(bed.taken)
    while not await bed.read(one, partition, records_max):
        pass
    await one.close()
    return bed.taken[before:]


async def rest(bed: Bed, partition: int = 0) -> list[Record]:
    """What a new session reads until the end, which it commits."""
    before = len(bed.taken)
    await bed.read_all(partition)
    return bed.taken[before:]
