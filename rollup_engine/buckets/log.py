"""The log with buckets in it: their topics are read from their stores, everything else from the log that it wraps.

Owns: the buckets' stores, and the threads that read them.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from rollup_engine.buckets import offsets
from rollup_engine.buckets.ends import Ends
from rollup_engine.buckets.ledger import Known, Ledger
from rollup_engine.buckets.reader import BucketReader
from rollup_engine.buckets.store import Store, open_store
from rollup_engine.config.model import Bucket
from rollup_engine.ports import Log, Reader

THREADS_MAX = 16


class BucketLog:
    """Implements `ports.Log`. Nothing can be appended to a bucket's topic."""

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        buckets: Mapping[str, Bucket],
        open_store: Callable[[str], Store] = open_store,
    ) -> None:
        self._log, self._ledger, self._buckets = log, ledger, buckets
        self.stores = {topic: open_store(bucket.url) for topic, bucket in buckets.items()}
        self._ends = Ends(ledger)
        workers = min(THREADS_MAX, offsets.BUCKET_PARTITIONS * len(buckets)) or 1
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="bucket")

    def holds(self, topic: str) -> bool:
        """Whether it is a bucket's."""
        return topic in self._buckets

    async def partitions(self, topic: str) -> int:
        return offsets.BUCKET_PARTITIONS if topic in self._buckets else await self._log.partitions(topic)

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        return await self._log.create(topic, partitions, config)

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        if topic in self._buckets:
            raise ValueError(f"{topic} is a bucket: objects are put into it, records are not")
        return await self._log.append(topic, partition, value)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        if topic not in self._buckets:
            return await self._log.bounds(topic, partition)
        known = (await self._ledger.known()).get(topic, Known(0))
        return 0, offsets.end(partition, known.objects)

    async def known_ms_ago(self, topic: str) -> int:
        if topic not in self._buckets:
            return await self._log.known_ms_ago(topic)
        now_ms = await self._ledger.now_ms()
        return now_ms - ((await self._ledger.known()).get(topic, Known(0)).listed_ms or 0)

    async def reader(self, topic: str, partition: int, offset: int) -> Reader:
        if topic not in self._buckets:
            return await self._log.reader(topic, partition, offset)
        reader = self.bucket_reader(topic, partition)
        reader.seek(offset)
        return reader

    def bucket_reader(self, topic: str, partition: int) -> BucketReader:
        """On one partition of a bucket, to be told where to read."""
        bucket, store = self._buckets[topic], self.stores[topic]
        return BucketReader(bucket, partition, store, self._ledger, self._ends, self._threads)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        if topic not in self._buckets:
            await self._log.trim(topic, partition, before)

    async def close(self) -> None:
        """Let go of the stores; not of the log that it wraps."""
        await self._ends.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for store in self.stores.values():
            await store.close()
