"""Joining an app id: one YAML at a time, tables made, internal topics in the life that the database knows.

Everything here happens in one transaction under one lock, so that processes that start together agree.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog

from rollup_engine.config.model import Config
from rollup_engine.errors import BrokerUnavailable, ConfigError, PartitionHalted, RollupError
from rollup_engine.runtime import bucket_ledger, schema, sql
from rollup_engine.runtime.database import Connection, lock_schema, persist
from rollup_engine.runtime.kafka import KafkaLog, wait_for_topics
from rollup_engine.runtime.kafka_clients import EMBEDDED_CLUSTER
from rollup_engine.topology import Topology, deltas_topic, events_topic, replays

log = structlog.get_logger(__name__)
LEASE_SECONDS = 15
RENEW_SECONDS = 5
END_SECONDS = 5.0
SHOWN_SECONDS = 3.0
RETENTION_MARGIN_MS = 3_600_000
RAW_PARTITIONS = 4  # of raw topics that are made on an embedded broker


def events_kept_ms(horizon_ms: int) -> int:
    """How long the events topic keeps its records: ids are rebuilt from them, and a raw partition that idles has its
    own kept for two horizons more."""
    return 3 * horizon_ms + RETENTION_MARGIN_MS


class _OthersRun(ConfigError):
    """Somebody else still runs, or was killed just now."""


class Registry:
    """The shared knowledge of one app id in the database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", app_id: str) -> None:
        self._pool, self._app_id = pool, app_id
        self._query = sql.queries("registry")
        self._holder = uuid.uuid4()

    async def join(self, log_: KafkaLog, config: Config, partitions: int, role: str) -> Topology:
        """Become one of those who run this app id under `config`. Raises `ConfigError` where that cannot be."""

        async def attempt() -> Topology:
            async with self._pool.acquire() as connection, connection.transaction():
                await lock_schema(connection)
                renewed = await self._check_cluster(connection, log_)
                latest = await connection.fetchrow(self._query["latest_generation"], self._app_id)
                before = None if latest is None else Config.from_json(latest["config"])
                generation = await self._activate(connection, config, role, latest, renewed)
                await schema.declare(connection, self._app_id, config, before)
                tables = [row[0] for row in await connection.fetch(self._query["tables"], self._app_id)]
                await bucket_ledger.declare(connection, self._app_id, config, anew=role != "work")
                incarnations = await self._topics(connection, log_, config, partitions, tables)
                return Topology(
                    app_id=self._app_id,
                    partitions=partitions,
                    generation=generation,
                    configs={generation: config},
                    incarnations=incarnations,
                    schemas=await schema.schemas(connection, tables),
                    load_config=self._load_config,
                )

        deadline = time.monotonic() + LEASE_SECONDS + 1
        while True:
            try:
                topology = await persist("join", attempt)
                break
            except _OthersRun:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(1)  # those of a killed `up` are forgotten soon
        return topology

    async def _check_cluster(self, connection: Connection, log_: KafkaLog) -> bool:
        """True where an embedded broker started anew, and its positions with it."""
        known = await connection.fetchval(self._query["cluster"], self._app_id)
        now = log_.cluster.cluster_id
        if known == now:
            return False
        if known is not None:
            if not (log_.cluster.embedded and known.startswith(EMBEDDED_CLUSTER)):
                raise ConfigError(
                    f"App id {self._app_id!r} belongs to Kafka cluster {known}, and this is {now}. Offsets of one mean"
                    " nothing in the other: set ROLLUP_KAFKA_BOOTSTRAP_SERVERS to that cluster, or choose a new"
                    " ROLLUP_APP_ID."
                )
            other = await connection.fetchval(self._query["holders"], self._app_id, self._holder)
            if other is not None:
                raise _OthersRun(
                    f"App id {self._app_id!r} is running on another embedded broker ({other}). Stop it first, or choose"
                    " another ROLLUP_APP_ID."
                )
            await connection.execute(self._query["restart_positions"], self._app_id)
            await connection.execute(self._query["forget_topics"], self._app_id)
            log.info("the embedded broker started anew: positions begin again, totals and ids stay")
        await connection.execute(self._query["set_cluster"], self._app_id, now)
        return known is not None

    async def _activate(
        self, connection: Connection, config: Config, role: str, latest: asyncpg.Record | None, renewed: bool
    ) -> int:
        other = await connection.fetchrow(self._query["other_holders"], self._app_id, config.digest)
        if other is not None:
            raise ConfigError(
                f"App id {self._app_id!r} is running with another YAML ({other['what']}):"
                f" {difference(Config.from_json(other['config']), config)}."
                f" Stop it first (a killed one is forgotten after {LEASE_SECONDS} s), or choose another ROLLUP_APP_ID."
            )
        if latest is None or latest["digest"] != config.digest or renewed:
            if latest is not None:
                check_change(Config.from_json(latest["config"]), config)
            generation = await connection.fetchval(
                self._query["add_generation"], self._app_id, config.digest, config.to_json()
            )
        else:
            generation = latest["generation"]
        what = f"{role} on {socket.gethostname()}, process {os.getpid()}"
        await connection.execute(
            self._query["renew_lease"], self._app_id, self._holder, generation, what, LEASE_SECONDS
        )
        return int(generation)

    async def _topics(
        self,
        connection: Connection,
        log_: KafkaLog,
        config: Config,
        partitions: int,
        tables: list[str],
    ) -> dict[str, str]:
        """Make the internal topics that are new; check those that are not. Topic to incarnation."""
        made: dict[str, int] = {}
        kept_ms = events_kept_ms(max(event.horizon_ms for event in config.events))
        retention = {"retention.ms": str(kept_ms), "max.message.bytes": str(2 << 20)}
        wanted = {events_topic(self._app_id): retention}
        again = replays(self._app_id, config)
        for topic in (*(deltas_topic(self._app_id, table) for table in tables), *again):
            wanted[topic] = {**retention, "retention.ms": "-1"}
        known = {row["topic"]: row for row in await connection.fetch(self._query["topics"], self._app_id)}
        for topic in config.buckets:
            from rollup_engine.runtime.buckets import make_topic  # brings Polars along: `up` and `serve` do without

            made[topic] = await make_topic(log_, topic)
        for topic in config.kafka_topics:
            if not await log_.partitions(topic):
                if not log_.cluster.embedded:
                    raise RollupError(
                        f"Raw topic {topic!r} does not exist in Kafka. Create it, or mend `source.topic`."
                    )
                await log_.create(topic, RAW_PARTITIONS, {})
                made[topic] = RAW_PARTITIONS
        incarnations = {}
        for topic, settings in wanted.items():
            row, count = known.get(topic), 1 if topic in again else partitions
            if row is None:
                incarnations[topic] = await self._add_topic(connection, log_, topic, count, settings)
                made[topic] = count
                continue
            if row["partitions"] != count:
                raise ConfigError(
                    f"Internal topic {topic} has {row['partitions']} partitions, and ROLLUP_PARTITIONS is {partitions}."
                    f" Set it to {row['partitions']}, or choose a new ROLLUP_APP_ID."
                )
            there = await log_.partitions(topic) or await _shown_soon(log_, topic)
            if there != count:
                raise PartitionHalted(
                    cause=f"internal topic {topic} should have {count} partitions in Kafka, and has {there}:"
                    " it was deleted, made again or changed",
                    remedy="Bring it back as it was, or start under a new ROLLUP_APP_ID and feed the raw events again.",
                )
            await _check_retention(log_, topic, int(settings["retention.ms"]))
            incarnations[topic] = row["incarnation"]
        topics = [*config.topics, *incarnations]
        await connection.execute(sql.queries("halts")["forget_others"], self._app_id, topics)
        await wait_for_topics(log_, made)  # before anyone else is let in: the next one would find them missing
        return incarnations

    async def _add_topic(
        self, connection: Connection, log_: KafkaLog, topic: str, partitions: int, settings: dict[str, str]
    ) -> str:
        incarnation = uuid.uuid4().hex
        if not await log_.create(topic, partitions, settings):
            await wait_for_topics(log_, {topic: 1})
            there = await log_.partitions(topic)
            used = [p for p in range(there) if (await log_.bounds(topic, p))[1] > 0]
            if there != partitions or used:
                raise ConfigError(
                    f"Kafka already has a topic {topic} that this database does not know. Delete that topic,"
                    " use the database that belongs to it, or choose another ROLLUP_APP_ID."
                )
        await connection.execute(self._query["add_topic"], self._app_id, topic, incarnation, partitions)
        return incarnation

    async def _load_config(self, generation: int) -> Config:
        found = await persist(
            "load config", lambda: self._pool.fetchval(self._query["config_of"], self._app_id, generation)
        )
        if found is None:
            raise PartitionHalted(
                cause=f"a record names generation {generation} of the YAML, which the database does not know",
                remedy="Use the database that belongs to this Kafka.",
            )
        return Config.from_json(found)

    @asynccontextmanager
    async def lease(self, generation: int, role: str, on_lost: Callable[[], None]) -> AsyncIterator[None]:
        """Hold the lease on the YAML for as long as the block runs. After the block, `ConfigError` where it was lost:
        this process was held up for longer than the lease lasts, and another YAML took over."""
        what = f"{role} on {socket.gethostname()}, process {os.getpid()}"
        args = (self._app_id, self._holder, generation, what, LEASE_SECONDS)

        async def renew() -> None:
            while await persist("renew lease", lambda: self._pool.fetchval(self._query["renew_lease"], *args)):
                await asyncio.sleep(RENEW_SECONDS)

        task = asyncio.create_task(renew())
        task.add_done_callback(lambda done: None if done.cancelled() else on_lost())
        try:
            yield
            if task.done():
                task.result()
                raise ConfigError(
                    f"App id {self._app_id!r} runs with a newer YAML now, which took over while this process hung"
                    f" for more than {LEASE_SECONDS} s. Start this one again with that YAML."
                )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # or a renewal under way would bring it back
            try:
                ending = self._pool.execute(self._query["end_lease"], self._app_id, self._holder)
                await asyncio.wait_for(ending, END_SECONDS)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                log.warning("the lease on the YAML could not be given back; it ends by itself", seconds=LEASE_SECONDS)


async def _shown_soon(log_: KafkaLog, topic: str) -> int:
    """Partitions of a topic that a broker did not know of just now: it may be new to it."""
    with suppress(BrokerUnavailable):
        await wait_for_topics(log_, {topic: 1}, SHOWN_SECONDS)
    return await log_.partitions(topic)


async def _check_retention(log_: KafkaLog, topic: str, wanted_ms: int) -> None:
    """Ids are rebuilt from the events topic, and deltas wait for Postgres: Kafka must keep them for as long."""
    kept = (await log_.settings(topic)).get("retention.ms", "-1")
    if int(kept) >= 0 and (wanted_ms < 0 or int(kept) < wanted_ms):
        raise ConfigError(
            f"Internal topic {topic} keeps its records for {int(kept) // 1000} s, which is too short"
            f" for this YAML. Set its `retention.ms` to {wanted_ms} in Kafka."
        )


def difference(theirs: Config, ours: Config) -> str:
    """What differs between two YAMLs, in a few words."""
    before = {event.event: event for event in theirs.events}
    after = {event.event: event for event in ours.events}
    parts = [f"{name!r} is only there" for name in sorted(before.keys() - after.keys())]
    parts += [f"{name!r} is only here" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        fields = [
            field
            for field in type(after[name]).model_fields
            if field != "file" and getattr(before[name], field) != getattr(after[name], field)
        ]
        if fields:
            parts.append(f"{name!r} differs in {', '.join(fields)}")
    return "; ".join(parts) or "nothing but order differs"


def check_change(before: Config, after: Config) -> None:
    """Raises `ConfigError` for a change that cannot be made to a running app id."""
    known = {event.event: event for event in before.events}
    for event in after.events:
        old = known.get(event.event)
        if old is not None and old.id_paths != event.id_paths:
            before_, now = (", ".join(paths) for paths in (old.id_paths, event.id_paths))
            raise ConfigError(
                f"`fields.id` of {event.event!r} was {before_!r} and is now {now!r}. Ids seen so far"
                " would no longer be recognised: start under a new ROLLUP_APP_ID."
            )
