"""One worker process: a Faust App with one supervised Service per stage, and its web endpoints.

Faust starts, supervises and stops; the hot path reads packed batches with aiokafka inside the Services, because agents
pass events one by one. No offset of Faust's is trusted, and none of its Kafka parts is started.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import faust
import structlog
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from faust.web import Request, Response, View
from faust.web.base import BlueprintManager
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rollup_engine.buckets.log import BucketLog
from rollup_engine.clock import SystemClock
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.errors import RollupError
from rollup_engine.pipeline import StagePartition
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime import schema
from rollup_engine.runtime.alarms import Alarms
from rollup_engine.runtime.buckets import with_buckets
from rollup_engine.runtime.id_stores import IdStores
from rollup_engine.runtime.kafka import KafkaLog, connection_options
from rollup_engine.runtime.kafka_clients import hand_out_records_as_read
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.runtime.registry import Registry
from rollup_engine.runtime.service import StageService
from rollup_engine.runtime.stopping import Stop
from rollup_engine.runtime.upkeep import upkeep_forever
from rollup_engine.topology import Topology, deltas_topic, events_topic, replays
from rollup_engine.windows.stage import RollupPartition

log = structlog.get_logger(__name__)
JOIN_SECONDS = 15.0
UPKEEP_END_SECONDS = 5.0
_OBJECTS_PER_COLLECTION = 200_000  # Python's own 700 look at a batch's objects, none of them in a cycle, time and again


class _Boot(BootStrategy):
    """Faust's own consumers and producers stay off."""

    enable_kafka = False


class _App(faust.App):
    BootStrategy = _Boot


@dataclass(frozen=True, slots=True)
class Share:
    """Number `number` of `processes` alike that one `up` has started. It matters where no Kafka group shares out the
    partitions: on an embedded broker."""

    number: int = 0
    processes: int = 1

    def has(self, partition: int) -> bool:
        return partition % self.processes == self.number

    def is_last(self, partition: int) -> bool:
        """The first one stops last, when the others no longer send it anything: rollup is wholly its own."""
        return self.number == 0


async def run(
    role: str,
    settings: Settings,
    config: Config,
    kafka: str,
    database: str,
    *,
    web_port: int,
    drain: bool,
    share: Share | None = None,
) -> None:
    """Run `route` or `work` until SIGTERM or SIGINT; returns after a clean stop. Raises what made it fail."""
    stop = Stop()
    hand_out_records_as_read()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        async with (
            schema.connected(database, connections_max=12) as pool,
            AsyncExitStack() as after_kafka,
            KafkaLog.connect(connection_options(settings, kafka)) as kafka_log,
        ):
            await schema.migrate(pool)
            registry = Registry(pool, settings.app_id)
            topology = await registry.join(kafka_log, config, settings.partitions, role)
            stop.in_order()
            sink, alarms = PostgresSink(pool, settings.app_id), Alarms(pool, settings.app_id)
            ours = share or Share()
            # Given back only once the producer has ended: until then it may still send.
            await after_kafka.enter_async_context(registry.lease(topology.generation, role, stop.asked.set))
            async with (
                _upkeep(role, pool, settings, config),
                with_buckets(kafka_log, pool, settings.app_id, config.buckets if role == ROUTE else {}) as buckets,
            ):
                stores = IdStores(settings.state_dir / "ids" / topology.app_id, logged=kafka_log.cluster.embedded)
                services = _services(role, topology, kafka_log, buckets, sink, alarms, stores, drain, ours)
                await _serve(role, settings, services, stores, web_port, stop.asked)
    except asyncio.CancelledError:
        if not stop.at_once:
            raise
        log.info("stopped before it was ready", role=role)


@asynccontextmanager
async def _upkeep(
    role: str, pool: "asyncpg.Pool[asyncpg.Record]", settings: Settings, config: Config
) -> AsyncIterator[None]:
    """`work` keeps tiers up to date and compacts, beside the stages."""
    if role == ROUTE:
        yield
        return
    emit_every_s = max(rollup.emit_every_ms for rollup in config.rollups) / 1000
    keep_s = settings.partials_retention.total_seconds()
    going = upkeep_forever(pool, settings.app_id, emit_every_s=emit_every_s, keep_s=keep_s)
    task = asyncio.create_task(going, name="upkeep")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,), timeout=UPKEEP_END_SECONDS)  # a database that does not answer is not waited for


async def _serve(
    role: str,
    settings: Settings,
    services: Sequence[StageService],
    stores: IdStores,
    web_port: int,
    stop: asyncio.Event,
) -> None:
    app = _App(
        f"{settings.app_id}-{role}",
        broker="kafka://unused",
        web_bind=settings.web_host,
        web_port=web_port,
        datadir=str(settings.state_dir / "faust" / role),
        loghandlers=[],
    )
    settings.state_dir.joinpath("faust").mkdir(parents=True, exist_ok=True)
    _add_pages(app, role, services)
    try:
        await app.start()
    except OSError as error:
        raise RollupError(
            f"`{role}` cannot serve its pages on port {web_port}: {error.strerror}. Set ROLLUP_WEB_PORT to a free one."
        ) from error
    joining = asyncio.gather(*(app.add_runtime_dependency(service) for service in services))  # each waits for its group
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait((joining, asked), return_when=asyncio.FIRST_COMPLETED)
    if not joining.done():  # a stop already: whatever is to be worked off needs the groups, within reason
        await asyncio.wait((joining,), timeout=JOIN_SECONDS)
    if joining.done():
        joining.result()
        log.info("ready", role=role, health=f"http://127.0.0.1:{web_port}/health")
        await app.wait(asked)
    if app.crashed:
        raise app.crash_reason or RuntimeError("a service crashed")
    log.info("stopping", role=role)
    for service in reversed(services):
        await service.finish()
    await stores.close()  # totals first, and ids before another worker gets their partitions
    await app.stop()
    if not all(service.drained for service in services):
        raise RollupError(
            f"`{role}` could not work off everything before it stopped; its log says what stood in the way."
        )
    log.info("stopped", role=role)


def _services(
    role: str,
    topology: Topology,
    kafka: KafkaLog,
    buckets: BucketLog,
    sink: PostgresSink,
    alarms: Alarms,
    stores: IdStores,
    drain: bool,
    share: Share,
) -> list[StageService]:
    """Stages in the order in which to start them; they stop in the opposite order, upstream first."""
    clock = SystemClock()
    idle_ms = min(rollup.emit_every_ms for rollup in topology.config.rollups)
    idle_ms = max(idle_ms, 5_000)
    tables = {deltas_topic(topology.app_id, table): table for table in topology.schemas}

    def service(stage: str, topics: Sequence[str], make: Callable[[TopicPartition], StagePartition]) -> StageService:
        group, ours = f"{topology.app_id}.{stage}", share.is_last if stage == ROLLUP else share.has
        let_go = stores.let_go if stage == DEDUP else None
        return StageService(
            stage, group, topics, kafka, make, alarms, drain=drain, buckets=buckets, share=ours, let_go=let_go
        )

    if role == ROUTE:
        return [
            service(
                ROUTE,
                [*topology.config.topics, *replays(topology.app_id, topology.config)],
                lambda one: RoutePartition(topology, one.topic, one.partition, buckets, sink, clock, idle_ms),
            )
        ]
    return [
        service(
            ROLLUP,
            sorted(tables),
            lambda one: RollupPartition(topology, tables[one.topic], one.partition, kafka, sink, clock),
        ),
        service(
            DEDUP,
            [events_topic(topology.app_id)],
            lambda one: DedupPartition(topology, one.partition, kafka, sink, clock, stores, idle_ms),
        ),
    ]


def _add_pages(app: faust.App, role: str, services: Sequence[StageService]) -> None:
    async def health(web: View, request: Request) -> Response:
        """200 while every partition makes progress; 503 with cause and remedy for those that halted."""
        halted = [
            {
                "stage": service.stage,
                "partition": f"{one.topic}/{one.partition}",
                "cause": halt.cause,
                "remedy": halt.remedy,
            }
            for service in services
            for one, halt in service.halted.items()
        ]
        partitions = sum(service.partitions for service in services)
        answer = {"role": role, "healthy": not halted, "partitions": partitions, "halted": halted}
        return web.json(answer, status=503 if halted else 200)

    async def metrics(web: View, request: Request) -> Response:
        """Prometheus' text format."""
        return web.bytes(generate_latest(), content_type=CONTENT_TYPE_LATEST.split(";")[0])

    # Not by `app.page`, and without Faust's own pages, which nobody needs here: for each, `inspect` would look through
    # all modules, and so write to memory shared with other roles.
    app.web.blueprints = BlueprintManager()
    for path, handler in (("/health", health), ("/metrics", metrics)):
        view = View.from_handler(handler)
        view.view_name = view.view_path = path
        app.web.add_view(view)
