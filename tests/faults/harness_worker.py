"""One `route` or `work` process of a row: its pages, its signals, what it says of itself."""

import json
import signal
from collections.abc import Mapping
from typing import Any

import psutil

from rollup_engine.runtime import processes
from tests.acceptance.cli import Engine, Process, get, until

READY_SECONDS = 120  # one that froze in a transaction holds its locks until Postgres ends it, after a minute


class Worker:
    """A `route` or `work` process with its pages, and a state directory that a later one can take over."""

    def __init__(self, engine: Engine, role: str, state: str, settings: Mapping[str, str]) -> None:
        self.role, self.state, self.state_dir = role, state, engine.directory / f"state-{state}"
        port = processes.free_port()
        self.page = f"http://127.0.0.1:{port}"
        self.process: Process = engine.start(
            role, **{"state_dir": str(self.state_dir), "web_port": str(port), **settings}
        )

    @property
    def running(self) -> bool:
        return self.process.popen.poll() is None

    @property
    def output(self) -> str:
        return self.process.output

    @property
    def health(self) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body) of /health; (0, {}) while it does not answer."""
        status, text = get(f"{self.page}/health")
        return status, json.loads(text) if text else {}

    @property
    def open(self) -> dict[str, int]:
        """Partitions open per stage."""
        lines = [line for line in get(f"{self.page}/metrics")[1].splitlines() if "rollup_open_partitions{" in line]
        return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}

    def ready(self) -> None:
        """Waits until it has joined."""

        def joined() -> bool:
            assert self.running or '"event": "ready"' in self.output, f"it ended:\n{self.output}"
            return '"event": "ready"' in self.output

        try:
            until(f"{self.role} joins", joined, READY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send(signal.SIGKILL)
        self.process.ends()

    def dies(self, seconds: float = 60) -> None:
        """Waits for its end by SIGKILL, that of a failpoint."""
        status = self.process.ends(seconds)
        assert status == -signal.SIGKILL, f"it ended with status {status}:\n{self.output}"

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send(signal.SIGSTOP)

    @property
    def frozen(self) -> bool:
        """Whether it was stopped, by us or at a point of its own (`inject="stop:…"`)."""
        return psutil.Process(self.process.popen.pid).status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send(signal.SIGCONT)

    def stop(self) -> None:
        """A clean stop, which must succeed."""
        assert self.process.stop() == 0, self.output

    def halts(self, *words: str, seconds: float = 60) -> dict[str, Any]:
        """Waits until /health is 503 with all the words in one partition's cause or remedy; returns that one."""
        found: list[dict[str, Any]] = []

        def halted() -> list[dict[str, Any]]:
            status, body = self.health
            halts = body.get("halted", []) if status == 503 else []
            found[:] = halts
            return [one for one in halts if all(word in f"{one['cause']}. {one['remedy']}" for word in words)]

        try:
            found = until(f"{self.role} halts with {words}", halted, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; halted: {found}") from None
        assert found[0]["cause"]
        assert found[0]["remedy"]
        return found[0]
