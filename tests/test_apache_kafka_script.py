"""Apache Kafka is started and stopped by our script, and a run that went without it says so, or fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from rollup_engine.runtime.processes import free_port
from tests import apache_kafka

REPOSITORY = Path(__file__).resolve().parent.parent


async def test_it_is_an_apache_kafka(apache: str) -> None:
    """With what the embedded broker lacks: idempotence, transactions, the broker's own times."""
    admin = AIOKafkaAdminClient(bootstrap_servers=apache)
    await admin.start()
    topic = NewTopic("script", 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})
    await admin.create_topics([topic])
    producer = AIOKafkaProducer(bootstrap_servers=apache, enable_idempotence=True, acks="all")
    await producer.start()
    sent = await producer.send_and_wait("script", b"one", partition=0, timestamp_ms=1)
    await producer.stop()
    assert (sent.offset, sent.timestamp_type) == (0, 1)
    assert sent.timestamp > 1

    transactional = AIOKafkaProducer(bootstrap_servers=apache, transactional_id="script")
    await transactional.start()
    async with transactional.transaction():
        await transactional.send("script", b"kept", partition=0)
    await transactional.begin_transaction()
    await transactional.send_and_wait("script", b"undone", partition=0)
    await transactional.abort_transaction()
    async with transactional.transaction():
        await transactional.send("script", b"last", partition=0)
    await transactional.stop()

    consumer = AIOKafkaConsumer(bootstrap_servers=apache, isolation_level="read_committed")
    await consumer.start()
    consumer.assign([TopicPartition("script", 0)])
    await consumer.seek_to_beginning()
    assert [(await consumer.getone()).value for _ in range(3)] == [b"one", b"kept", b"last"]
    await consumer.stop()
    await admin.delete_topics(["script"])
    await admin.close()


def test_people_start_and_stop_it_by_command() -> None:
    if apache_kafka.java() is None or shutil.which("mvn") is None:
        pytest.skip("the script needs Java 17 and Maven")
    port = free_port()
    directory = apache_kafka.CACHE / f"node-{port}"

    def command(name: str) -> str:
        script = [sys.executable, str(REPOSITORY / "tests" / "apache_kafka.py"), name, "--port", str(port)]
        return subprocess.run(script, check=True, capture_output=True, text=True, cwd="/").stdout.strip()

    try:
        assert command("start") == f"127.0.0.1:{port}"
        assert command("stop") == "stopped"
        assert command("stop") == f"no Apache Kafka of ours runs on port {port}"
    finally:
        apache_kafka.stop(directory)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_named_kafka_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    with apache_kafka.apache_kafka() as bootstrap_servers:
        assert bootstrap_servers == "kafka.example:9092"


@pytest.mark.parametrize(
    ("version", "usable"), [("1.8.0_402", False), ("11.0.2", False), ("17.0.1", True), ("25", True)]
)
def test_java_must_be_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, usable: bool) -> None:
    program(tmp_path / "bin" / "java", f"""echo 'openjdk version "{version}" 2025-01-01' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert (apache_kafka.java() is not None) is usable


def program(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


class TestWhatARunSkipped:
    """A pytest within pytest, whose machine we furnish: its PATH, and a Kafka cache without the jars."""

    @staticmethod
    def run(tmp_path: Path, test: str, java_version: str | None) -> "subprocess.CompletedProcess[str]":
        program(tmp_path / "bin" / "mvn", "echo no network; exit 1")
        if java_version:
            program(tmp_path / "bin" / "java", f"""echo 'openjdk version "{java_version}"' >&2""")
        (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
        cache = (
            f"from pathlib import Path\nfrom tests import apache_kafka\napache_kafka.CACHE = Path({str(tmp_path)!r})\n"
        )
        (tmp_path / "test_it.py").write_text(cache + test)
        environment = {"PATH": f"{tmp_path}/bin", "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    def test_no_kafka_though_it_could_be_had_fails(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "def test_it(apache): pass", java_version="17.0.1")
        assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
        assert "test_it.py::test_it: Apache Kafka cannot be had here: Maven could not fetch" in done.stdout
        assert "no network" in done.stdout
        assert "This run fails: Java 17 and Maven are here, so Apache Kafka must be tested." in done.stdout
        assert "1 skipped" in done.stdout.splitlines()[-1]

    def test_no_kafka_where_it_cannot_be_had_is_told(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "def test_it(apache): pass", java_version=None)
        assert done.returncode == pytest.ExitCode.OK, done.stdout
        assert "test_it.py::test_it: Apache Kafka cannot be had here: no Java 17 or newer" in done.stdout
        assert "This run fails" not in done.stdout

    def test_other_skips_are_told_with_their_reason(self, tmp_path: Path) -> None:
        test = "import pytest\n@pytest.mark.skip(reason='of the weather')\ndef test_it(): pass\n"
        done = self.run(tmp_path, test, java_version="17.0.1")
        assert done.returncode == pytest.ExitCode.OK, done.stdout
        assert "test_it.py::test_it: of the weather" in done.stdout

    def test_none_is_told_too(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "def test_it(): pass", java_version="17.0.1")
        assert "this run skipped nothing" in done.stdout
