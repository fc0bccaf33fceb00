"""Live load: seeded download events, encoded beforehand, sent in the background until Kafka has acknowledged each.

Nothing in it hangs on races, so that a recount of the raw topic tells what must come out: repeats of an id are equal
wherever they lie, or follow the first copy in its own partition; late events are late by days, and unique.
"""

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.acceptance.cli import until

CHUNK_EVENTS = 1_000
CHUNKS_PER_SECOND = 20  # where there is time, the stream flows evenly
RETRY_SECONDS = 0.2
Sendable = tuple[int, bytes]  # raw partition, value

_EVENT = (
    '{"id":"%032x","customer":"customer-%d","download_timestamp":"2022-08-%02dT15:%02d:%02d.%03dZ",'
    '"bytes_downloaded":%d,"download_speed":%s,"agent":"downloader/7.2"}'
)
_SPEEDS = ('"fast"', '"medium"', '"slow"', "null")
_MALFORMED = (
    b'{"id":"cut off","customer":"customer-1","downl',
    b'{"id":"nobody pays","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":1}',
    b'{"id":"negative","customer":"customer-1","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":-1}',
    b'{"id":"when","customer":"customer-1","download_timestamp":"yesterday","bytes_downloaded":1}',
    b"",
)


def traffic(count: int, seed: int, partitions: int) -> Iterator[Sendable]:
    """So many events of 40 customers over an hour: 2 % of ids twice (near and far, in one partition and across),
    1 % again with another payload, 1 % late, 1 % malformed. The first of each partition is early and good: its
    watermark makes the late ones late."""
    rng = random.Random(seed)
    delayed: dict[int, list[Sendable]] = {}  # copies, by the place at which they come again

    def encoded(number: int, day: int, size: int) -> bytes:
        at = rng.randrange(3_600_000)
        when = (day, at // 60_000, at // 1000 % 60, at % 1000)
        return (_EVENT % (number, rng.randrange(40), *when, size, rng.choice(_SPEEDS))).encode()

    for place in range(count):
        again = delayed.get(place)
        if again:
            yield again.pop()
            continue
        to, chance = rng.randrange(partitions), rng.random()
        number, size = rng.getrandbits(128), rng.randrange(5_000_000)
        value = encoded(number, 14, size)
        if place < partitions:
            to = place
        elif chance < 0.02:
            later = place + rng.choice((1, 10, 1_000, 20_000))
            delayed.setdefault(later, []).append((rng.choice((to, rng.randrange(partitions))), value))
        elif chance < 0.03:
            other = value.replace(b'"bytes_downloaded":', b'"bytes_downloaded":1')
            delayed.setdefault(place + rng.choice((1, 10, 1_000)), []).append((to, other))
        elif chance < 0.04:
            value = encoded(number, rng.randrange(1, 5), size)
        elif chance < 0.05:
            value = rng.choice(_MALFORMED)
        yield to, value


class Load:
    """Sends events from a thread of its own. A batch whose sending failed is sent again, until it is acknowledged."""

    def __init__(
        self, servers: str, topic: str, events: Sequence[Sendable], seconds: float, record_ms: int | None
    ) -> None:
        """`seconds`: spread over so long; 0 is as fast as it goes. `record_ms`: the records' own time; now, if None."""
        self._servers, self._topic, self._events, self._seconds = servers, topic, events, seconds
        self._record_ms = record_ms
        self.acknowledged: list[bytes] = []
        self.failures = 0  # batches sent again
        self.ended: float | None = None  # monotonic time of the last acknowledgement
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load of {topic}", daemon=True)
        self._thread.start()

    def reaches(self, share: float, seconds: float = 120) -> None:
        """Waits until this share of the events is acknowledged."""
        wanted = int(share * len(self._events))
        until(f"{wanted} events are sent", lambda: self._going() and len(self.acknowledged) >= wanted, seconds)

    def done(self, seconds: float = 300) -> None:
        """Waits until all of it is acknowledged."""
        until("the load is sent", lambda: self._going() and self.ended is not None, seconds)

    def stop(self) -> None:
        """Send no more. What was acknowledged stays so."""
        self._cancelled.set()
        self._thread.join(60)

    def _going(self) -> bool:
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:  # noqa: BLE001 - raised in the row's thread
            self._error = error

    async def _send(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", max_batch_size=1 << 20, request_timeout_ms=5_000
        )
        await producer.start()
        started = time.monotonic()
        try:
            size = CHUNK_EVENTS
            if self._seconds:
                size = min(size, max(1, int(len(self._events) / self._seconds / CHUNKS_PER_SECOND)))
            for first in range(0, len(self._events), size):
                if self._cancelled.is_set():
                    break
                if self._seconds:
                    due = started + self._seconds * first / len(self._events)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._send_chunk(producer, self._events[first : first + size])
            self.ended = time.monotonic()
        finally:
            await producer.stop()

    async def _send_chunk(self, producer: AIOKafkaProducer, chunk: Sequence[Sendable]) -> None:
        by_partition: dict[int, list[bytes]] = {}
        for partition, value in chunk:
            by_partition.setdefault(partition, []).append(value)
        await asyncio.gather(*(self._send_batch(producer, *one) for one in by_partition.items()))

    async def _send_batch(self, producer: AIOKafkaProducer, partition: int, values: Sequence[bytes]) -> None:
        while not self._cancelled.is_set():
            batch = producer.create_batch()
            for value in values:
                taken = batch.append(key=None, value=value, timestamp=self._record_ms)
                assert taken is not None, "the batch is too large"
            try:
                await (await producer.send_batch(batch, self._topic, partition=partition))
            except (KafkaError, OSError):
                self.failures += 1
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.acknowledged += values
                return
