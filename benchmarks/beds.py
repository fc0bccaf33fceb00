"""What a benchmark runs on: fresh services in a directory of its own, the raw topic filled, the engine's processes.

Owns: services, topics, feeding, and running the engine end to end. Everything is new with every bed, and gone after it.
"""

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer

from rollup_engine import progress
from rollup_engine.config.loader import load
from rollup_engine.config.settings import Settings
from rollup_engine.runtime import up
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.children import ROLES, Children
from rollup_engine.runtime.kafka import KafkaLog, connection_options, wait_for_topics
from rollup_engine.runtime.status import collect
from tests import apache_kafka

EMBEDDED, APACHE = "embedded", "apache"
TOPIC = "usage"
PARTITIONS = 4
BATCH_BYTES = 1 << 19
DEADLINE_SECONDS = 3_600.0
_IN_FLIGHT = 8
_EMISSION_POLL_SECONDS = 0.025
YAML = """\
event: usage
source: {topic: usage}
fields: {id: id, timestamp: at, external_customer_id: customer}
rollups:
%(rollups)s
grace_period: unlimited
"""
ROLLUP = """\
  - name: %(name)s
    group_by: [speed]
    aggregates: [{sum: bytes, minimum: 0}]
    emit_every: %(emit_every)s"""


def yaml(rollups: int = 1, emit_every: str = "5s") -> str:
    """The benchmarks' YAML: rollups `usage`, `usage2`, …, all alike."""
    names = ["usage", *(f"usage{number}" for number in range(2, rollups + 1))]
    return YAML % {"rollups": "\n".join(ROLLUP % {"name": name, "emit_every": emit_every} for name in names)}


@dataclass(frozen=True)
class Bed:
    """Services at work, and the settings to reach them with."""

    settings: Settings
    addresses: Addresses
    kind: str

    @property
    def directory(self) -> Path:
        return self.settings.state_dir

    async def make_topic(self, topic: str, partitions: int = PARTITIONS) -> None:
        """A raw topic; the embedded broker and Apache Kafka alike."""
        async with KafkaLog.connect(connection_options(self.settings, self.addresses.kafka)) as log:
            if not await log.create(topic, partitions, {}):
                raise SystemExit(f"Kafka has a topic {topic!r} already. Benchmarks need an empty one, started by them.")
            await wait_for_topics(log, {topic: partitions})

    async def feed(
        self,
        values: Iterable[bytes],
        topic: str = TOPIC,
        partitions: int = PARTITIONS,
        *,
        rate: float | None = None,
        on_sent: Callable[[int], None] = lambda sent: None,
    ) -> int:
        """Send the values, number i to partition i % `partitions`, in large batches; `rate`: values a second at most.

        `on_sent` hears how many have been sent so far. Returns how many were acknowledged: all of them.
        """
        producer = AIOKafkaProducer(bootstrap_servers=self.addresses.kafka, acks="all", max_batch_size=2 * BATCH_BYTES)
        await producer.start()
        try:
            sent, started, rest = 0, time.monotonic(), iter(values)
            chunk_size = partitions * (2_000 if rate is None else max(1, int(rate / 20 / partitions)))
            waiting: list[asyncio.Future[object]] = []
            while chunk := list(islice(rest, chunk_size)):
                for partition in range(partitions):
                    batch = producer.create_batch()
                    for value in chunk[partition::partitions]:
                        assert batch.append(key=None, value=value, timestamp=None) is not None, "a batch is too large"
                    waiting.append(await producer.send_batch(batch, topic, partition=partition))
                sent += len(chunk)
                on_sent(sent)
                if rate is not None:
                    await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
                while len(waiting) > _IN_FLIGHT * partitions:
                    await waiting.pop(0)
            await asyncio.gather(*waiting)
            return sent
        finally:
            await producer.stop()


@contextmanager
def bed(kind: str = EMBEDDED, content: str | None = None) -> Iterator[Bed]:
    """Fresh services with the raw topic `usage` not made yet, and the YAML in place. Raises `Unavailable` for an
    Apache Kafka that cannot be had here."""
    state_dir = Path(tempfile.mkdtemp(prefix="rollup-engine-bench-"))
    state_dir.chmod(0o755)  # PostgreSQL does not run as root
    try:
        with ExitStack() as stack:
            (state_dir / "rollups").mkdir()
            (state_dir / "rollups" / "usage.yaml").write_text(content or yaml())
            settings = Settings(
                kafka_bootstrap_servers=stack.enter_context(apache_kafka.apache_kafka()) if kind == APACHE else None,
                database_url=None,
                state_dir=state_dir,
                config_dir=state_dir / "rollups",
                app_id=f"bench-{uuid.uuid4().hex[:8]}",
                log_level="WARNING",
            )
            yield Bed(settings, stack.enter_context(up.services(settings)), kind)
    finally:
        shutil.rmtree(state_dir, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """The engine's way through a topic. `cpu`: seconds per role; `memory_mb`: greatest resident memory seen."""

    seconds: float
    cpu: dict[str, float]
    memory_mb: dict[str, float]


@asynccontextmanager
async def engine(bed: Bed, processes: int = 1) -> "AsyncIterator[tuple[Children, asyncpg.Pool[asyncpg.Record]]]":
    """`route` and `work` at work, so many of each, ended cleanly after the block: then every total is in Postgres."""
    config = load(bed.settings.config_dir)
    directory = str(bed.settings.config_dir)
    running = up.engine(bed.settings, config, directory, bed.addresses, drain=True, processes=processes)
    async with running as (children, pool, _):
        await children.ready()
        yield children, pool


async def end_to_end(bed: Bed, events: int, number: int = 1) -> Run:
    """From all partitions being open until every total is in Postgres, for which the engine is asked to stop as soon as
    all events are booked. `number`: of each role."""
    memory: dict[str, float] = {}
    emitted: list[float] = []
    stopped = asyncio.Event()
    async with engine(bed, number) as (children, pool):
        roles = processes()
        started = time.perf_counter()
        watching = asyncio.create_task(_watch_emissions(bed, emitted, stopped))
        before = {role: sum(map(_cpu, alike)) for role, alike in roles.items()}
        while (await collect(pool, bed.settings.app_id, None)).received < events:
            children.watch()
            if time.perf_counter() - started > DEADLINE_SECONDS:
                raise SystemExit(f"The engine has not taken in {events:,} events within {DEADLINE_SECONDS:,.0f} s.")
            for role, alike in roles.items():
                resident = sum(process.memory_info().rss for process in alike) / 1e6
                memory[role] = max(memory.get(role, 0.0), resident)
            await asyncio.sleep(0.2)
        cpu = {role: sum(map(_cpu, alike)) - before[role] for role, alike in roles.items()}
    stopped.set()
    await watching
    return Run(emitted[-1] - started, cpu, memory)


async def _watch_emissions(bed: Bed, emitted: list[float], stopped: asyncio.Event) -> None:
    """Adds when an emission was seen in Postgres: never before it was committed. Looks once more when all has ended."""
    connection = await asyncpg.connect(bed.addresses.database)
    query = "SELECT sum(version) FROM rollup_engine.progress WHERE app_id = $1 AND stage = $2"
    latest = None
    try:
        while True:
            last = stopped.is_set()
            versions = await connection.fetchval(query, bed.settings.app_id, progress.ROLLUP)
            if versions != latest:
                latest = versions
                emitted.append(time.perf_counter())
            if last:
                break
            await asyncio.sleep(_EMISSION_POLL_SECONDS)
    finally:
        await connection.close()


def processes() -> dict[str, list[psutil.Process]]:
    """The processes that `up` has started in this one, by role."""
    found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
    for process in psutil.Process(os.getpid()).children():
        command = process.cmdline()
        for role in ROLES:
            if "rollup_engine" in command and role in command:
                found[role].append(process)
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
