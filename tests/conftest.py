"""What all tests share: real services, one of each per session, Hypothesis profiles, a list of what was skipped.

A test that wants to be alone on a server asks for a database of its own (`database_url`) and topics of its own names.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from rollup_engine.runtime.embedded import Database, start_broker, start_database
from tests import apache_kafka
from tests.producers import node

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=False, max_examples=100)
settings.register_profile("thorough", parent=settings.get_profile("ci"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

NO_APACHE_KAFKA = "Apache Kafka cannot be had here"
NO_NODE = "Node's clients cannot be had here"


@pytest.fixture(scope="session")
def services_dir() -> Iterator[Path]:
    """State directory of the session's embedded services. Every user can enter it: PostgreSQL does not run as root."""
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-tests-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def database_server(services_dir: Path) -> Iterator[Database]:
    """The session's embedded PostgreSQL."""
    server = start_database(services_dir)
    yield server
    server.destroy()


@pytest.fixture(scope="session")
def broker(services_dir: Path) -> Iterator[str]:
    """Bootstrap servers of the session's embedded broker."""
    running = start_broker(services_dir)
    yield running.bootstrap
    running.stop()


@pytest.fixture(scope="session")
def apache() -> Iterator[str]:
    """Bootstrap servers of the session's Apache Kafka; skips where it cannot be had."""
    with apache_kafka.apache_kafka() as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture(params=["embedded", "apache"])
def kafka(request: pytest.FixtureRequest) -> str:
    """Bootstrap servers of each Kafka in turn."""
    servers: str = request.getfixturevalue({"embedded": "broker", "apache": "apache"}[request.param])
    return servers


@pytest.fixture(scope="session")
def new_database(database_server: Database) -> Iterator[Callable[[], str]]:
    """Makes a fresh, empty database and returns its URL, for fixtures of a wider scope; dropped with the session."""
    made: list[str] = []

    def make() -> str:
        made.append(_create_database(database_server))
        return made[-1]

    yield make
    for url in made:
        _drop_database(database_server, url)


@pytest.fixture
def database_url(database_server: Database) -> Iterator[str]:
    """URL of a fresh, empty database, dropped after the test."""
    url = _create_database(database_server)
    yield url
    _drop_database(database_server, url)


def _create_database(server: Database) -> str:
    name = f"test_{uuid4().hex}"
    _execute(server, f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(server.database_url)._replace(path=f"/{name}"))


def _drop_database(server: Database, url: str) -> None:
    _execute(server, f'DROP DATABASE "{urlsplit(url).path[1:]}" WITH (FORCE)')


def _execute(server: Database, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(server.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:  # in a thread of its own: the test's may have an event loop already
        pool.submit(asyncio.run, run()).result()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """A missing Apache Kafka or Node skips the test, whichever fixture asked for it."""
    try:
        return (yield)
    except apache_kafka.Unavailable as reason:
        pytest.skip(f"{NO_APACHE_KAFKA}: {reason}")
    except node.Unavailable as reason:
        pytest.skip(f"{NO_NODE}: {reason}")


def _skipped(config: pytest.Config) -> list[tuple[str, str]]:
    """(test, reason) of everything skipped so far."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return [(report.nodeid, report.longrepr[2].removeprefix("Skipped: ")) for report in reports]


def _skipped_without_excuse(config: pytest.Config) -> list[str]:
    """What was skipped though it must be tested here, in sentences."""
    reasons = [reason for _, reason in _skipped(config)]
    found = []
    if any(NO_APACHE_KAFKA in reason for reason in reasons) and apache_kafka.can_be_had():
        found.append(f"Java {apache_kafka.JAVA_VERSION_MIN} and Maven are here, so Apache Kafka must be tested.")
    if any(NO_NODE in reason for reason in reasons) and node.can_be_had():
        found.append(f"Node {node.NODE_VERSION_MIN} and npm are here, so Node's clients must be tested.")
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped_without_excuse(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    deselected = len(terminalreporter.stats.get("deselected", []))
    skipped = _skipped(config)
    terminalreporter.section("what this run skipped")
    for test, reason in skipped:
        terminalreporter.write_line(f"{test}: {reason}")
    if deselected:
        terminalreporter.write_line(f"{deselected} tests deselected on the command line")
    if not skipped and not deselected:
        terminalreporter.write_line("this run skipped nothing")
    for sentence in _skipped_without_excuse(config):
        terminalreporter.write_line(f"This run fails: {sentence}", red=True)
