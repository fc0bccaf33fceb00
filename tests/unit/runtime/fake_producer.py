"""A Kafka for the intake that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.runtime.intake import Intake
from tests.unit.route.specs import event_type

CONFIG = Config(events=(event_type(),))


async def config() -> Config:
    return CONFIG


class Producer:
    """Stands for one connection: what was sent, and answers when the test says so."""

    def __init__(self, address: str, topics: Sequence[str] = ()) -> None:
        self.address, self.closed = address, False
        self.left_behind: Counter[str] = Counter()
        self.stuck: set[str] = set()  # topics that acknowledge nothing
        self.sent: list[tuple[list[bytes], asyncio.Future[Any]]] = []
        self.answers: Callable[[asyncio.Future[Any]], None] = lambda future: future.set_result(None)
        self.batch_bytes = dict.fromkeys(topics, 1_000_000)
        self.asked: list[list[str]] = []
        self.there: Callable[[list[str]], Awaitable[Mapping[str, int]]] | None = None  # what Kafka says when asked

    async def ask(self, topics: Iterable[str]) -> None:
        self.asked.append(sorted(set(topics) - self.batch_bytes.keys()))
        if self.there is not None:
            self.batch_bytes |= await self.there(self.asked[-1])

    async def send(
        self, topic: str, values: Sequence[bytes], now_ms: int, sent: list[tuple[asyncio.Future[Any], int]]
    ) -> None:
        future = asyncio.get_running_loop().create_future()
        self.sent.append((list(values), future))
        if topic not in self.stuck:
            self.answers(future)
        future.add_done_callback(lambda done: done.exception())
        sent.append((future, sum(map(len, values))))

    def leave(self, topic: str, future: asyncio.Future[Any], size: int) -> None:
        self.left_behind[topic] += size
        future.add_done_callback(lambda _: self.left_behind.subtract({topic: size}))

    async def close(self) -> None:
        self.closed = True


class Kafka:
    """Hands out connections; `away` makes that fail."""

    def __init__(self) -> None:
        self.address = "one:9092"
        self.made: list[Producer] = []
        self.away: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.tries = 0

    async def connect(self, settings: Settings, address: str, topics: Sequence[str]) -> Producer:
        self.tries += 1
        await self.gate.wait()
        if self.away is not None:
            raise self.away
        self.made.append(Producer(address, topics))
        return self.made[-1]

    def intake(self, config: Callable[[], Awaitable[Config]] = config, **changes: Any) -> Intake:
        values = {"ingest_timeout_s": 0.1, **changes}
        settings = Settings(_env_file=None, **values)  # type: ignore[call-arg]
        return Intake(settings, config, self.connect, lambda _: self.address)  # type: ignore[arg-type]
