"""Apache Kafka 4 on this machine: one KRaft node from Maven Central's jars, on 127.0.0.1.

For tests: `with apache_kafka() as bootstrap_servers`. For people: `.venv/bin/python tests/apache_kafka.py start`
(`--port 9092` unless told otherwise), and `… stop`.

`KAFKA_BOOTSTRAP_SERVERS` names a Kafka to use instead. Otherwise Java 17 and Maven must be there; the jars (45 MB) are
fetched once, into `.cache/kafka` of the checkout, the node's data is new with every start. Kafka's own log is quiet:
warnings and errors, in `log` beside the data, shown when a start fails.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollup_engine.errors import RollupError
from rollup_engine.runtime import processes
from rollup_engine.runtime.embedded import answers_as

KAFKA_VERSION = "4.3.1"
LOG4J_VERSION = "2.25.4"  # the one this Kafka brings; it leaves the bridge from SLF4J to us
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
JAVA_VERSION_MIN = 17
START_SECONDS = 60.0
STOP_SIGNALS = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0))
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "kafka"

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>apache-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOG4J = """\
status = error
appender.err.type = Console
appender.err.name = err
appender.err.target = SYSTEM_ERR
appender.err.layout.type = PatternLayout
appender.err.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.err.ref = err
"""

# One partition for each internal topic, and no waiting for a group's other members: tests start groups by the dozen.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data_dir}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Unavailable(Exception):
    """Apache Kafka cannot be had on this machine."""


def java() -> str | None:
    """The Java to run Kafka with, `JAVA_HOME`'s first; None if there is none, or only one too old."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).exists():
        return None
    shown = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', shown.stdout + shown.stderr)
    return found if version and int(version.group(1)) >= JAVA_VERSION_MIN else None


def can_be_had() -> bool:
    """Whether there is no excuse for going without: a Kafka is named, or Java and Maven are there."""
    return bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS")) or (java() is not None and shutil.which("mvn") is not None)


def jars() -> Path:
    """The directory of Kafka's jars, filled by Maven the first time. Raises Unavailable."""
    directory = CACHE / KAFKA_VERSION
    CACHE.mkdir(parents=True, exist_ok=True)
    with processes.exclusive(CACHE / "lock"):
        if directory.exists():
            return directory
        maven = shutil.which("mvn")
        if maven is None:
            raise Unavailable("Maven (mvn) is not installed; it fetches Kafka's jars")
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            (Path(work) / "pom.xml").write_text(POM)
            command = [maven, "-B", "-q", "-f", f"{work}/pom.xml", MAVEN_GOAL, f"-DoutputDirectory={work}/jars"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(f"Maven could not fetch Kafka {KAFKA_VERSION}: {done.stdout.strip()[-500:]}")
            (Path(work) / "jars").rename(directory)
    return directory


def start(directory: Path, port: int | None = None) -> str:
    """Start a new, empty node with its files in `directory`; returns its bootstrap servers once it serves.

    Raises Unavailable, and RollupError when it does not start.
    """
    program = java()
    if program is None:
        raise Unavailable(f"no Java {JAVA_VERSION_MIN} or newer is installed")
    port = port or processes.free_port()
    properties = directory / "server.properties"
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    base = _program(program, directory)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory / "data", ignore_errors=True)
    (directory / "log4j2.properties").write_text(LOG4J)
    properties.write_text(
        SERVER_PROPERTIES.format(port=port, controller_port=processes.free_port(), data_dir=directory / "data")
    )

    storage = [*base, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(properties)]
    formatted = subprocess.run(storage, capture_output=True, text=True, check=False)
    if formatted.returncode != 0:
        raise RollupError(f"Kafka's storage cannot be formatted in {directory}: {formatted.stdout}{formatted.stderr}")
    return _serve(base, directory, port, cluster_id)


def resume(directory: Path) -> str:
    """Start the node of `directory` again after `stop`, on its data and its port; returns once it serves.

    Raises Unavailable, and RollupError when it does not start.
    """
    program = java()
    if program is None:
        raise Unavailable(f"no Java {JAVA_VERSION_MIN} or newer is installed")
    properties, meta = (directory / "server.properties").read_text(), (directory / "data/meta.properties").read_text()
    port, cluster_id = re.search(r"listeners=PLAINTEXT://[^:]+:(\d+)", properties), re.search(r"cluster.id=(.+)", meta)
    assert port is not None
    assert cluster_id is not None
    return _serve(_program(program, directory), directory, int(port[1]), cluster_id[1].strip())


def _program(java_program: str, directory: Path) -> list[str]:
    """The command line of a Java program of Kafka's, up to its name."""
    base = [java_program, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [*base, "-cp", f"{jars()}/*", f"-Dlog4j2.configurationFile={directory}/log4j2.properties"]


def _serve(base: list[str], directory: Path, port: int, cluster_id: str) -> str:
    properties, log = directory / "server.properties", directory / "log"
    pid = processes.spawn_detached([*base, "kafka.Kafka", str(properties)], log)
    (directory / "kafka.json").write_text(json.dumps({"pid": pid, "port": port}))

    def settled() -> bool:
        return answers_as(port, cluster_id) or not processes.runs(pid, str(properties))

    if not processes.wait_until(settled, START_SECONDS) or not processes.runs(pid, str(properties)):
        stop(directory)
        raise RollupError(f"Apache Kafka does not start on port {port}. The end of its log: {processes.log_tail(log)}")
    return f"127.0.0.1:{port}"


def stop(directory: Path, signals: Sequence[tuple[signal.Signals, float]] = STOP_SIGNALS) -> bool:
    """End the node of `directory`, that process and no other. False if none was running."""
    try:
        pid = int(json.loads((directory / "kafka.json").read_text())["pid"])
    except FileNotFoundError:
        return False
    running = processes.runs(pid, str(directory / "server.properties"))
    processes.end(pid, str(directory / "server.properties"), signals)
    (directory / "kafka.json").unlink()
    return running


@contextlib.contextmanager
def apache_kafka() -> Iterator[str]:
    """Bootstrap servers of an Apache Kafka: the one named in the environment, else an own node. Raises Unavailable."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="apache-kafka-", ignore_cleanup_errors=True) as work:
        try:
            yield start(Path(work))
        finally:
            stop(Path(work))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=f"Apache Kafka {KAFKA_VERSION}, one node on this machine, for tests.")
    parser.add_argument("command", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=9092, help="the node's port (default: %(default)s)")
    options = parser.parse_args(arguments)
    directory = CACHE / f"node-{options.port}"
    try:
        if options.command == "stop":
            print("stopped" if stop(directory) else f"no Apache Kafka of ours runs on port {options.port}")
            return 0
        if (directory / "kafka.json").exists():
            stop(directory)
        print(start(directory, options.port))
    except (Unavailable, RollupError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
