"""Roles as processes of their own, on Apache Kafka and a Postgres from the environment: sharing, leaving, dying."""

import asyncio
import json
from collections.abc import Callable
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from rollup_engine.runtime import processes
from tests.acceptance.cli import Engine, Process, get, until
from tests.acceptance.traffic import events, partials, recount, send, totals, yaml

PARTITIONS = 4


@pytest.fixture
def topic() -> str:
    return f"downloads-{uuid4().hex}"


@pytest.fixture
def engine(make_engine: Callable[..., Engine], apache: str, topic: str) -> Engine:
    asyncio.run(create(apache, topic))
    return make_engine(
        yaml().replace("topic: downloads", f"topic: {topic}"),
        kafka_bootstrap_servers=apache,
        app_id=f"roles-{uuid4().hex}",
        partitions=str(PARTITIONS),
    )


async def create(servers: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        config = {"max.message.bytes": str(16 << 20)}
        made = await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=config)])
        assert all(not error[1] for error in made.topic_errors), made
    finally:
        await admin.close()


class Role:
    """A role's process, and what its pages say."""

    def __init__(self, engine: Engine, name: str) -> None:
        port = processes.free_port()
        self.process: Process = engine.start(name, web_port=str(port))
        self._page = f"http://127.0.0.1:{port}"

    @property
    def open(self) -> dict[str, int]:
        """Partitions open per stage; empty while it does not answer."""
        _, text = get(f"{self._page}/metrics")
        lines = [line for line in text.splitlines() if line.startswith("rollup_open_partitions{")]
        return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}

    @property
    def health(self) -> dict[str, object]:
        _, text = get(f"{self._page}/health")
        return json.loads(text) if text else {}


@pytest.fixture
def roles(engine: Engine) -> tuple[Role, Role, Role]:
    return Role(engine, "route"), Role(engine, "work"), Role(engine, "work")


def test_two_workers_share_and_take_over(engine: Engine, topic: str, roles: tuple[Role, Role, Role]) -> None:
    route, one, other = roles
    until("route has every raw partition, and that of replays", lambda: route.open.get("route") == PARTITIONS + 1)
    shared = {"dedup": PARTITIONS // 2, "rollup": PARTITIONS // 2}
    until("the two share", lambda: one.open == other.open == shared)
    lines = events(9_000, seed=20, repeated=0.05)
    third = len(lines) // 3
    engine.produce(lines[:third], topic)
    engine.settled(third)

    assert other.process.stop() == 0, other.process.output
    engine.produce(lines[third : 2 * third], topic)
    everything = {"dedup": PARTITIONS, "rollup": PARTITIONS}
    until("one has everything", lambda: one.open == everything)
    engine.settled(2 * third)

    joined = Role(engine, "work")
    until("the new one has its share", lambda: joined.open == shared == one.open)
    one.process.popen.kill()  # its partitions follow once Kafka misses its heartbeats
    engine.produce(lines[2 * third :], topic)
    status = engine.settled(len(lines))
    for role in (route, joined):
        assert role.health["healthy"] is True
        assert role.process.stop() == 0, role.process.output
    expected = recount(lines)
    assert (status["received"], status["counted"], status["duplicate"]) == (len(lines), 9_000, len(lines) - 9_000)
    url = engine.environment["ROLLUP_DATABASE_URL"]
    assert asyncio.run(totals(url)) == expected
    emitted = asyncio.run(partials(url))
    assert len({row["idempotency_key"] for row in emitted}) == len(emitted)


def test_up_on_a_kafka_of_ones_own(engine: Engine, topic: str, apache: str) -> None:
    """Everything in one command; raw events in transactions, aborted ones among them, and a record of 10 MB."""
    lines = events(600, seed=21)

    async def transactions(*outcomes: bool) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=apache, transactional_id=f"tx-{topic}")
        await producer.start()
        try:
            for number in range(0, 600, 100):
                for commit in outcomes:
                    await producer.begin_transaction()
                    for line in lines[number : number + 100]:
                        value = line if commit else line.replace('"fast"', '"never"')
                        await producer.send(topic, value.encode(), partition=number // 100 % PARTITIONS)
                    await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()

    up = engine.start("up", "--exit-when-idle", "3")
    up.says("Running.")
    asyncio.run(transactions(True, False))
    engine.settled(600)
    asyncio.run(transactions(False))  # the last that each partition holds, and it comes to no record
    asyncio.run(send(apache, [(1, b"x" * 10_000_000)], topic))
    assert up.ends() == 0, up.output
    status = engine.status()
    assert (status["received"], status["counted"], status["invalid"], status["lag"]) == (601, 600, 1, 0)
    assert asyncio.run(totals(engine.environment["ROLLUP_DATABASE_URL"])) == recount(lines)
