"""`serve`: the API's process. Listens first, so that a port in use is one clear sentence; ends in order on a signal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import structlog
import uvicorn

from billable_metrics.catalog import Catalog
from billable_metrics.metric import Metrics
from billable_metrics.metric_files import check_metrics, load_metrics
from rollup_engine.api.app import application
from rollup_engine.api.services import Services
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import schema
from rollup_engine.runtime.addresses import database_of
from rollup_engine.runtime.metric_runner import metric_runner
from rollup_engine.runtime.stopping import Stop

GRACE_SECONDS = 10  # for requests under way at a stop

log = structlog.get_logger(__name__)


def serve(settings: Settings, host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT; returns after a clean stop. Raises `RollupError` for what keeps it from running."""
    metrics = load_metrics(settings.metrics_dir)
    with _listening(host, port) as listener, database_of(settings) as url:
        asyncio.run(_run(settings, url, metrics, listener))


async def _run(settings: Settings, url: str, metrics: Metrics, listener: socket.socket) -> None:
    stop = Stop()
    try:
        async with schema.connected(url) as pool:
            await schema.migrate(pool)

            @asynccontextmanager
            async def services() -> AsyncIterator[Services]:
                runner = metric_runner(settings, url)
                try:
                    load = partial(usable, metrics)
                    async with Services.started(settings, pool, runner, load) as started:
                        yield started
                finally:
                    await runner.close()

            server = _Server(
                uvicorn.Config(
                    application(services, settings),
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=GRACE_SECONDS,
                )
            )
            stop.calls(server.end)
            host, port = listener.getsockname()[:2]
            log.info("listening", role="serve", api=f"http://{f'[{host}]' if ':' in host else host}:{port}")
            await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if not stop.at_once:
            raise
    log.info("stopped", role="serve")


def usable(metrics: Metrics, catalog: Catalog) -> Metrics:
    """Those that can be evaluated over these rollups; the log says why the others cannot."""
    left_out = set()
    for name, metric in metrics.items():
        for problem in check_metrics({name: metric}, catalog):
            log.warning("a metric is left out", metric=name, problem=str(problem))
            left_out.add(name)
    return {name: metric for name, metric in metrics.items() if name not in left_out}


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn's own way ends with the signal instead of exit status 0."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ends = asyncio.Event()

    def end(self) -> None:
        """Answer what is under way, then end; called again, end at once."""
        self.force_exit, self.should_exit = self.should_exit, True
        self._ends.set()

    async def main_loop(self) -> None:
        """uvicorn's wakes ten times a second. Once is enough for the date of the answers, and an end wakes us."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol named, unlike by `create_server`: or asyncio takes it for something else than TCP, leaves
        # Nagle's algorithm on, and every answer on an open connection takes 40 ms.
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2_048)
            yield listener
    except OSError as error:
        raise RollupError(
            f"`serve` cannot listen on {host}, port {port}: {error.strerror}. Choose others by --host and --port, or"
            " ROLLUP_API_HOST and ROLLUP_API_PORT."
        ) from error
