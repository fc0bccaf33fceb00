"""What goes wrong before anything runs: one clear sentence on standard error, the right exit status, no traceback."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.cli import ROOT, Engine
from tests.acceptance.traffic import yaml

NOWHERE = "postgresql://someone:secret@127.0.0.1:1/x"


def fails(engine: Engine, arguments: str, status: int, *says: str, lines: int = 1) -> str:
    done = engine.run(*arguments.split("|"))
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr
    assert done.stderr.startswith("rollup-engine: "), done.stderr
    assert len(done.stderr.strip().splitlines()) == lines, done.stderr
    assert "secret" not in done.stderr
    return done.stderr


@pytest.fixture
def bare(make_engine: Callable[..., Engine]) -> Engine:
    """No Kafka, no database, nothing started: what it is told to use is not there."""
    return make_engine(database_url=NOWHERE)


class TestConfiguration:
    """Exit status 2: what was asked for is wrong, and running it again will not help."""

    @pytest.mark.parametrize("command", ["up", "validate", "route", "work", "migrate"])
    def test_broken_yaml_is_refused_with_every_problem(self, bare: Engine, command: str) -> None:
        file = bare.config / "file_download.yaml"
        file.write_text(yaml().replace("sum:", "summ:").replace("event:", "evnt:"))
        said = fails(bare, command, 2, "file_download.yaml:1", "file_download.yaml:6", lines=2)
        assert "evnt" in said
        assert "summ" in said

    @pytest.mark.parametrize("command", ["up", "route", "work"])
    def test_a_directory_that_is_not_there(self, bare: Engine, command: str) -> None:
        fails(bare, f"{command}|--config|elsewhere", 2, "elsewhere: no such directory")

    def test_unknown_settings(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine(kafka_server="x:1")
        fails(engine, "status", 2, "ROLLUP_KAFKA_SERVER is not a setting", "ROLLUP_KAFKA_BOOTSTRAP_SERVERS")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("query|SELECT 1|--start|tomorrow", "--start 'tomorrow' is no time"),
            ("query|SELECT 1|--end|2022-08-14T15:00:00", "has no offset"),
            ("status|--format|xml", "table, json"),
        ],
    )
    def test_wrong_words(self, bare: Engine, arguments: str, says: str) -> None:
        fails(bare, arguments, 2, says)

    def test_a_file_to_produce_that_cannot_be_read(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine(kafka_bootstrap_servers="127.0.0.1:1")
        fails(engine, "produce|nothing.ndjson|--topic|t", 2, "nothing.ndjson cannot be read")


class TestUnreachable:
    """Exit status 1: it is not there now."""

    @pytest.mark.parametrize("command", ["up", "migrate", "status", "dead-letters|list", "query|SELECT 1"])
    def test_database(self, bare: Engine, command: str) -> None:
        started = time.monotonic()
        fails(bare, command, 1, "Postgres at 127.0.0.1:1/x does not answer", "ROLLUP_DATABASE_URL")
        assert time.monotonic() - started < 30

    @pytest.mark.parametrize("servers", ["127.0.0.1:1", "no.such.host.invalid:9092", "127.0.0.1:port"])
    def test_kafka(self, make_engine: Callable[..., Engine], servers: str) -> None:
        engine = make_engine(kafka_bootstrap_servers=servers)
        fails(engine, "work", 1, f"Kafka at {servers} does not answer", "ROLLUP_KAFKA_BOOTSTRAP_SERVERS")

    def test_something_that_is_no_kafka(self, make_engine: Callable[..., Engine]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            port = server.getsockname()[1]
            pool.submit(lambda: [server.accept()[0].close() for _ in range(1)])
            engine = make_engine(kafka_bootstrap_servers=f"127.0.0.1:{port}")
            fails(engine, "up", 1, f"Kafka at 127.0.0.1:{port} does not answer")

    def test_nothing_runs_in_this_state_directory(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        for command in ("route", "work", f"produce|{ROOT}/examples/orb/events.ndjson|--topic|downloads"):
            fails(engine, command, 1, "ROLLUP_KAFKA_BOOTSTRAP_SERVERS is not set", "up")

    def test_there_was_never_a_database(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        del engine.environment["ROLLUP_DATABASE_URL"]
        for command in ("status", "query|SELECT 1", "dead-letters|list"):
            fails(engine, command, 1, "There is no database", "rollup-engine up")

    @pytest.mark.parametrize("command", ["status", "query|SELECT 1", "dead-letters|list", "dead-letters|show|1"])
    def test_a_database_without_the_engine(self, make_engine: Callable[..., Engine], command: str) -> None:
        fails(make_engine(), command, 1, "on this database yet" if "query" in command else "no rollup engine in it")


class TestMigrate:
    def test_twice(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        assert "applied 0001" in engine.ok("migrate")
        again = engine.ok("migrate")
        assert "up to date" in again
        assert "rollups.file_download_aggregated" in again

    def test_from_several_places_at_once(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda _: engine.ok("migrate"), range(4)))
        assert sum("applied 0001" in output for output in outputs) == 1

    def test_a_table_of_another_app_id(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        engine.ok("migrate")
        engine.environment["ROLLUP_APP_ID"] = "other"
        fails(engine, "migrate", 2, "belongs to app id 'rollup-engine'")
        fails(engine, "up", 2, "belongs to app id 'rollup-engine'")


class TestValidate:
    def test_yaml(self, bare: Engine) -> None:
        assert "1 rollup: no problems found." in bare.ok("validate")
        assert "no problems found." in bare.ok("validate", str(ROOT / "examples" / "orb" / "rollups"))

    def test_metric_sql(self, bare: Engine) -> None:
        good, bad = bare.directory / "good.sql", bare.directory / "bad.sql"
        good.write_text("SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download')")
        bad.write_text("SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('upload')")
        assert "1 metric" in bare.ok("validate", str(bare.config), str(good))
        fails(bare, f"validate|{bare.config}|{good}|{bad}", 2, "bad.sql", "upload")


class TestWhileOneRuns:
    def test_others_are_told_what_is_in_the_way(self, make_engine: Callable[..., Engine], tmp_path: Path) -> None:
        engine = make_engine()
        up = engine.up()
        port = json.loads(up.output.splitlines()[-1])["health"].split(":")[2].split("/")[0]
        engine.environment["ROLLUP_WEB_PORT"] = port
        fails(engine, "route", 1, f"cannot serve its pages on port {port}", "ROLLUP_WEB_PORT")
        (tmp_path / "other.yaml").write_text(yaml().replace("download_speed", "speed"))
        fails(
            engine, f"work|--config|{tmp_path}", 2, "is running with another YAML", "'file_download' differs in rollups"
        )
        engine.environment["ROLLUP_PARTITIONS"] = "3"
        fails(engine, "work", 2, "ROLLUP_PARTITIONS is 3. Set it to 2")
        assert up.stop() == 0, up.output
