"""Events from HTTP onto the raw topics: judged by the YAML in force, acknowledged by all in-sync replicas.

Owns: that `take` returns only when every good event is durable, and that memory stays bounded while Kafka is away: what
is sent and not acknowledged has a limit, beyond which nothing is taken. Must never queue what it cannot send, and never
let one topic's trouble be that of others: `runtime.intake_connection` has the connection that they share.

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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import structlog
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, ProducerClosed, ProducerFenced

from rollup_engine.clock import SystemClock
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import IntakeUnavailable
from rollup_engine.intake.door import Door, Judged, Request, Submitted, by_topic
from rollup_engine.runtime.intake_connection import Connect, IntakeConnection
from rollup_engine.runtime.intake_producer import IntakeProducer, address_of, fits, heard
from rollup_engine.telemetry import INGESTED

LINGER_SECONDS: Final = 0.002
GROUP_EVENTS: Final = 2_000  # so many close a group: while it is judged, everything else waits
GROUP_BYTES: Final = 1 << 20  # likewise; one call that is larger is judged in a thread, one at a time
SHARES_MAX: Final = 4  # where there are several topics, none holds more than its share, at the least this part of all
REFUSED_SECONDS: Final = 2.0  # so long is a topic let be whose records Kafka refuses

log = structlog.get_logger(__name__)


_NO_TOPIC: Final = "A topic of these events does not exist in Kafka, or may not be used; the server's log names it."
_LOST: Final = (OutOfOrderSequenceNumber, ProducerFenced, ProducerClosed)  # this connection takes nothing any more


class _Sent(NamedTuple):
    """What was judged, and the deliveries to wait for: those to the request's own topics."""

    judged: Judged
    deliveries: Sequence[asyncio.Task[None]] = ()


class _Call(NamedTuple):
    """One request, and who waits for what becomes of it."""

    request: Request
    sent: asyncio.Future[_Sent]

    def settle(self, outcome: _Sent | BaseException) -> None:
        """Unless it has been given up, or settled."""
        if not self.sent.done():
            if isinstance(outcome, BaseException):
                self.sent.set_exception(outcome)
            else:
                self.sent.set_result(outcome)


_Judged: TypeAlias = tuple[_Call, Judged, set[str]]
"""A request with something to send, and the topics of its events."""


@dataclass
class _Group:
    """Requests that came within a moment: judged in one go and sent in one go, which costs little more than one."""

    calls: list[_Call] = field(default_factory=list)
    events: int = 0
    bytes: int = 0

    def end(self, task: asyncio.Task[None]) -> None:
        """Whoever has no answer by then shares in what ended it."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        for call in self.calls:
            call.settle(error or RuntimeError("a request was forgotten"))


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
        self._settings, self._config = settings, config
        self._connection = IntakeConnection(settings, config, connect, address)
        self._clock = SystemClock()
        self._bytes_max = settings.ingest_held_mb << 20
        self._bytes = 0  # of events that somebody waits for
        self._sending: Counter[str] = Counter()  # of these, by topic, what was handed to Kafka
        self._refused_at: dict[str, float] = {}  # by topic, when Kafka last refused its records for good
        self._judging = asyncio.Lock()
        self._group: _Group | None = None  # that further requests may join
        self._door: tuple[Config, Door] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, events: Sequence[Submitted], customer: str | None = None) -> Judged:
        """Judge the events and append the good ones; returns once all in-sync replicas have acknowledged these.

        `customer`: the one that the API key is bound to. Raises `IntakeUnavailable` where too much waits for Kafka
        already: then nothing was sent. And `BrokerUnavailable` where Kafka does not acknowledge in time: then each
        event may be there or not. Sent again, each counts once, by its id.
        """
        size = sum(len(event.value) for event in events)
        if self._held() and self._held() + size > self._bytes_max:
            self._connection.moved()
            raise IntakeUnavailable("Too many events wait for Kafka to acknowledge them. Try again later.")
        self._bytes += size
        try:
            judged, deliveries = await self._join(Request(events, customer), size)
            for delivery in deliveries:
                await asyncio.shield(delivery)
        finally:
            self._bytes -= size
        INGESTED.labels("acknowledged").inc(len(judged.accepted))
        INGESTED.labels("refused").inc(len(judged.refused))
        return judged

    def _held(self) -> int:
        """Bytes of events in memory: what somebody waits for, and what has no answer though nobody waits any more."""
        return self._bytes + self._connection.left_behind

    def _join(self, request: Request, size: int) -> asyncio.Future[_Sent]:
        """Puts the request into the group that is open, or into a new one."""
        group, count = self._group, len(request.events)
        if group is None or group.events >= GROUP_EVENTS or group.bytes + size > GROUP_BYTES:
            group = self._group = _Group()
            self._start(self._work(group)).add_done_callback(group.end)
        sent: asyncio.Future[_Sent] = asyncio.get_running_loop().create_future()
        group.calls.append(_Call(request, sent))
        group.events, group.bytes = group.events + count, group.bytes + size
        return sent

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(heard)
        return task

    async def _work(self, group: _Group) -> None:
        """Judge the requests of a group together, and send their events together."""
        await asyncio.sleep(LINGER_SECONDS)
        if self._group is group:
            self._group = None
        waiting = []
        for call, one in zip(group.calls, await self._judge(group), strict=True):
            if topics := {topic for chosen in one.topics for topic in chosen}:
                waiting.append((call, one, topics))
            else:
                call.settle(_Sent(one))
        if waiting:
            await self._send(waiting)

    async def _judge(self, group: _Group) -> list[Judged]:
        door, requests = self._door_of(await self._config()), [call.request for call in group.calls]
        if group.bytes <= GROUP_BYTES:
            return door.judge(requests, self._clock.now_ms())
        async with self._judging:
            return await asyncio.to_thread(door.judge, requests, self._clock.now_ms())

    def _door_of(self, config: Config) -> Door:
        if self._door is None or self._door[0] is not config:
            self._door = config, Door(config)
        return self._door[1]

    async def _send(self, calls: Sequence[_Judged]) -> None:
        """Those whose topics are all known at once. Whoever needs another one waits until Kafka has said what it is."""
        deadline = asyncio.get_running_loop().time() + self._settings.ingest_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                producer = await self._connection.ready()
            known = set(producer.batch_bytes)
            self._deliver_all(producer, [one for one in calls if one[2] <= known], deadline)
            if rest := [one for one in calls if not one[2] <= known]:
                async with asyncio.timeout_at(deadline):
                    await producer.ask(set().union(*(topics for _, _, topics in rest)))
                for call, _, topics in rest:
                    if not topics <= producer.batch_bytes.keys():
                        call.settle(IntakeUnavailable(_NO_TOPIC))
                self._deliver_all(producer, [one for one in rest if not one[0].sent.done()], deadline)
        except TimeoutError as error:
            raise IntakeUnavailable("Kafka does not answer at the moment. Try again.") from error

    def _deliver_all(self, producer: IntakeProducer, calls: Sequence[_Judged], deadline: float) -> None:
        """Topic by topic, side by side, and each request waits for its own: what is the matter with one topic is no
        matter of requests for others."""
        final = [_without_too_large(judged, producer.batch_bytes) for _, judged, _ in calls]
        deliveries = {
            topic: self._start(self._deliver(producer, topic, records, deadline))
            for topic, records in by_topic(final).items()
        }
        for (call, _, topics), judged in zip(calls, final, strict=True):
            call.settle(_Sent(judged, [deliveries[topic] for topic in sorted(topics & deliveries.keys())]))

    def _share(self) -> int:
        """How many bytes one topic may hold: so one that is stuck leaves room for the others."""
        topics = len(self._door[0].kafka_topics) if self._door else 1
        return self._bytes_max // max(1, min(topics, SHARES_MAX))

    async def _deliver(self, producer: IntakeProducer, topic: str, records: Sequence[bytes], deadline: float) -> None:
        """Returns once all are acknowledged. Raises `IntakeUnavailable`."""
        size = sum(map(len, records))
        held = self._sending[topic] + producer.left_behind[topic]
        if held and held + size > self._share():
            raise IntakeUnavailable("Too many events of this kind wait for Kafka to acknowledge them. Try again later.")
        if time.monotonic() - self._refused_at.get(topic, float("-inf")) < REFUSED_SECONDS:
            raise IntakeUnavailable("Kafka did not take such events a moment ago. Try again.")
        sent: list[tuple[asyncio.Future[Any], int]] = []
        self._sending[topic] += size
        try:
            async with asyncio.timeout_at(deadline):
                await producer.send(topic, records, self._clock.now_ms(), sent)
                await asyncio.wait([future for future, _ in sent])
            for future, _ in sent:
                future.result()
        except TimeoutError as error:
            seconds = self._settings.ingest_timeout_s
            log.warning("Kafka does not acknowledge events in time", topic=topic, seconds=seconds)
            self._connection.moved()
            raise IntakeUnavailable(f"Kafka did not acknowledge the events within {seconds:g} s. Try again.") from error
        except (KafkaError, OSError) as error:
            log.warning("Kafka did not take events", topic=topic, error=repr(error))
            if not getattr(error, "retriable", True):
                self._connection.drop(producer)
                if type(error) is not KafkaError and not isinstance(error, _LOST):
                    self._refused_at[topic] = time.monotonic()  # it would cost everybody the next connection as well
            self._connection.moved()
            raise IntakeUnavailable("Kafka did not take the events. Try again.") from error
        finally:
            self._sending[topic] -= size
            left = [one for one in sent if not one[0].done()]
            for one in left:
                producer.leave(topic, *one)
            self._connection.watch(producer, [future for future, _ in left])

    async def close(self) -> None:
        """At the end of the process: requests have ended by now."""
        await self._connection.close()


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
