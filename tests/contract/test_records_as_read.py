"""Records handed out as aiokafka's batch layer reads them say what its `ConsumerRecord`s say."""

from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.consumer.fetcher import PartitionRecords

from rollup_engine.ports import Record
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.kafka_clients import hand_out_records_as_read


async def read(log: KafkaLog, topic: str, count: int) -> list[Record]:
    reader = await log.reader(topic, 0, 0)
    records: list[Record] = []
    while len(records) < count:
        records += await reader.read(count, 5_000)
    await reader.close()
    return records


@pytest.mark.parametrize("compression", [None, "gzip", "lz4", "snappy", "zstd"])
async def test_they_are_the_same(apache: str, compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, values = f"as-read-{uuid4().hex}", [b"{}", b"", None, b"x" * 5_000, "é".encode()] * 20
    async with KafkaLog.connect({"bootstrap_servers": apache}) as log:
        await log.create(topic, 1, {})
        producer = AIOKafkaProducer(bootstrap_servers=apache, compression_type=compression, linger_ms=50)
        await producer.start()
        sent = [
            await producer.send(topic, value, key=b"k", partition=0, timestamp_ms=1_660_000_000_000 + number)
            for number, value in enumerate(values)
        ]
        for one in sent:
            await one
        await producer.stop()
        plain = await read(log, topic, len(values))
        monkeypatch.setattr(PartitionRecords, "_consumer_record", PartitionRecords._consumer_record)  # put back after
        hand_out_records_as_read()
        bare = await read(log, topic, len(values))
    assert all(type(record) is ConsumerRecord for record in plain)
    assert not any(isinstance(record, ConsumerRecord) for record in bare), "aiokafka no longer asks the hook"
    for records in (plain, bare):
        assert [record.value for record in records] == values
        assert [record.offset for record in records] == list(range(len(values)))
        assert [record.timestamp for record in records] == [1_660_000_000_000 + n for n in range(len(values))]
