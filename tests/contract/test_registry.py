"""Joining an app id: one YAML at a time, and only on the Kafka that its positions speak of."""

import asyncio
import json
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from rollup_engine.config.model import Config, GroupColumn
from rollup_engine.errors import ConfigError, PartitionHalted, RollupError
from rollup_engine.progress import ROUTE, Books, Writes
from rollup_engine.runtime import registry
from rollup_engine.runtime.embedded import start_broker
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.runtime.registry import Registry
from rollup_engine.topology import Topology, deltas_topic, events_topic, replays_topic
from tests.contract.specs import config, event_type, rollup

PARTITIONS = 3
PATIENCE_SECONDS = 30


@pytest.fixture
def app_id() -> str:
    """Topics are shared by all tests of a session."""
    return f"app-{uuid4().hex}"


@pytest.fixture
async def log(broker: str) -> AsyncIterator[KafkaLog]:
    async with KafkaLog.connect({"bootstrap_servers": broker}) as connected:
        yield connected


@pytest.fixture
async def apache_log(apache: str) -> AsyncIterator[KafkaLog]:
    async with KafkaLog.connect({"bootstrap_servers": apache}) as connected:
        await connected.create("raw", 2, {})
        yield connected


async def join(
    pool: "asyncpg.Pool[asyncpg.Record]",
    log: KafkaLog,
    app_id: str,
    content: Config | None = None,
    partitions: int = PARTITIONS,
) -> Topology:
    """As a process that has just started."""
    return await Registry(pool, app_id).join(log, content or config(), partitions, "work")


async def gone(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Everybody's lease is over."""
    await pool.execute("UPDATE rollup_engine.leases SET expires_at = now() - interval '1 second'")


async def delete_topic(servers: str, log: KafkaLog, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await log.partitions(topic):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


OTHER = config(event_type("download", rollup(group_by=(GroupColumn(path="region", column="region"),))))


class TestJoining:
    async def test_the_first_makes_topics_and_tables(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        topology = await join(pool, log, app_id)
        topics = [events_topic(app_id), deltas_topic(app_id, "downloads"), replays_topic(app_id, "download")]
        assert [await log.partitions(topic) for topic in topics] == [PARTITIONS, PARTITIONS, 1]
        assert sorted(topology.incarnations) == sorted(topics)
        assert len(set(topology.incarnations.values())) == 3
        assert (topology.generation, topology.config) == (1, config())
        assert topology.schemas["downloads"].groups == ("region", "speed")

    async def test_the_same_yaml_joins(self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str) -> None:
        first, second = await join(pool, log, app_id), await join(pool, log, app_id)
        assert second.generation == first.generation == 1
        assert second.incarnations == first.incarnations

    async def test_many_at_once_agree(self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str) -> None:
        topologies = await asyncio.gather(*(join(pool, log, app_id) for _ in range(6)))
        assert {topology.generation for topology in topologies} == {1}
        assert len({tuple(sorted(topology.incarnations.items())) for topology in topologies}) == 1

    async def test_a_different_yaml_is_refused_while_one_runs(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        with pytest.raises(ConfigError) as raised:
            await join(pool, log, app_id, OTHER)
        assert re.search(
            rf"App id '{app_id}' is running with another YAML \(work on .*, process \d+\)", str(raised.value)
        )
        assert "'download' differs in rollups" in str(raised.value)
        assert raised.value.exit_status == 2

    async def test_of_two_different_ones_at_once_one_runs(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        done = await asyncio.gather(join(pool, log, app_id), join(pool, log, app_id, OTHER), return_exceptions=True)
        assert sorted(type(result).__name__ for result in done) == ["ConfigError", "Topology"]

    async def test_a_new_yaml_after_the_old_one_is_a_new_generation(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        first = await join(pool, log, app_id)
        await gone(pool)
        second = await join(pool, log, app_id, OTHER)
        assert (second.generation, second.incarnations) == (2, first.incarnations)
        assert await second.config_of(1) == config()
        assert second.schemas["downloads"].groups == ("region", "speed")
        await gone(pool)
        assert (await join(pool, log, app_id)).generation == 3

    async def test_a_record_of_an_unknown_generation_halts(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        topology = await join(pool, log, app_id)
        with pytest.raises(PartitionHalted, match="generation 9"):
            await topology.config_of(9)

    async def test_a_changed_id_field_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        await gone(pool)
        with pytest.raises(ConfigError, match=r"`fields\.id` of 'download' was 'id' and is now 'uuid'"):
            await join(pool, log, app_id, config(event_type(id_paths=("uuid",))))

    async def test_a_yaml_stored_before_ids_had_parts_goes_on(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        stored = json.loads(config().to_json())
        for event in stored["events"]:
            event["topics"], [event["id_path"]] = event.pop("kafka_topics"), event.pop("id_paths")
            del event["bucket"]
        await pool.execute(
            "UPDATE rollup_engine.generations SET config = $1, digest = 'of then'", json.dumps(stored, sort_keys=True)
        )
        await gone(pool)
        topology = await join(pool, log, app_id)
        assert topology.generation == 2
        assert await topology.config_of(1) == config()

    async def test_a_changed_partition_count_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        with pytest.raises(ConfigError, match=r"has 3 partitions, and ROLLUP_PARTITIONS is 4\. Set it to 3"):
            await join(pool, log, app_id, partitions=4)

    async def test_what_is_refused_leaves_nothing(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        before = await pool.fetch("SELECT app_id, generation FROM rollup_engine.generations")
        with pytest.raises(ConfigError):
            await join(pool, log, app_id, OTHER)
        assert await pool.fetch("SELECT app_id, generation FROM rollup_engine.generations") == before

    async def test_a_topic_made_before_a_crash_is_taken_over(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str
    ) -> None:
        """Kafka's topic is made before the database's transaction ends: it may be there, and unknown."""
        await log.create(events_topic(app_id), PARTITIONS, {})
        await join(pool, log, app_id)

    @pytest.mark.parametrize(("partitions", "records"), [(5, 0), (PARTITIONS, 1)])
    async def test_a_topic_of_others_is_not(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str, partitions: int, records: int
    ) -> None:
        await log.create(events_topic(app_id), partitions, {})
        for _ in range(records):
            await log.append(events_topic(app_id), 1, b"not ours")
        with pytest.raises(ConfigError, match=r"already has a topic .*\.events that this database does not know"):
            await join(pool, log, app_id)


class TestLeases:
    async def test_renewed_while_held_and_given_back(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry, "RENEW_SECONDS", 0.02)
        mine = Registry(pool, app_id)
        topology = await mine.join(log, config(), PARTITIONS, "work")
        async with mine.lease(topology.generation, "work", lambda: None):
            await gone(pool)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not await pool.fetchval("SELECT count(*) FROM rollup_engine.leases WHERE expires_at > now()"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        assert await pool.fetchval("SELECT count(*) FROM rollup_engine.leases") == 0
        assert (await join(pool, log, app_id, OTHER)).generation == 2

    async def test_one_that_was_held_up_learns_that_another_took_over(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry, "RENEW_SECONDS", 0.02)
        mine, lost = Registry(pool, app_id), asyncio.Event()
        topology = await mine.join(log, config(), PARTITIONS, "work")
        await gone(pool)
        await join(pool, log, app_id, OTHER)
        with pytest.raises(ConfigError, match="newer YAML now"):
            async with mine.lease(topology.generation, "work", lost.set):
                await asyncio.wait_for(lost.wait(), PATIENCE_SECONDS)
        held = await pool.fetch("SELECT generation FROM rollup_engine.leases WHERE expires_at > now()")
        assert [row[0] for row in held] == [2]


class TestEmbeddedBroker:
    @pytest.fixture
    def state_dirs(self) -> Iterator[list[Path]]:
        made = [Path(tempfile.mkdtemp(prefix="rollup-engine-registry-")) for _ in range(2)]
        yield made
        for directory in made:
            shutil.rmtree(directory)

    @pytest.fixture(autouse=True)
    def short_leases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "LEASE_SECONDS", 2)

    async def test_started_anew_positions_begin_again_and_totals_stay(
        self, pool: "asyncpg.Pool[asyncpg.Record]", state_dirs: list[Path], app_id: str
    ) -> None:
        sink = PostgresSink(pool, app_id)
        first_broker = start_broker(state_dirs[0])
        async with KafkaLog.connect({"bootstrap_servers": first_broker.bootstrap}) as log:
            first = await join(pool, log, app_id)
        claim = await sink.claim(ROUTE, "raw/0", 0)
        state = {"watermarks": {"download": 7}, "clock_ms": 5, "records": 9, "last_offset": 89, "last_crc": 3}
        await sink.advance(claim, 90, state, Writes(books=(Books("download", "raw/0", counted=9),)))
        first_broker.stop()

        second_broker = start_broker(state_dirs[0])
        try:
            async with KafkaLog.connect({"bootstrap_servers": second_broker.bootstrap}) as log:
                second = await join(pool, log, app_id)  # waits for the lease of the one before
                third = await join(pool, log, app_id)
        finally:
            second_broker.stop()
        assert (second.generation, third.generation) == (2, 2)
        assert second.incarnations.keys() == first.incarnations.keys()
        assert not set(second.incarnations.values()) & set(first.incarnations.values())
        position = await sink.position(ROUTE, "raw/0")
        assert position is not None
        assert (position.next_offset, position.first_offset) == (0, 0)
        assert position.epoch > claim.position.epoch
        assert position.state["watermarks"] == {"download": 7}
        assert position.state == {"watermarks": {"download": 7}, "clock_ms": 5, "records": 9}
        assert await pool.fetchval("SELECT counted FROM rollup_engine.books") == 9

    async def test_a_second_one_beside_the_first_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", state_dirs: list[Path], app_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two of them on one database would read each other's positions."""
        monkeypatch.setattr(registry, "RENEW_SECONDS", 0.1)
        brokers = [start_broker(directory) for directory in state_dirs]
        try:
            async with (
                KafkaLog.connect({"bootstrap_servers": brokers[0].bootstrap}) as one,
                KafkaLog.connect({"bootstrap_servers": brokers[1].bootstrap}) as other,
            ):
                mine = Registry(pool, app_id)
                topology = await mine.join(one, config(), PARTITIONS, "up")
                async with mine.lease(topology.generation, "up", lambda: None):
                    with pytest.raises(ConfigError, match=r"another embedded broker \(up on .*\)\. Stop it first"):
                        await join(pool, other, app_id)
        finally:
            for broker in brokers:
                broker.stop()


class TestApacheKafka:
    async def test_another_cluster_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, apache_log: KafkaLog, app_id: str
    ) -> None:
        """An embedded one too: it is what starts where somebody forgot the address."""
        await join(pool, apache_log, app_id)
        await gone(pool)
        with pytest.raises(ConfigError, match=r"belongs to Kafka cluster .*ROLLUP_KAFKA_BOOTSTRAP_SERVERS"):
            await join(pool, log, app_id)
        await pool.execute("UPDATE rollup_engine.clusters SET cluster_id = 'elsewhere'")
        with pytest.raises(ConfigError, match="belongs to Kafka cluster elsewhere"):
            await join(pool, apache_log, app_id)

    async def test_from_an_embedded_one_to_a_real_one_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, apache_log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, log, app_id)
        await gone(pool)
        with pytest.raises(ConfigError, match="belongs to Kafka cluster rollup-engine-"):
            await join(pool, apache_log, app_id)

    async def test_an_internal_topic_that_is_gone_halts(
        self, pool: "asyncpg.Pool[asyncpg.Record]", apache: str, apache_log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, apache_log, app_id)
        await delete_topic(apache, apache_log, deltas_topic(app_id, "downloads"))
        with pytest.raises(PartitionHalted, match=r"deltas\.downloads should have 3 partitions in Kafka, and has 0"):
            await join(pool, apache_log, app_id)
        assert await apache_log.partitions(deltas_topic(app_id, "downloads")) == 0

    async def test_a_raw_topic_must_be_there(
        self, pool: "asyncpg.Pool[asyncpg.Record]", apache_log: KafkaLog, app_id: str
    ) -> None:
        missing = f"missing-{uuid4().hex}"
        with pytest.raises(RollupError, match=f"Raw topic '{missing}' does not exist") as raised:
            await join(pool, apache_log, app_id, config(event_type(kafka_topics=(missing,))))
        assert raised.value.exit_status == 1
        assert await apache_log.partitions(missing) == 0

    async def test_the_events_topic_keeps_three_horizons(
        self, pool: "asyncpg.Pool[asyncpg.Record]", apache_log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, apache_log, app_id)
        kept = [
            (await apache_log.settings(topic))["retention.ms"]
            for topic in (events_topic(app_id), deltas_topic(app_id, "downloads"))
        ]
        assert kept == [str(3 * 86_400_000 + 3_600_000), "-1"]

    async def test_a_longer_horizon_than_the_topic_keeps_is_refused(
        self, pool: "asyncpg.Pool[asyncpg.Record]", apache_log: KafkaLog, app_id: str
    ) -> None:
        await join(pool, apache_log, app_id)
        await gone(pool)
        with pytest.raises(ConfigError, match=r"keeps its records for 262800 s.*Set its `retention\.ms` to 522000000"):
            await join(pool, apache_log, app_id, config(event_type(horizon_ms=2 * 86_400_000)))
