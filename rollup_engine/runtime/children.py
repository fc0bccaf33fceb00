"""The processes of `up`: started, started again when they die, ended upstream first.

Owns: how a role is started and what its end means. Must never know what the roles do.
"""

import asyncio
import http.client
import json
import signal
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import structlog

from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import processes
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.template import Process, Start, spawn

log = structlog.get_logger(__name__)
ROLES = ("route", "work")
"""The pipeline's."""

API = "serve"
RESTART_SECONDS = 1.0
RESTARTS_MAX = 20  # within one minute: then something is wrong that starting again does not mend
API_RESTART_SECONDS = 5.0  # again and again: whatever is wrong with it, no total depends on it
API_REFUSED_SECONDS = 60.0  # the same after it has refused to run
START_SECONDS = 30.0  # for a role to get as far as hearing a signal
_FINE = (0, -signal.SIGTERM)  # exit statuses: ended cleanly; ended before it had begun anything


@dataclass
class _Child:
    role: str
    number: int  # among those of its role
    process: Process
    port: int
    restart_at: float | None = None

    @property
    def name(self) -> str:
        return self.role if self.number == 0 else f"{self.role} {self.number + 1}"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Children:
    """The pipeline's processes, so many of each role; and the `api`'s, where it is wanted."""

    def __init__(
        self,
        settings: Settings,
        config_dir: str,
        addresses: Addresses,
        *,
        drain: bool,
        processes: int = 1,
        api: bool = False,
        start: Start = spawn,
    ) -> None:
        self._start = start
        self._settings, self._config_dir, self._addresses, self._drain = settings, config_dir, addresses, drain
        self._processes, self._api = processes, api
        self._children: list[_Child] = []
        self._deaths: list[float] = []

    def start(self) -> None:
        for role in ROLES:
            for number in range(self._processes):
                self._children.append(self._spawn(role, number, processes.free_port()))
        if self._api:
            self._children.append(self._spawn(API, 0, processes.free_port(self._settings.api_port)))

    def _spawn(self, role: str, number: int, port: int) -> _Child:
        environment = {
            "ROLLUP_KAFKA_BOOTSTRAP_SERVERS": self._addresses.kafka,
            "ROLLUP_DATABASE_URL": self._addresses.database,
            "ROLLUP_STATE_DIR": str(self._settings.state_dir.resolve()),
            "ROLLUP_APP_ID": self._settings.app_id,
            "ROLLUP_PARTITIONS": str(self._settings.partitions),
            "ROLLUP_METRICS_DIR": str(self._settings.metrics_dir),
            "ROLLUP_LOG_LEVEL": self._settings.log_level,
            "ROLLUP_WEB_PORT": str(port),
        }
        if role == API:
            arguments = [role, "--host", self._settings.api_host, "--port", str(port)]
        else:
            arguments = [role, "--config", self._config_dir, "--share", f"{number}/{self._processes}"]
            arguments += ["--drain"] if self._drain else []
        return _Child(role, number, self._start(arguments, environment), port)

    def watch(self) -> None:
        """Start again what died. Raises `RollupError` for a child that refuses to run, or dies again and again."""
        for index, child in enumerate(self._children):
            status = child.process.poll()
            if status is None:
                continue
            if status == 2 and child.role != API:
                raise RollupError(f"`{child.name}` cannot run; it has said why above.")
            now = time.monotonic()
            if child.restart_at is None and child.role == API:
                pause = API_REFUSED_SECONDS if status == 2 else API_RESTART_SECONDS
                log.warning("the API has ended and is started again", exit_status=status, seconds=pause)
                child.restart_at = now + pause
            elif child.restart_at is None:
                self._deaths = [at for at in self._deaths if now - at < 60] + [now]
                if len(self._deaths) > RESTARTS_MAX:
                    raise RollupError(
                        f"`{child.name}` has died {RESTARTS_MAX} times within a minute; its log is above."
                    )
                log.warning("a role has died and is started again", role=child.name, exit_status=status)
                child.restart_at = now + RESTART_SECONDS
            elif now >= child.restart_at:
                self._children[index] = self._spawn(child.role, child.number, processes.free_port(child.port))

    async def stop(self) -> None:
        """End the roles in order, upstream first, each after it has worked off what it should. The first `work` is the
        last of all: rollup may be its alone, and the others send to it."""
        for role in (API, *ROLES):
            alike = [child for child in self._children if child.role == role]
            await asyncio.gather(*map(self._end, alike[1:]))
            await asyncio.gather(*map(self._end, alike[:1]))

    async def _end(self, child: _Child) -> None:
        if self._drain and child.role != API:
            await self._listens(child)
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
            while child.process.poll() is None:
                await asyncio.sleep(0.05)
        if child.process.returncode not in _FINE:
            log.warning("a role ended with an error", role=child.name, exit_status=child.process.returncode)

    async def _listens(self, child: _Child) -> None:
        """Wait for a role that is still starting: a signal now would end it with nothing worked off."""
        deadline = time.monotonic() + START_SECONDS
        while child.process.poll() is None and time.monotonic() < deadline:
            if await asyncio.to_thread(_health, child.page) is not None:
                return
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """End them at once; nothing is lost that a start would not find again."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()

    async def working(self) -> bool:
        """Whether all is well with every process, and every role has partitions open, by their own word."""
        open_partitions = dict.fromkeys(ROLES, 0)
        for child in self._pipeline:
            answer = await asyncio.to_thread(_health, child.page)
            if answer is None or not answer["healthy"]:
                return False
            open_partitions[child.role] += answer["partitions"]
        return all(open_partitions.values())

    async def ready(self) -> None:
        """Wait until every role is at work."""
        while not await self.working():
            self.watch()
            await asyncio.sleep(0.05)

    @property
    def failed(self) -> bool:
        return any(child.process.returncode not in (None, *_FINE) for child in self._pipeline)

    @property
    def pages(self) -> dict[str, str]:
        """Of the pipeline's processes, by name."""
        return {child.name: child.page for child in self._pipeline}

    @property
    def api(self) -> str | None:
        """Where the API is to be found."""
        host = self._settings.api_host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return next((f"http://{host}:{child.port}" for child in self._children if child.role == API), None)

    @property
    def _pipeline(self) -> list[_Child]:
        return [child for child in self._children if child.role != API]


def _health(page: str) -> dict[str, Any] | None:
    """What a role says of itself; None while it says nothing."""
    try:
        with urllib.request.urlopen(f"{page}/health", timeout=2) as answer:  # noqa: S310 - a loopback page of ours
            return dict(json.load(answer))
    except urllib.error.HTTPError as unhealthy:
        return dict(json.load(unhealthy))
    except (OSError, ValueError, http.client.HTTPException):
        return None
