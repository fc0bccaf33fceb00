"""An engine with its API on each Kafka, and the examples' event types, for all tests here."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError

from tests.acceptance.cli import Engine, get, until
from tests.acceptance.conftest import end_broker
from tests.producers import node
from tests.producers.running import PRODUCERS, ROLLUPS, Running

TOPICS = ("api-calls", "cloudevents")


def _write_rollups(directory: Path) -> None:
    """The examples' YAML, with partial rollups every half second."""
    for path in ROLLUPS:
        text = path.read_text(encoding="utf-8").replace("\ngrace_period", "\n    emit_every: 500ms\ngrace_period")
        (directory / path.name).write_text(text, encoding="utf-8")


async def _create_topics(servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        for topic in TOPICS:
            try:
                await admin.create_topics([NewTopic(topic, 4, 1)])
            except TopicAlreadyExistsError:
                continue
    finally:
        await admin.close()


@pytest.fixture(scope="package", params=["embedded", "apache"])
def running(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[Running]:
    """`up` on each Kafka in turn, and a key that may ingest."""
    settings = {"database_url": new_database(), "api_rate": "6000/minute"}
    if request.param == "apache":
        settings["kafka_bootstrap_servers"] = request.getfixturevalue("apache")
        asyncio.run(_create_topics(settings["kafka_bootstrap_servers"]))
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-producers-"))
    (directory / "rollups").mkdir()
    _write_rollups(directory / "rollups")
    engine = Engine(directory, directory / "rollups", app_id=f"producers-{request.param}", **settings)
    try:
        up = engine.start("up")
        up.says("Running.")
        up.says('"event": "ready"', times=2)
        endpoints = engine.endpoints()
        until("the API answers", lambda: get(f"{endpoints['api']}/health/ready")[0] == 200)
        key = engine.ok("api-keys", "create", "producers", "--scope", "ingest").split()[-1]
        yield Running(
            engine, endpoints["kafka"], settings["database_url"], endpoints["api"], key, request.param != "embedded"
        )
        assert up.stop() == 0, up.output
        assert "Traceback" not in up.output
    finally:
        engine.close()
        if request.param == "embedded":
            end_broker(engine)
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Node's clients; skips where they cannot be had."""
    return node.modules()


@pytest.fixture
def node_directory(node_modules: Path, tmp_path: Path) -> Path:
    """A directory in which Node finds the clients: it looks beside the program, not in a setting."""
    (tmp_path / "node_modules").symlink_to(node_modules)
    return tmp_path


@pytest.fixture(params=list(PRODUCERS))
def producer(request: pytest.FixtureRequest) -> list[str]:
    """The command of each example in turn, which takes a file of calls, or `curl.sh` of events."""
    return _command(request)


@pytest.fixture(params=[name for name in PRODUCERS if name.startswith(("curl", "orb"))])
def http_producer(request: pytest.FixtureRequest) -> list[str]:
    """Those that send over HTTP."""
    return _command(request)


def _command(request: pytest.FixtureRequest) -> list[str]:
    program, file = PRODUCERS[request.param]
    if program != "node":
        return [program, str(file)]
    directory: Path = request.getfixturevalue("node_directory")
    return [program, str(shutil.copy(file, directory))]
