"""One stage in a worker process, as a supervised Faust Service: its partitions come and go with the Kafka group.

The group only says who works on what. Where work starts is the sink's to say, and who may write, the claim's.
Callbacks of a rebalance do no work: aiokafka sends no heartbeats while they run.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import structlog
from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from faust import Service

from rollup_engine.buckets.log import BucketLog
from rollup_engine.buckets.reader import BucketReader
from rollup_engine.errors import BrokerUnavailable, ClaimLost, PartitionHalted
from rollup_engine.pipeline import StagePartition, drive
from rollup_engine.ports import Reader
from rollup_engine.runtime.alarms import Alarms
from rollup_engine.runtime.kafka import KafkaLog, consumer_options
from rollup_engine.runtime.kafka_clients import PatientConsumer, stop_clients
from rollup_engine.runtime.kafka_reader import KafkaReader, source_of
from rollup_engine.telemetry import HALTED, OPEN_PARTITIONS

log = structlog.get_logger(__name__)
COMMIT_SECONDS = 5.0  # to Kafka's group, for lag displays only
ALARM_SECONDS = 1.0
WATCH_SECONDS = 5.0
RETRY_SECONDS = 1.0
YIELD_SECONDS = 15.0  # without a group to say who works on what: to whoever claimed it last
HALT_RETRY_SECONDS = 15.0  # a halted partition is tried again, so that the remedy takes effect by itself
STUCK_SECONDS = 30.0  # without any progress, a stop no longer waits: Postgres is gone, or a bug holds it up
GONE_SECONDS = 3.0  # the same where Kafka does not answer
DRAIN_TRIES = 3
SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_MS = 2_000


class StageService(Service, ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Runs `make(partition)` for every partition the group assigns to this process."""

    def __init__(
        self,
        stage: str,
        group: str,
        topics: Iterable[str],
        kafka: KafkaLog,
        make: Callable[[TopicPartition], StagePartition],
        alarms: Alarms,
        *,
        drain: bool,
        buckets: BucketLog | None = None,
        share: Callable[[int], bool] = lambda partition: True,
        let_go: Callable[[Iterable[int]], None] | None = None,
    ) -> None:
        """`drain`: a clean stop first works off what its topics hold by then; for a broker that ends with us. What is
        in `buckets` outlives us: it is left where it is. `let_go` is called with partitions that are no longer ours.

        Such a one on an embedded broker takes every partition of its `share` without asking a group: that broker lets a
        group wait 5 s before it begins, and 18 s for one that died. Another worker beside it still gets what it claims.
        """
        super().__init__()
        self._drain, self._alone, self._share = drain, drain and kafka.cluster.embedded, share
        self.stage, self._group, self._topics = stage, group, list(topics)
        self._kafka, self._make, self._alarms, self._buckets = kafka, make, alarms, buckets
        self._starting: set[TopicPartition] = set()  # no progress yet since their session began
        self._stopping = asyncio.Event()
        self._let_go = let_go
        self._shared_out = asyncio.Event()  # not between the two callbacks of a rebalance, when nothing is ours
        self._shared_out.set()
        self._left, self._cut_short = False, False  # our work, at a stop; that in the midst of a rebalance
        self._sessions: dict[TopicPartition, asyncio.Task[None]] = {}
        self._readers: dict[TopicPartition, KafkaReader | BucketReader] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._consumer: PatientConsumer
        self._progress, self._kafka_answers = time.monotonic(), True
        self.halted: dict[TopicPartition, PartitionHalted] = {}
        self._gone: set[TopicPartition] = set()  # halted because their topic is
        self._missed: set[str] = set()  # topics that were not there when they were last looked for
        self.unfinished: set[TopicPartition] = set()  # after a stop: partitions that were not closed cleanly
        self.left_behind = False  # after a stop that drains: Kafka was gone, with all that it still held

    @property
    def label(self) -> str:
        return f"{type(self).__name__}: {self.stage}"

    @property
    def drained(self) -> bool:
        """After a stop: whether all that should be worked off was."""
        return not self._drain or not (self.unfinished or self.left_behind or self._cut_short)

    @property
    def partitions(self) -> int:
        """How many input partitions are open: claimed, and being read."""
        return sum(reader.opened for reader in self._readers.values())

    async def on_start(self) -> None:
        self._consumer = PatientConsumer(
            **consumer_options(self._kafka.cluster),
            group_id=None if self._alone else self._group,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=24 * 3_600_000,  # a partition under backpressure is not dead; heartbeats tell
        )
        if self._alone:
            counts = {topic: await self._kafka.partitions(topic) for topic in self._topics}
            ours = [TopicPartition(topic, p) for topic, n in counts.items() for p in range(n) if self._share(p)]
            await self._consumer.start()
            self._consumer.assign(ours)
            await self.on_partitions_assigned(ours)
            return
        self._consumer.subscribe(self._topics, listener=self)
        try:
            await self._consumer.start()
        except KafkaError as error:
            raise BrokerUnavailable(f"Kafka does not let {self.stage} join group {self._group}: {error!r}.") from error

    async def on_stop(self) -> None:
        await self.finish()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._commit(), RETRY_SECONDS)
        await stop_clients(self._consumer)

    async def finish(self) -> None:
        """Every partition closes cleanly: what is pending is emitted. One that is stuck is left as after a crash.

        The first half of a stop. The partitions stay ours until the second one, in which we leave the group.
        """
        if self._left:
            return
        self._kafka_answers = await self._kafka.answers()
        patience = STUCK_SECONDS if self._kafka_answers else GONE_SECONDS
        self._stopping.set()
        self._progress = time.monotonic()
        while True:
            waiting = [task for task in self._sessions.values() if not task.done()]
            patient = time.monotonic() - self._progress <= patience
            if waiting:
                await asyncio.wait(waiting, timeout=0.5)
                for task in waiting if not patient else ():
                    task.cancel()
            elif self._drain and patient and not self._shared_out.is_set():
                with suppress(TimeoutError):  # what is ours in the end may have something left to work off
                    await asyncio.wait_for(self._shared_out.wait(), 0.5)
            else:
                break
        self._left, self._cut_short = True, not self._shared_out.is_set()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._shared_out.clear()
        tasks = [self._sessions.pop(one) for one in list(self._sessions)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._let_go is not None:
            self._let_go([one.partition for one in revoked])
        self._readers.clear()
        self._committed.clear()
        if not self._left:
            self.unfinished.clear()  # others finish them, or we do once they are ours again
        for one in list(self.halted):
            self._resumed(one)
        OPEN_PARTITIONS.labels(self.stage).set(0)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        assigned = list(assigned)
        self._consumer.pause(*filter(self._of_a_bucket, assigned))  # there is nothing to fetch
        for one in assigned:
            if not self._left and (self._drain or not self._stopping.is_set()):
                self._sessions[one] = asyncio.create_task(
                    self._run(one), name=f"{self.stage} {one.topic}/{one.partition}"
                )
        OPEN_PARTITIONS.labels(self.stage).set(len(self._sessions))
        self._progress = time.monotonic()
        self._shared_out.set()

    async def _run(self, one: TopicPartition) -> None:
        """Sessions on one partition, one after another, until it is revoked or the service stops."""
        where = source_of(one)
        lasts = self._of_a_bucket(one)  # whatever is left in it is there the next time, too
        if not lasts:
            self.unfinished.add(one)
        drain = self._drain and not lasts
        drains = DRAIN_TRIES if drain else 1
        while drains:
            pause = RETRY_SECONDS
            try:
                partition = self._make(one)
                async with self._reader(one, partition.pause_seconds) as reader:
                    self._starting.add(one)
                    end = self._end_of(one) if drain else None
                    await drive(partition, reader, self._stopping, end, on_progress=lambda: self._progressed(one))
                self.unfinished.discard(one)
                return
            except ClaimLost:
                log.warning("another worker has taken the partition over", stage=self.stage, partition=where)
                if self._stopping.is_set():  # it works off the rest
                    self.unfinished.discard(one)
                    return
                pause = YIELD_SECONDS if self._alone else RETRY_SECONDS
            except (BrokerUnavailable, KafkaError) as error:
                log.warning("broker fault, trying again", stage=self.stage, partition=where, error=str(error))
            except PartitionHalted as halt:
                self._halt(one, halt)
                pause = HALT_RETRY_SECONDS
            except Exception as error:  # a bug, or a fault nobody thought of: stop this partition, and say so
                log.exception("unexpected failure", stage=self.stage, partition=where)
                self._halt(one, PartitionHalted(f"unexpected failure in {where}: {error!r}", "See the worker's log."))
                pause = HALT_RETRY_SECONDS
            if self._stopping.is_set():
                drains -= 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _of_a_bucket(self, one: TopicPartition) -> bool:
        return self._buckets is not None and self._buckets.holds(one.topic)

    @asynccontextmanager
    async def _reader(self, one: TopicPartition, pause_seconds: float) -> AsyncIterator[Reader]:
        """Reads the partition for one session."""
        if self._buckets is not None and self._buckets.holds(one.topic):
            bucket = self._readers[one] = self._buckets.bucket_reader(*one)
            try:
                yield bucket
            finally:
                await bucket.close()
            return
        reader = KafkaReader(self._kafka, self._consumer, one, pause_seconds=pause_seconds, stop=self._stopping)
        self._readers[one] = reader
        yield reader

    def _end_of(self, one: TopicPartition) -> Callable[[], Awaitable[int]]:
        async def end() -> int:
            """Where Kafka is gone, there is nothing more to work off; what was taken in is still emitted."""
            if self._kafka_answers:
                return (await self._kafka.bounds(*one))[1]
            log.warning(
                "Kafka is gone, and with it what was left to work off", stage=self.stage, partition=source_of(one)
            )
            self.left_behind = True
            return 0

        return end

    def _progressed(self, one: TopicPartition) -> None:
        self._progress = time.monotonic()
        if one in self._starting:  # whoever worked on it before may have left an alarm
            self._starting.discard(one)
            self._alarms.tell(self.stage, source_of(one), None)
        self._resumed(one)

    def _halt(self, one: TopicPartition, halt: PartitionHalted) -> None:
        where = source_of(one)
        log.error("partition halted", stage=self.stage, partition=where, cause=halt.cause, remedy=halt.remedy)
        self.halted[one] = halt
        self._alarms.tell(self.stage, where, halt)
        HALTED.labels(self.stage).set(len(self.halted))

    def _resumed(self, one: TopicPartition) -> None:
        if self.halted.pop(one, None) is not None:
            HALTED.labels(self.stage).set(len(self.halted))

    @Service.timer(COMMIT_SECONDS)
    async def _commit_now_and_then(self) -> None:
        await self._commit()

    @Service.timer(WATCH_SECONDS)
    async def _watch_topics(self) -> None:
        """A topic that is gone has no partitions to be assigned, so nobody else would notice."""
        for topic in self._topics:
            one = TopicPartition(topic, 0)
            try:
                there = await self._kafka.partitions(topic)
            except BrokerUnavailable:
                return
            if not there and topic in self._missed and one not in self.halted:  # one broker may be behind for a moment
                self._gone.add(one)
                self._halt(one, PartitionHalted(f"topic {topic} is no longer in Kafka", "Bring it back as it was."))
            elif there and one in self._gone:  # whoever is assigned its partitions looks at what it holds now
                self._gone.discard(one)
                self._resumed(one)
                self._alarms.tell(self.stage, source_of(one), None)
            (self._missed.discard if there else self._missed.add)(topic)

    @Service.timer(ALARM_SECONDS)
    async def _publish_alarms(self) -> None:
        await self._alarms.publish()

    async def _commit(self) -> None:
        """Tell Kafka's group how far it is. Nothing trusts these offsets."""
        readers = {one: reader for one, reader in self._readers.items() if not self._of_a_bucket(one)}
        offsets = {one: reader.position for one, reader in readers.items() if reader.position}
        if offsets and offsets != self._committed and not self._alone:
            try:
                await self._consumer.commit(offsets)
                self._committed = offsets
            except KafkaError as error:
                log.debug("offsets for lag displays were not committed", stage=self.stage, error=str(error))
