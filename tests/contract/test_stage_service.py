"""A stage's service: sessions come and go, fail and are begun again, and a stop ends whatever happens."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from rollup_engine.errors import BrokerUnavailable, ClaimLost, PartitionHalted
from rollup_engine.ports import Record
from rollup_engine.runtime import service as services
from rollup_engine.runtime.embedded import Broker, start_broker
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.service import StageService

PARTITIONS = 3
PATIENCE_SECONDS = 30


class Work:
    """What all sessions share: where each partition stands, as the sink would keep it, and what happened."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = defaultdict(int)
        self.values: dict[int, list[bytes]] = defaultdict(list)
        self.opened: dict[int, int] = defaultdict(int)
        self.closed: set[int] = set()
        self.faults: dict[int, list[BaseException]] = defaultdict(list)  # raised by the next batches of a partition
        self.hold: asyncio.Event | None = None  # batches wait for it
        self.held_up: set[int] = set()  # partitions that wait for records that should be there
        self.alarms: dict[str, PartitionHalted | None] = {}  # by partition, as they were last told

    @property
    def taken(self) -> int:
        return sum(map(len, self.values.values()))


class Session:
    """Implements `pipeline.StagePartition`, on `Work`."""

    stage = "fake"
    records_max = 20
    pause_seconds = 0.0

    def __init__(self, work: Work, one: TopicPartition) -> None:
        self._work, self._partition = work, one.partition

    async def open(self) -> int:
        self._work.opened[self._partition] += 1
        return self._work.positions[self._partition]

    async def process(self, records: Sequence[Record], position: int) -> None:
        if self._work.hold is not None:
            await self._work.hold.wait()
        if self._work.faults[self._partition]:
            raise self._work.faults[self._partition].pop(0)
        self._work.values[self._partition] += [record.value or b"" for record in records]
        self._work.positions[self._partition] = position

    async def tick(self) -> int:
        return 60_000

    @property
    def held_up(self) -> bool:
        return self._partition in self._work.held_up

    async def close(self) -> None:
        self._work.closed.add(self._partition)

    def release(self) -> None:
        pass


class Told:
    """In place of `Alarms`: what would be written to the database."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def tell(self, stage: str, source: str, halt: PartitionHalted | None) -> None:
        self._work.alarms[source] = halt

    async def publish(self) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_SECONDS", "HALT_RETRY_SECONDS", "YIELD_SECONDS"):
        monkeypatch.setattr(services, name, 0.1)


@pytest.fixture
async def kafka_log(kafka: str) -> AsyncIterator[KafkaLog]:
    """Connected to each Kafka in turn: the embedded one, taken without a group, and Apache Kafka, with one."""
    async with KafkaLog.connect({"bootstrap_servers": kafka}) as connected:
        yield connected


@pytest.fixture
def topic() -> str:
    return f"service-{uuid4().hex}"


def a_service(log: KafkaLog, topic: str, work: Work, *, drain: bool = True) -> StageService:
    return StageService("fake", f"group-{topic}", [topic], log, lambda one: Session(work, one), Told(work), drain=drain)


async def until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def fill(log: KafkaLog, topic: str, count: int, start: int = 0) -> None:
    """`count` records on each partition, in order."""
    await log.create(topic, PARTITIONS, {})

    async def one(partition: int) -> None:
        for number in range(start, start + count):
            await log.append(topic, partition, b"%d" % number)

    await asyncio.gather(*map(one, range(PARTITIONS)))


async def begun(log: KafkaLog, topic: str, work: Work, count: int) -> StageService:
    """A service that has taken `count` records of each partition."""
    await fill(log, topic, count)
    service = a_service(log, topic, work)
    await service.start()
    await until("the first records", lambda: work.taken == count * PARTITIONS)
    return service


def in_order(work: Work, count: int) -> bool:
    return all(work.values[p] == [b"%d" % number for number in range(count)] for p in range(PARTITIONS))


async def test_every_partition_is_read_in_order_and_closed(kafka_log: KafkaLog, topic: str) -> None:
    work = Work()
    service = await begun(kafka_log, topic, work, 30)
    await fill(kafka_log, topic, 30, start=30)
    await until("the others", lambda: work.taken == 60 * PARTITIONS)
    assert service.partitions == PARTITIONS
    await service.stop()
    assert in_order(work, 60)
    assert work.closed == set(range(PARTITIONS))
    assert service.drained
    assert set(work.opened.values()) == {1}


async def test_between_the_halves_of_a_stop_nothing_is_read(kafka_log: KafkaLog, topic: str) -> None:
    """The stores of partitions are written then; a rebalance must not begin another session."""
    work = Work()
    service = await begun(kafka_log, topic, work, 30)
    await service.finish()
    assert work.closed == set(range(PARTITIONS))
    await fill(kafka_log, topic, 10, start=30)
    everything = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    gone: list[int] = []
    service._let_go = gone.extend
    await service.on_partitions_revoked(everything)
    assert gone == list(range(PARTITIONS))
    await service.on_partitions_assigned(everything)
    await asyncio.sleep(0.3)
    assert in_order(work, 30)
    await service.stop()
    assert in_order(work, 30)
    assert service.drained


async def test_a_stop_works_off_what_there_is_by_then(kafka_log: KafkaLog, topic: str) -> None:
    work = Work()
    work.hold = asyncio.Event()
    await fill(kafka_log, topic, 100)
    service = a_service(kafka_log, topic, work)
    await service.start()
    stopping = asyncio.ensure_future(service.stop())
    await asyncio.sleep(0)
    work.hold.set()
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    assert in_order(work, 100)
    assert work.closed == set(range(PARTITIONS))
    assert service.drained


async def test_a_stop_in_the_midst_of_a_rebalance_works_off_what_is_ours_after_it(
    kafka_log: KafkaLog, topic: str
) -> None:
    """Between its two callbacks nothing is: whoever left the group has handed over to us."""
    work = Work()
    await fill(kafka_log, topic, 5)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("every partition", lambda: len(work.opened) == PARTITIONS)
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    await service.on_partitions_revoked(partitions)
    await fill(kafka_log, topic, 100, start=5)
    stopping = asyncio.ensure_future(service.stop())
    await until("the wish to stop", service._stopping.is_set)
    await asyncio.sleep(1)
    assert not stopping.done()
    await service.on_partitions_assigned(partitions)
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    assert in_order(work, 105)
    assert work.closed == set(range(PARTITIONS))
    assert service.drained


async def test_a_stop_says_when_a_rebalance_did_not_end(
    kafka_log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STUCK_SECONDS", 0.5)
    service = a_service(kafka_log, topic, Work())
    await fill(kafka_log, topic, 5)
    await service.start()
    await until("every partition", lambda: len(service._sessions) == PARTITIONS)
    await service.on_partitions_revoked(TopicPartition(topic, number) for number in range(PARTITIONS))
    await asyncio.wait_for(service.stop(), PATIENCE_SECONDS)
    assert not service.drained


async def test_without_draining_a_stop_finishes_the_batch_and_no_more(kafka_log: KafkaLog, topic: str) -> None:
    work = Work()
    work.hold = asyncio.Event()
    await fill(kafka_log, topic, 100)
    service = a_service(kafka_log, topic, work, drain=False)
    await service.start()
    await until("every partition", lambda: len(work.opened) == PARTITIONS)
    stopping = asyncio.ensure_future(service.stop())
    await until("the wish to stop", service._stopping.is_set)
    work.hold.set()
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    assert all(len(values) <= Session.records_max for values in work.values.values())
    assert work.closed == set(range(PARTITIONS))


@pytest.mark.parametrize("fault", [ClaimLost(), BrokerUnavailable()])
async def test_a_session_that_ends_is_begun_again_from_the_sinks_position(
    kafka_log: KafkaLog, topic: str, fault: Exception
) -> None:
    work = Work()
    work.faults[1] = [fault, fault]
    await fill(kafka_log, topic, 50)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("all records", lambda: work.taken == 50 * PARTITIONS)
    await service.stop()
    assert in_order(work, 50)
    assert work.opened == {0: 1, 1: 3, 2: 1}
    assert not service.halted


@pytest.mark.parametrize(
    ("fault", "cause"), [(PartitionHalted("a hole", "Mend it."), "a hole"), (KeyError("a bug"), "a bug")]
)
async def test_a_halted_partition_says_so_and_is_tried_again(
    kafka_log: KafkaLog, topic: str, fault: Exception, cause: str
) -> None:
    work = Work()
    work.faults[2] = [fault] * 3
    await fill(kafka_log, topic, 50)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("it halts", lambda: service.halted)
    (halted,) = service.halted
    assert halted == TopicPartition(topic, 2)
    assert cause in service.halted[halted].cause
    assert work.alarms[f"{topic}/2"] is service.halted[halted]
    await until("all records, the other partitions' too", lambda: work.taken == 50 * PARTITIONS)
    await until("no more word of it", lambda: not service.halted)
    assert work.alarms == {f"{topic}/{number}": None for number in range(PARTITIONS)}
    await service.stop()
    assert in_order(work, 50)


async def test_a_halted_partition_stays_one_while_it_waits_for_what_is_missing(kafka_log: KafkaLog, topic: str) -> None:
    """Begun again, it reads, and still makes no progress: the alarm stays."""
    work = Work()
    work.faults[2], work.held_up = [PartitionHalted("a hole", "Mend it.")], {2}
    await fill(kafka_log, topic, 50)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("all records", lambda: work.taken == 50 * PARTITIONS)
    assert list(service.halted) == [TopicPartition(topic, 2)]
    assert work.alarms[f"{topic}/2"] is not None
    work.held_up = set()
    await until("no more word of it", lambda: not service.halted and work.alarms[f"{topic}/2"] is None)
    await service.stop()


async def test_a_topic_that_is_gone_is_an_alarm(apache: str, topic: str) -> None:
    async with KafkaLog.connect({"bootstrap_servers": apache}) as log:
        work = Work()
        await fill(log, topic, 5)
        service = a_service(log, topic, work, drain=False)
        await service.start()
        await until("all records", lambda: work.taken == 5 * PARTITIONS)
        admin = AIOKafkaAdminClient(bootstrap_servers=apache)
        await admin.start()
        await admin.delete_topics([topic])
        await admin.close()
        await until("the alarm", lambda: TopicPartition(topic, 0) in service.halted)
        assert "no longer in Kafka" in service.halted[TopicPartition(topic, 0)].cause
        assert work.alarms[f"{topic}/0"] is not None
        await log.create(topic, PARTITIONS, {})

        def halts_as_gone() -> list[PartitionHalted]:  # whoever has not noticed halts too: it is not the topic it was
            return [halt for halt in service.halted.values() if "no longer in Kafka" in halt.cause]

        await until("no more word of it", lambda: not halts_as_gone())
        await service.stop()


async def test_a_partition_that_cannot_be_worked_off_is_owned_up_to(kafka_log: KafkaLog, topic: str) -> None:
    work = Work()
    work.faults[0] = [PartitionHalted("a hole", "Mend it.")] * 1_000
    await fill(kafka_log, topic, 50)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("it halts", lambda: service.halted)
    await asyncio.wait_for(service.stop(), PATIENCE_SECONDS)
    assert not service.drained
    assert service.unfinished == {TopicPartition(topic, 0)}
    assert work.closed == {1, 2}


async def test_one_that_is_stuck_does_not_hold_up_a_stop_for_ever(
    kafka_log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STUCK_SECONDS", 0.5)
    work = Work()
    work.hold = asyncio.Event()
    await fill(kafka_log, topic, 5)
    service = a_service(kafka_log, topic, work)
    await service.start()
    await until("every partition", lambda: len(work.opened) == PARTITIONS)
    await asyncio.wait_for(service.stop(), PATIENCE_SECONDS)
    assert not service.drained
    assert work.taken == 0


async def test_two_of_a_group_share_and_follow(apache: str, topic: str) -> None:
    """Whoever holds a partition goes on where the other stood; whatever the group does, nothing is passed over."""
    work = Work()
    async with KafkaLog.connect({"bootstrap_servers": apache}) as log:
        await fill(log, topic, 20)
        first, second = a_service(log, topic, work, drain=False), a_service(log, topic, work, drain=False)
        await first.start()
        await second.start()
        await until("both have some", lambda: 0 < first.partitions < PARTITIONS and second.partitions)
        await until("all records", lambda: work.taken == 20 * PARTITIONS)
        await first.stop()
        await fill(log, topic, 20, start=20)
        await until("all records again", lambda: work.taken == 40 * PARTITIONS)
        await second.stop()
    assert in_order(work, 40)


class TestBrokerGone:
    @pytest.fixture
    def own_broker(self) -> Iterator[Broker]:
        directory = Path(tempfile.mkdtemp(prefix="rollup-engine-gone-"))
        running = start_broker(directory)
        yield running
        running.stop()
        shutil.rmtree(directory)

    async def test_a_stop_closes_what_it_has_and_owns_up(self, own_broker: Broker, topic: str) -> None:
        work = Work()
        async with KafkaLog.connect({"bootstrap_servers": own_broker.bootstrap}) as log:
            await fill(log, topic, 10)
            service = a_service(log, topic, work)
            await service.start()
            await until("all records", lambda: work.taken == 10 * PARTITIONS)
            os.kill(own_broker.pid, signal.SIGKILL)
            started = time.monotonic()
            await asyncio.wait_for(service.stop(), PATIENCE_SECONDS)
        assert time.monotonic() - started < 20
        assert work.closed == set(range(PARTITIONS)), "what was taken in is still to be emitted"
        assert service.left_behind
        assert not service.drained

    async def test_a_log_with_an_unanswered_record_is_left(self, own_broker: Broker, topic: str) -> None:
        async with KafkaLog.connect({"bootstrap_servers": own_broker.bootstrap}) as log:
            await log.create(topic, 1, {})
            await log.append(topic, 0, b"x")
            os.kill(own_broker.pid, signal.SIGKILL)
            pending = asyncio.ensure_future(log.append(topic, 0, b"y"))
            await asyncio.sleep(0)
            assert not await log.answers()
            started = time.monotonic()
        assert time.monotonic() - started < 10
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)

    async def test_nobody_there_is_an_error_at_once(self, own_broker: Broker) -> None:
        os.kill(own_broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            async with KafkaLog.connect({"bootstrap_servers": own_broker.bootstrap}):
                pass
