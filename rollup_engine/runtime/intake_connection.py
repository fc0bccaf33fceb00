"""The connection to Kafka that the intake uses: made when the first events come, in the background, and made anew.

Owns: when a connection is given up: it failed for good, Kafka is elsewhere by now, or something on it has had no answer
for too long. And that what such a one still holds is counted until it is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable
from rollup_engine.runtime.intake_producer import IntakeProducer, heard

CONNECT_AGAIN_SECONDS: Final = 1.0
SILENCE_SECONDS_MAX: Final = 60.0
CLOSE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)

Connect = Callable[[Settings, str, Sequence[str]], Awaitable[IntakeProducer]]


class IntakeConnection:
    """One of an `Intake`. `close` it at the end."""

    def __init__(
        self,
        settings: Settings,
        config: Callable[[], Awaitable[Config]],
        connect: Connect,
        address: Callable[[Settings], str],
    ) -> None:
        """`address`: where Kafka is now."""
        self._settings, self._config, self._connect, self._address = settings, config, connect, address
        self._producer: IntakeProducer | None = None
        self._connecting: asyncio.Task[IntakeProducer] | None = None
        self._failed: tuple[float, BrokerUnavailable] | None = None  # when connecting failed last, and how
        self._closing: dict[asyncio.Task[None], IntakeProducer] = {}

    @property
    def left_behind(self) -> int:
        """Bytes of batches without an answer that nobody waits for any more."""
        producers = [*self._closing.values(), *([self._producer] if self._producer else [])]
        return sum(producer.left_behind.total() for producer in producers)

    async def ready(self) -> IntakeProducer:
        """The connection, made by whoever comes first, and going on where they have no time left. Raises
        `BrokerUnavailable`."""
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
        log.info("connected to Kafka for events over HTTP")
        return self._producer

    def _made(self, task: asyncio.Task[IntakeProducer]) -> None:
        self._connecting = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            known = isinstance(error, BrokerUnavailable)
            log.warning("cannot connect to Kafka for events over HTTP", error=str(error) if known else repr(error))
            self._failed = (time.monotonic(), error) if isinstance(error, BrokerUnavailable) else None

    def drop(self, producer: IntakeProducer) -> None:
        """This one is no good any more; the next request connects anew."""
        if producer is self._producer:
            self._producer = None
            task = asyncio.create_task(producer.close())
            self._closing[task] = producer
            task.add_done_callback(self._closing.pop)
            task.add_done_callback(heard)

    def moved(self) -> None:
        """Drops a connection to where Kafka no longer is: an embedded one that was started again."""
        if (producer := self._producer) is not None:
            try:
                here = self._address(self._settings) == producer.address
            except BrokerUnavailable:
                here = False
            if not here:
                self.drop(producer)

    def watch(self, producer: IntakeProducer, left: Sequence[asyncio.Future[Any]]) -> None:
        """Drops the connection where one of these has no answer in time: the brokers may have other addresses by now,
        and what is appended long after it was sent again could count twice."""

        def look() -> None:
            if any(not future.done() for future in left):
                log.warning("Kafka acknowledges nothing of some events: connecting anew", seconds=SILENCE_SECONDS_MAX)
                self.drop(producer)

        if left:
            asyncio.get_running_loop().call_later(SILENCE_SECONDS_MAX, look)

    async def close(self) -> None:
        """At the end of the process."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._producer is not None:
            self.drop(self._producer)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)
