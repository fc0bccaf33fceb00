"""The intake's producer on real brokers: topics that are not there, topics of small batches, and what a batch holds."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NotEnoughReplicasError
from aiokafka.producer.sender import SendProduceReqHandler

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, IntakeUnavailable
from rollup_engine.intake.door import EVENT_BYTES_MAX, Submitted
from rollup_engine.runtime import intake_producer, kafka_clients
from rollup_engine.runtime.intake import Intake
from rollup_engine.runtime.kafka import KafkaLog, wait_for_topics
from tests.unit.route.specs import event, event_type


class Bed:
    """A topic that may not exist yet, and an intake for it."""

    def __init__(self, log: KafkaLog) -> None:
        self.log, self.topic = log, f"intake-{uuid.uuid4().hex[:8]}"
        self.config = Config(events=(event_type().model_copy(update={"kafka_topics": (self.topic,)}),))
        settings = Settings(_env_file=None, ingest_timeout_s=10)  # type: ignore[call-arg]
        address = log.cluster.connection["bootstrap_servers"]
        self.intake = Intake(settings, self._config, address=lambda _: address)

    async def _config(self) -> Config:
        return self.config

    async def create(self, **config: str) -> None:
        await self.log.create(self.topic, 3, {name.replace("_", "."): value for name, value in config.items()})
        await wait_for_topics(self.log, {self.topic: 3})

    async def records(self) -> list[list[bytes]]:
        """The values of each partition."""
        found = []
        bounds = await self.log.all_bounds(TopicPartition(self.topic, number) for number in range(3))
        for number in range(3):
            reader = await self.log.reader(self.topic, number, 0)
            values: list[bytes] = []
            while len(values) < bounds[TopicPartition(self.topic, number)][1]:
                values += [record.value or b"" for record in await reader.read(1_000, 1_000)]
            await reader.close()
            found.append(values)
        return found


@pytest.fixture
async def bed(kafka: str) -> AsyncIterator[Bed]:
    async with KafkaLog.connect({"bootstrap_servers": kafka}) as log:
        made = Bed(log)
        yield made
        await made.intake.close()


def submitted(count: int, **changes: Any) -> list[Submitted]:
    return [Submitted(event(id=f"{n}", **changes), "download", str(n)) for n in range(count)]


async def test_a_topic_that_comes_later(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_producer, "ASK_AGAIN_SECONDS", 0.2)
    for _ in range(2):
        with pytest.raises(IntakeUnavailable, match="does not exist"):
            await bed.intake.take(submitted(2))
    assert await bed.log.partitions(bed.topic) == 0, "it was not made by asking for it"
    await bed.create()
    async with asyncio.timeout(10):
        while True:  # asked again after a while
            with suppress(IntakeUnavailable):
                await bed.intake.take(submitted(2))
                break
            await asyncio.sleep(0.1)
    assert sum(map(len, await bed.records())) == 2


async def test_calls_take_turns_and_each_is_in_one_place(bed: Bed) -> None:
    await bed.create()
    for _ in range(6):
        await bed.intake.take(submitted(4))
    assert [len(values) for values in await bed.records()] == [8, 8, 8]


async def test_the_largest_events_there_are(bed: Bed) -> None:
    await bed.create()
    largest = event(more="x" * (EVENT_BYTES_MAX - len(event(more=""))))
    judged = await bed.intake.take([Submitted(largest, "download", str(n)) for n in range(3)])
    assert len(judged.accepted) == 3
    assert [one for values in await bed.records() for one in values] == [largest] * 3


async def test_a_topic_of_small_batches(apache: str) -> None:
    async with KafkaLog.connect({"bootstrap_servers": apache}) as log:
        bed = Bed(log)
        await bed.create(max_message_bytes="2000")
        many, large = submitted(50), Submitted(event(id="large", more="x" * 2_000), "download", "large")
        judged = await bed.intake.take([*many, large])
        assert [one.key for one, _ in judged.refused] == ["large"]
        assert "2,000 at a time" in judged.errors[-1][0]
        assert sorted(one for values in await bed.records() for one in values) == sorted(one.value for one in many)
        await bed.intake.close()


async def test_a_topic_that_may_not_be_described(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missing for its own events only."""
    partitions = KafkaLog.partitions

    async def told(log: KafkaLog, topic: str) -> int:
        if topic == "forbidden":
            raise BrokerUnavailable("TopicAuthorizationFailedError")
        return await partitions(log, topic)

    await bed.create()
    forbidden = event_type("secret").model_copy(update={"kafka_topics": ("forbidden",)})
    bed.config = Config(events=(forbidden, *bed.config.events))
    monkeypatch.setattr(KafkaLog, "partitions", told)
    await bed.intake.take(submitted(2))
    with pytest.raises(IntakeUnavailable, match="may not be used"):
        await bed.intake.take([Submitted(event(), "secret", "1")])


async def test_a_closed_producer_tries_nothing_any_more(apache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's own `stop` would wait for ever for what a topic does not take, and then be left running."""

    def refused(handler: SendProduceReqHandler, response: Any) -> None:
        short = NotEnoughReplicasError.errno
        response.topics = [(name, [(one[0], short, *one[2:]) for one in parts]) for name, parts in response.topics]
        handle(handler, response)

    handle = SendProduceReqHandler.handle_response
    monkeypatch.setattr(SendProduceReqHandler, "handle_response", refused)
    monkeypatch.setattr(kafka_clients, "_STOP_SECONDS", 0.2)
    async with KafkaLog.connect({"bootstrap_servers": apache}) as log:
        bed = Bed(log)
        await bed.create()
        bed.intake = Intake(
            Settings(_env_file=None, ingest_timeout_s=0.5),  # type: ignore[call-arg]
            bed._config,
            address=lambda _: apache,
        )
        with pytest.raises(IntakeUnavailable):
            await bed.intake.take(submitted(1))
        await bed.intake._connection.ready()
        with pytest.raises(IntakeUnavailable, match="did not acknowledge"):
            await bed.intake.take(submitted(1))
        producer = bed.intake._connection._producer
        assert producer is not None
        assert producer.left_behind[bed.topic] > 0
        await bed.intake.close()
        await asyncio.sleep(0)
        assert producer._producer._sender.sender_task.done()
        assert producer.left_behind.total() == 0
