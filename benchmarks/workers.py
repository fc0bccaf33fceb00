"""`route` and `work` as processes of their own, as many as wanted: started, watched, killed.

Owns: the processes and what they say of themselves. For what `up` does not do: several of a role, and killing one.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import psutil

from benchmarks.beds import Bed
from rollup_engine.runtime import processes

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.05


async def until(what: str, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Raises `SystemExit` naming `what` where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise SystemExit(f"Not within {seconds:.0f} s: {what}. The workers' output is above.")
        await asyncio.sleep(POLL_SECONDS)


class Worker:
    """One process of a role."""

    def __init__(self, bed: Bed, role: str) -> None:
        self._port = processes.free_port()
        environment = {
            **os.environ,
            "ROLLUP_KAFKA_BOOTSTRAP_SERVERS": bed.addresses.kafka,
            "ROLLUP_DATABASE_URL": bed.addresses.database,
            "ROLLUP_STATE_DIR": str(bed.directory),
            "ROLLUP_APP_ID": bed.settings.app_id,
            "ROLLUP_PARTITIONS": str(bed.settings.partitions),
            "ROLLUP_LOG_LEVEL": "ERROR",
            "ROLLUP_WEB_PORT": str(self._port),
        }
        command = [sys.executable, "-m", "rollup_engine", role, "--config", str(bed.settings.config_dir)]
        self.role = role
        self.popen = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        self.process = psutil.Process(self.popen.pid)

    @property
    def partitions(self) -> int:
        """How many input partitions it has open; 0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2) as answer:
                return int(json.load(answer)["partitions"])
        except (OSError, urllib.error.HTTPError, ValueError):
            return 0

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    async def stop(self) -> None:
        """A clean stop: what is pending is emitted."""
        self.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.popen.wait, PATIENCE_SECONDS)


class Workers:
    """The processes of one bed."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.all: list[Worker] = []

    def start(self, role: str, count: int = 1) -> Worker:
        """Returns the last one."""
        self.all += [Worker(self.bed, role) for _ in range(count)]
        return self.all[-1]

    def open_partitions(self, role: str) -> int:
        return sum(worker.partitions for worker in self.all if worker.role == role and worker.popen.poll() is None)

    async def ready(self, raw_partitions: int) -> None:
        """Wait until every partition of every stage is open somewhere."""
        of_work = 2 * self.bed.settings.partitions  # events and one rollup's deltas
        await until("every raw partition is open", lambda: self.open_partitions("route") >= raw_partitions)
        await until("every internal partition is open", lambda: self.open_partitions("work") >= of_work)

    async def stop(self) -> None:
        """Cleanly, upstream first."""
        for role in ("route", "work"):
            await asyncio.gather(*(one.stop() for one in self.all if one.role == role and one.popen.poll() is None))

    def end(self) -> None:
        """Whatever still runs."""
        for worker in self.all:
            if worker.popen.poll() is None:
                worker.kill()


@asynccontextmanager
async def workers(bed: Bed) -> AsyncIterator[Workers]:
    """None yet; ended with the block."""
    made = Workers(bed)
    try:
        yield made
    finally:
        made.end()


class Books:
    """How many raw records are booked, and how many events shown; asked on a connection of its own."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def of(cls, bed: Bed) -> "AsyncIterator[Books]":
        connection = await asyncpg.connect(bed.addresses.database)
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def records(self) -> int:
        """0 while there are no books yet."""
        try:
            return int(await self._connection.fetchval("SELECT coalesce(sum(records), 0) FROM rollup_engine.books"))
        except asyncpg.UndefinedTableError:
            return 0

    async def reach(self, records: int, seconds: float = 3_600.0) -> float:
        """Wait until so many are booked; the `perf_counter` time of it."""
        deadline = time.monotonic() + seconds
        while await self.records() < records:
            if time.monotonic() > deadline:
                raise SystemExit(f"Not within {seconds:.0f} s: {records:,} records in the books.")
            await asyncio.sleep(POLL_SECONDS)
        return time.perf_counter()

    async def shown(self, counted: int) -> None:
        """Wait until the view counts that many events: nothing is left to emit."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := await self._connection.fetchval("SELECT sum(count) FROM rollups.usage")) != counted:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"The view counts {found} events, and not {counted:,} within {PATIENCE_SECONDS:.0f} s."
                )
            await asyncio.sleep(1.0)
