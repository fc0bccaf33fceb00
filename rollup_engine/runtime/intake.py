"""Events from HTTP onto the raw topics: judged by the YAML in force, acknowledged by all in-sync replicas.

Owns: that `take` returns only when every good event is durable, and that memory stays bounded while Kafka is away: what
is sent and not acknowledged has a limit, beyond which nothing is taken. Connects when the first events come, in the
background, and again after a failure. Must never queue what it cannot send.

How a path uses it (`api/ingest.py`, `api/cloudevents.py`):

    async def work(body: bytes) -> Response:                # at most once per Idempotency-Key and body
        events: list[Submitted] = read(body, …)             # envelope errors inside
        intake = await services.intake()                    # imports polars and aiokafka on the first call
        judged = await intake.take(events, key.customer)
        return …                                            # from judged.accepted and judged.refused

    return await answered(request, key, work)               # api.ingesting: body, replay
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import structlog
from aiokafka.errors import KafkaError

from rollup_engine.clock import SystemClock
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, IntakeUnavailable
from rollup_engine.intake.door import Door, Judged, Request, Submitted, by_topic
from rollup_engine.runtime.intake_producer import IntakeProducer, address_of, fits
from rollup_engine.telemetry import INGESTED

LINGER_SECONDS: Final = 0.002
GROUP_EVENTS: Final = 2_000  # so many close a group: while it is judged, everything else waits
CONNECT_AGAIN_SECONDS: Final = 1.0
SILENCE_SECONDS_MAX: Final = 60.0
CLOSE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


_NO_TOPIC: Final = "A topic of these events does not exist in Kafka; the server's log names it."

Outcome: TypeAlias = Judged | BaseException
"""Of one request: what was judged and is acknowledged, or why nothing is known of it."""


@dataclass
class _Group:
    """Requests that came within a moment: judged in one go and sent in one go, which costs little more than one."""

    requests: list[Request] = field(default_factory=list)
    events: int = 0
    task: asyncio.Task[list[Outcome]] | None = None


Connect = Callable[[Settings, str, Sequence[str]], Awaitable[IntakeProducer]]


class Intake:
    """One of a process. `close` it at the end."""

    def __init__(
        self,
        settings: Settings,
        config: Callable[[], Awaitable[Config]],
        connect: Connect = IntakeProducer.connect,
        address: Callable[[Settings], str] = address_of,
    ) -> None:
        """`config` gives the YAML in force."""
        self._settings, self._config, self._connect, self._address = settings, config, connect, address
        self._clock = SystemClock()
        self._bytes_max = settings.ingest_held_mb << 20
        self._bytes = 0  # of events that somebody waits for
        self._group: _Group | None = None  # that further requests may join
        self._door: tuple[Config, Door] | None = None
        self._producer: IntakeProducer | None = None
        self._connecting: asyncio.Task[IntakeProducer] | None = None
        self._failed: tuple[float, BrokerUnavailable] | None = None  # when connecting failed last, and how
        self._answered_at = 0.0  # when this connection was made, or Kafka last acknowledged something
        self._closing: set[asyncio.Task[None]] = set()

    async def take(self, events: Sequence[Submitted], customer: str | None = None) -> Judged:
        """Judge the events and append the good ones; returns once all in-sync replicas have acknowledged these.

        `customer`: the one that the API key is bound to. Raises `IntakeUnavailable` where too much waits for Kafka
        already: then nothing was sent. And `BrokerUnavailable` where Kafka does not acknowledge in time: then each
        event may be there or not. Sent again, each counts once, by its id.
        """
        size = sum(len(event.value) for event in events)
        held = self._bytes + (self._producer.bytes_left_behind if self._producer else 0)
        if held and held + size > self._bytes_max:
            raise IntakeUnavailable("Too many events wait for Kafka to acknowledge them. Try again later.")
        self._bytes += size
        try:
            if self._group is None or self._group.events >= GROUP_EVENTS:
                self._group = _Group()
                self._group.task = asyncio.create_task(self._work(self._group))
                self._group.task.add_done_callback(_heard)
            group, place = self._group, len(self._group.requests)
            group.requests.append(Request(events, customer))
            group.events += len(events)
            assert group.task is not None
            judged = (await asyncio.shield(group.task))[place]
            if isinstance(judged, BaseException):
                raise judged
        finally:
            self._bytes -= size
        INGESTED.labels("acknowledged").inc(len(judged.accepted))
        INGESTED.labels("refused").inc(len(judged.refused))
        return judged

    async def _work(self, group: _Group) -> list[Outcome]:
        """Judge the requests of a group together, and send their events together."""
        await asyncio.sleep(LINGER_SECONDS)
        if self._group is group:
            self._group = None
        judged = self._door_of(await self._config()).judge(group.requests, self._clock.now_ms())
        topics = {topic for one in judged for chosen in one.topics for topic in chosen}
        return await self._append(judged, topics) if topics else list(judged)

    def _door_of(self, config: Config) -> Door:
        if self._door is None or self._door[0] is not config:
            self._door = config, Door(config)
        return self._door[1]

    async def _append(self, judged: Sequence[Judged], topics: Collection[str]) -> list[Outcome]:
        """Topic by topic, side by side: what is the matter with one is no matter of requests for others."""
        deadline = asyncio.get_running_loop().time() + self._settings.ingest_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                producer = await self._connected()
                limits = await producer.batch_bytes(topics)
        except TimeoutError as error:
            raise IntakeUnavailable("Kafka does not answer at the moment. Try again.") from error
        judged = [_without_too_large(one, limits) for one in judged]
        values = {topic: records for topic, records in by_topic(judged).items() if topic in limits}
        now_ms = self._clock.now_ms()
        found = await asyncio.gather(
            *(self._deliver(producer, topic, records, now_ms, deadline) for topic, records in values.items()),
            return_exceptions=True,
        )
        failed = {topic: trouble for topic, trouble in zip(values, found, strict=True) if trouble is not None}
        failed |= dict.fromkeys(set(topics) - limits.keys(), IntakeUnavailable(_NO_TOPIC))
        outcomes: list[Outcome] = []
        for one in judged:
            errors = [failed[topic] for chosen in one.topics for topic in chosen if topic in failed]
            outcomes.append(errors[0] if errors else one)
        return outcomes

    async def _deliver(
        self, producer: IntakeProducer, topic: str, records: Sequence[bytes], now_ms: int, deadline: float
    ) -> None:
        """Returns once all are acknowledged. Raises `IntakeUnavailable`."""
        sent: list[tuple[asyncio.Future[Any], int]] = []
        try:
            async with asyncio.timeout_at(deadline):
                await producer.send(topic, records, now_ms, sent)
                await asyncio.wait([future for future, _ in sent])
            for future, _ in sent:
                future.result()
            self._answered_at = time.monotonic()
        except TimeoutError as error:
            seconds = self._settings.ingest_timeout_s
            log.warning("Kafka does not acknowledge events in time", topic=topic, seconds=seconds)
            if time.monotonic() - self._answered_at > SILENCE_SECONDS_MAX:
                self._drop(producer)  # and with it what it holds; the brokers may have other addresses by now
            self._moved(producer)
            raise IntakeUnavailable(f"Kafka did not acknowledge the events within {seconds:g} s. Try again.") from error
        except (KafkaError, OSError) as error:
            log.warning("Kafka did not take events", topic=topic, error=repr(error))
            if not getattr(error, "retriable", True):
                self._drop(producer)
            self._moved(producer)
            raise IntakeUnavailable("Kafka did not take the events. Try again.") from error
        finally:
            for future, size in sent:
                if not future.done():
                    producer.leave(future, size)

    async def _connected(self) -> IntakeProducer:
        """The connection, made by whoever comes first, and going on where they have no time left."""
        if self._producer is not None:
            return self._producer
        if self._failed is not None and time.monotonic() - self._failed[0] < CONNECT_AGAIN_SECONDS:
            raise self._failed[1]
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._make())
            self._connecting.add_done_callback(self._made)
        return await asyncio.shield(self._connecting)

    async def _make(self) -> IntakeProducer:
        config = await self._config()
        address = self._address(self._settings)
        self._producer = await self._connect(self._settings, address, config.kafka_topics)
        self._answered_at = time.monotonic()
        log.info("connected to Kafka for events over HTTP")
        return self._producer

    def _made(self, task: asyncio.Task[IntakeProducer]) -> None:
        self._connecting = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            known = isinstance(error, BrokerUnavailable)
            log.warning("cannot connect to Kafka for events over HTTP", error=str(error) if known else repr(error))
            self._failed = (time.monotonic(), error) if isinstance(error, BrokerUnavailable) else None

    def _drop(self, producer: IntakeProducer | None) -> None:
        """This one is no good any more; the next request connects anew."""
        if producer is not None and producer is self._producer:
            self._producer = None
            task = asyncio.create_task(producer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _moved(self, producer: IntakeProducer | None) -> None:
        """Drops a connection to where Kafka no longer is: an embedded one that was started again."""
        try:
            if producer is not None and self._address(self._settings) != producer.address:
                self._drop(producer)
        except BrokerUnavailable:
            self._drop(producer)

    async def close(self) -> None:
        """At the end of the process: requests have ended by now."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._drop(self._producer)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)


def _heard(task: asyncio.Task[list[Outcome]]) -> None:
    """Without this, asyncio complains of failures whose requests have all been given up."""
    if not task.cancelled():
        task.exception()


def _without_too_large(judged: Judged, limits: Mapping[str, int]) -> Judged:
    """Refuses what a topic of smaller batches than Kafka's default cannot take."""
    errors: list[Sequence[str]] = list(judged.errors)
    for row, (event, topics) in enumerate(zip(judged.events, judged.topics, strict=True)):
        for topic in topics:
            if topic in limits and not fits(event.value, limits[topic]):
                what = f"the event has {len(event.value):,} bytes; its topic takes {limits[topic]:,} at a time"
                errors[row] = [*errors[row], what]
    if errors == list(judged.errors):
        return judged
    return Judged(judged.events, errors, [() if found else to for found, to in zip(errors, judged.topics, strict=True)])
