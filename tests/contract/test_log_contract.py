"""What every `ports.Log` owes the stages: one suite over the memory log, the embedded broker and Apache Kafka.

The tests at the end are about what only a real Kafka has: transactions, deleted records, topics made again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from rollup_engine.errors import PartitionHalted
from rollup_engine.ports import Log, Reader, Record
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.memory import MemoryLog

PATIENCE_SECONDS = 30
WAIT_MS = 500


@pytest.fixture(params=["memory", "embedded", "apache"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog()
        return
    servers: str = request.getfixturevalue({"embedded": "broker", "apache": "apache"}[request.param])
    async with KafkaLog.connect({"bootstrap_servers": servers}) as connected:
        yield connected


@pytest.fixture
async def apache_log(apache: str) -> AsyncIterator[KafkaLog]:
    async with KafkaLog.connect({"bootstrap_servers": apache}) as connected:
        yield connected


@pytest.fixture
def topic() -> str:
    return f"contract-{uuid4().hex}"


async def read_to(reader: Reader, end: int, records_max: int = 100) -> list[Record]:
    """Everything up to position `end`; fails where it does not come."""
    deadline, records = time.monotonic() + PATIENCE_SECONDS, []
    while reader.position < end:
        assert time.monotonic() < deadline, f"position {reader.position} of {end} is as far as it gets"
        records += await reader.read(records_max, WAIT_MS)
    return records


async def read_some(reader: Reader, records_max: int = 100) -> Sequence[Record]:
    """The next records; fails where none come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (records := await reader.read(records_max, WAIT_MS)):
        assert time.monotonic() < deadline, f"nothing comes at position {reader.position}"
    return records


async def filled(log: Log, topic: str, values: Sequence[bytes], partitions: int = 1) -> None:
    """The topic, with `values` in partition 0."""
    await log.create(topic, partitions, {})
    for value in values:
        await log.append(topic, 0, value)


async def appended_as_one_batch(log: Log, topic: str, values: Sequence[bytes]) -> None:
    """Values that reach the broker as one record batch, where the log has such."""
    if isinstance(log, MemoryLog):
        for value in values:
            await log.append(topic, 0, value)
        return
    assert isinstance(log, KafkaLog)
    producer = AIOKafkaProducer(**log.cluster.connection, acks="all", max_batch_size=1 << 20)
    await producer.start()
    try:
        batch = producer.create_batch()
        for value in values:
            assert batch.append(key=None, value=value, timestamp=None) is not None
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


class TestTopics:
    async def test_create_makes_the_partitions_once(self, log: Log, topic: str) -> None:
        assert await log.create(topic, 3, {}) is True
        assert await log.create(topic, 3, {}) is False
        assert await log.partitions(topic) == 3

    async def test_a_second_create_changes_nothing(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"kept"], partitions=2)
        assert await log.create(topic, 5, {}) is False
        assert await log.partitions(topic) == 2
        assert await log.bounds(topic, 0) == (0, 1)

    async def test_of_many_that_create_at_once_one_did(self, log: Log, topic: str) -> None:
        made = await asyncio.gather(*(log.create(topic, 2, {}) for _ in range(5)))
        assert sorted(made) == [False, False, False, False, True]

    async def test_asking_for_a_topic_does_not_make_it(self, log: Log, topic: str) -> None:
        assert await log.partitions(topic) == 0
        assert await log.partitions(topic) == 0

    async def test_settings_of_the_topic_are_taken(self, log: Log, topic: str) -> None:
        assert await log.create(topic, 1, {"retention.ms": "86400000", "max.message.bytes": "2097152"}) is True
        assert await log.append(topic, 0, b"x") == 0


class TestAppend:
    async def test_offsets_count_up_from_zero(self, log: Log, topic: str) -> None:
        await log.create(topic, 1, {})
        assert [await log.append(topic, 0, b"%d" % i) for i in range(20)] == list(range(20))

    async def test_partitions_are_independent_and_each_keeps_its_order(self, log: Log, topic: str) -> None:
        await log.create(topic, 4, {})

        async def fill(partition: int) -> list[int]:
            return [await log.append(topic, partition, b"%d/%d" % (partition, i)) for i in range(25)]

        assert await asyncio.gather(*map(fill, range(4))) == [list(range(25))] * 4
        for partition in range(4):
            reader = await log.reader(topic, partition, 0)
            values = [record.value for record in await read_to(reader, 25)]
            assert values == [b"%d/%d" % (partition, i) for i in range(25)]

    async def test_a_record_of_one_and_a_half_megabytes(self, log: Log, topic: str) -> None:
        await log.create(topic, 1, {"max.message.bytes": str(2 << 20)})
        value = bytes(range(256)) * 5860
        assert len(value) > 1_500_000
        await log.append(topic, 0, b"before")
        assert await log.append(topic, 0, value) == 1
        await log.append(topic, 0, b"after")
        records = await read_to(await log.reader(topic, 0, 0), 3)
        assert [record.value for record in records] == [b"before", value, b"after"]

    async def test_a_record_time_is_carried(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"])
        (record,) = await read_some(await log.reader(topic, 0, 0))
        assert isinstance(record.timestamp, int)


class TestBounds:
    async def test_of_an_empty_partition(self, log: Log, topic: str) -> None:
        await log.create(topic, 2, {})
        assert await log.bounds(topic, 1) == (0, 0)

    @pytest.mark.parametrize("sizes", [[1], [10], [1, 1, 1], [7, 1], [1, 500], [500, 3, 40]])
    async def test_the_end_is_the_next_offset_whatever_the_batches(
        self, log: Log, topic: str, sizes: list[int]
    ) -> None:
        await log.create(topic, 1, {})
        for size in sizes:
            await appended_as_one_batch(log, topic, [b"x" * 50] * size)
        assert await log.bounds(topic, 0) == (0, sum(sizes))
        assert await log.append(topic, 0, b"next") == sum(sizes)
        assert await log.bounds(topic, 0) == (0, sum(sizes) + 1)

    async def test_asked_at_once_from_several_sides(self, log: Log, topic: str) -> None:
        await log.create(topic, 3, {})
        for partition in range(3):
            for _ in range(partition * 2):
                await log.append(topic, partition, b"x")
        found = await asyncio.gather(*(log.bounds(topic, partition) for partition in (0, 1, 2, 1, 2)))
        assert found == [(0, 0), (0, 2), (0, 4), (0, 2), (0, 4)]


class TestReader:
    async def test_reads_on_from_where_it_is(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"%d" % i for i in range(10)])
        reader = await log.reader(topic, 0, 0)
        assert reader.position == 0
        records = await read_to(reader, 10, records_max=4)
        assert offsets(records) == list(range(10))
        assert [record.value for record in records] == [b"%d" % i for i in range(10)]
        assert reader.position == 10

    async def test_never_gives_more_than_asked_for(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"] * 10)
        reader = await log.reader(topic, 0, 0)
        assert offsets(await read_some(reader, 3)) == [0, 1, 2]
        assert reader.position == 3
        assert offsets(await read_some(reader, 1)) == [3]
        assert reader.position == 4

    @pytest.mark.parametrize("start", [1, 250, 499, 500, 502])
    async def test_starts_in_the_middle_of_a_batch(self, log: Log, topic: str, start: int) -> None:
        await log.create(topic, 1, {})
        await appended_as_one_batch(log, topic, [b"%d" % i for i in range(500)])
        await appended_as_one_batch(log, topic, [b"500", b"501", b"502"])
        records = await read_to(await log.reader(topic, 0, start), 503, records_max=1_000)
        assert offsets(records) == list(range(start, 503))
        assert records[0].value == b"%d" % start

    async def test_seeks_back_and_forth(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"%d" % i for i in range(20)])
        reader = await log.reader(topic, 0, 15)
        assert offsets(await read_some(reader, 2)) == [15, 16]
        reader.seek(3)
        assert reader.position == 3
        assert offsets(await read_some(reader, 2)) == [3, 4]
        reader.seek(19)
        assert offsets(await read_to(reader, 20)) == [19]

    async def test_at_the_end_waits_for_what_comes(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"old"])
        reader = await log.reader(topic, 0, 1)
        started = time.monotonic()
        assert not await reader.read(10, 300)
        assert time.monotonic() - started < 5
        assert reader.position == 1
        await log.append(topic, 0, b"new")
        assert [record.value for record in await read_some(reader)] == [b"new"]

    async def test_readers_do_not_share_a_position(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"] * 6)
        one, other = await log.reader(topic, 0, 0), await log.reader(topic, 0, 4)
        assert offsets(await read_to(other, 6)) == [4, 5]
        assert offsets(await read_to(one, 6)) == [0, 1, 2, 3, 4, 5]
        await one.close()
        await other.close()

    async def test_many_one_after_another_leave_nothing_behind(self, log: Log, topic: str) -> None:
        """A session opens one whenever it begins; each holds a connection and what it has read ahead."""
        await filled(log, topic, [b"x"])
        for _ in range(5):
            reader = await log.reader(topic, 0, 0)
            await read_some(reader)
            await reader.close()
        assert not isinstance(log, KafkaLog) or not log._readers

    async def test_beyond_the_end_it_halts(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"] * 3)
        reader = await log.reader(topic, 0, 50)
        await halts(reader, "50 is next")

    async def test_beyond_the_end_of_an_empty_partition_it_halts(self, log: Log, topic: str) -> None:
        await log.create(topic, 1, {})
        await halts(await log.reader(topic, 0, 7), "7 is next")


async def halts(reader: Reader, cause: str) -> None:
    """Within a bounded time reading raises `PartitionHalted`, and gives no record before."""
    with pytest.raises(PartitionHalted, match=cause):
        await _read_nothing(reader)


async def _read_nothing(reader: Reader) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert not await reader.read(10, WAIT_MS)
        await asyncio.sleep(0)


class TestTrim:
    @pytest.fixture(params=["memory", "apache"])
    async def log(self, request: pytest.FixtureRequest) -> AsyncIterator[Log]:
        """Logs that can delete records; the embedded broker keeps them."""
        if request.param == "memory":
            yield MemoryLog()
            return
        async with KafkaLog.connect({"bootstrap_servers": request.getfixturevalue("apache")}) as connected:
            yield connected

    async def test_moves_the_start_and_nothing_else(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"%d" % i for i in range(10)])
        await log.trim(topic, 0, 6)
        assert await log.bounds(topic, 0) == (6, 10)
        assert offsets(await read_to(await log.reader(topic, 0, 6), 10)) == [6, 7, 8, 9]
        assert await log.append(topic, 0, b"next") == 10

    async def test_below_the_start_reading_halts_instead_of_skipping(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"%d" % i for i in range(10)])
        await log.trim(topic, 0, 6)
        await halts(await log.reader(topic, 0, 2), "2 is next")

    async def test_a_reader_overtaken_by_a_trim_halts(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"%d" % i for i in range(4)])
        reader = await log.reader(topic, 0, 0)
        await read_to(reader, 4)
        for i in range(4, 10):
            await log.append(topic, 0, b"%d" % i)
        await log.trim(topic, 0, 8)
        reader.seek(4)
        await halts(reader, "4 is next")

    async def test_everything_may_go(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"] * 5)
        await log.trim(topic, 0, 5)
        assert await log.bounds(topic, 0) == (5, 5)
        reader = await log.reader(topic, 0, 5)
        assert not await reader.read(10, 200)
        await log.append(topic, 0, b"on")
        assert offsets(await read_some(reader)) == [5]

    async def test_never_moves_the_start_back(self, log: Log, topic: str) -> None:
        await filled(log, topic, [b"x"] * 5)
        await log.trim(topic, 0, 4)
        await log.trim(topic, 0, 2)
        await log.trim(topic, 0, 0)
        assert (await log.bounds(topic, 0))[0] == 4


async def test_the_embedded_broker_keeps_what_is_trimmed(broker: str, topic: str) -> None:
    async with KafkaLog.connect({"bootstrap_servers": broker}) as log:
        await filled(log, topic, [b"x"] * 5)
        await log.trim(topic, 0, 3)
        assert await log.bounds(topic, 0) == (0, 5)


class TestTransactions:
    """Raw producers may write in transactions: what they abort does not exist, and positions pass what ends them."""

    @pytest.fixture
    async def transact(self, apache: str, topic: str) -> AsyncIterator[Callable[[Sequence[bytes], bool], object]]:
        producer = AIOKafkaProducer(bootstrap_servers=apache, transactional_id=f"tx-{uuid4().hex}")
        await producer.start()

        async def run(values: Sequence[bytes], commit: bool) -> None:
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())

        yield run
        await producer.stop()

    async def test_aborted_records_are_passed_over(self, apache_log: KafkaLog, topic: str, transact: object) -> None:
        await apache_log.create(topic, 1, {})
        await transact([b"a", b"b"], True)  # type: ignore[operator]
        await transact([b"never 1", b"never 2"], False)  # type: ignore[operator]
        await transact([b"c"], True)  # type: ignore[operator]
        await transact([b"never 3"], False)  # type: ignore[operator]
        _, end = await apache_log.bounds(topic, 0)
        reader = await apache_log.reader(topic, 0, 0)
        records = await read_to(reader, end)
        assert [record.value for record in records] == [b"a", b"b", b"c"]
        assert reader.position == end == 10  # six records, and one control record for each of four transactions

    async def test_a_reader_starts_anywhere_among_them(
        self, apache_log: KafkaLog, topic: str, transact: object
    ) -> None:
        await apache_log.create(topic, 1, {})
        await transact([b"a", b"b"], True)  # type: ignore[operator]
        await transact([b"never"], False)  # type: ignore[operator]
        await transact([b"c"], True)  # type: ignore[operator]
        _, end = await apache_log.bounds(topic, 0)
        for start in range(end + 1):
            reader = await apache_log.reader(topic, 0, start)
            values = [record.value for record in await read_to(reader, end)]
            assert values == [b"a", b"b", b"c"][min(start, 2) if start < 6 else 3 :]
            await reader.close()

    async def test_an_open_transaction_is_not_yet_there(self, apache: str, apache_log: KafkaLog, topic: str) -> None:
        await apache_log.create(topic, 1, {})
        await apache_log.append(topic, 0, b"plain")
        producer = AIOKafkaProducer(bootstrap_servers=apache, transactional_id=f"tx-{uuid4().hex}")
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"open", partition=0)
            assert await apache_log.bounds(topic, 0) == (0, 1)
            reader = await apache_log.reader(topic, 0, 0)
            assert [record.value for record in await read_to(reader, 1)] == [b"plain"]
            assert not await reader.read(10, 200)
            await producer.commit_transaction()
            assert [record.value for record in await read_some(reader)] == [b"open"]
        finally:
            await producer.stop()


class TestApacheFaults:
    async def test_a_refused_record_does_not_spoil_the_ones_after_it(self, apache_log: KafkaLog, topic: str) -> None:
        """An idempotent producer's sequence has a gap then, which Kafka would refuse for ever."""
        await apache_log.create(topic, 2, {"max.message.bytes": "1000"})
        assert await apache_log.append(topic, 0, b"before") == 0
        with pytest.raises(PartitionHalted, match=r"refuses a record of 5,000 bytes .*max\.message\.bytes"):
            await apache_log.append(topic, 0, b"x" * 5_000)
        assert await apache_log.append(topic, 0, b"after") == 1
        assert await apache_log.append(topic, 1, b"elsewhere") == 0

    async def test_a_topic_made_again_halts_its_reader(self, apache: str, apache_log: KafkaLog, topic: str) -> None:
        await filled(apache_log, topic, [b"%d" % i for i in range(10)])
        reader = await apache_log.reader(topic, 0, 0)
        await read_to(reader, 10)
        await self._make_again(apache, apache_log, topic)
        await apache_log.append(topic, 0, b"another life")
        await halts(reader, "10 is next")

    async def test_appending_goes_on_in_a_topic_made_again(self, apache: str, apache_log: KafkaLog, topic: str) -> None:
        await filled(apache_log, topic, [b"%d" % i for i in range(10)])
        await self._make_again(apache, apache_log, topic)
        assert await apache_log.append(topic, 0, b"another life") == 0

    async def _make_again(self, apache: str, log: KafkaLog, topic: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=apache)
        await admin.start()
        try:
            await admin.delete_topics([topic])
            deadline = time.monotonic() + PATIENCE_SECONDS
            while await log.partitions(topic):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        finally:
            await admin.close()
        while not await log.create(topic, 1, {}):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
