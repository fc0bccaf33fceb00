"""A TCP proxy in front of Postgres that cuts connections at the worst moment, on purpose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"  # as asyncpg sends it: a simple query

Fault = Literal["lose the answer", "lose the commit", "delay the commit"]


class Proxy:
    """Passes everything on, until a commit meets the fault that was ordered; one order, one fault."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._fault: Fault | None = None
        self._at = COMMIT
        self._release = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.met = asyncio.Event()  # the server has answered to what was delayed, or whose answer was lost
        self.faults = 0

    def order(self, fault: Fault, at: bytes = COMMIT) -> None:
        """`at`: what is sent to commit; of a single statement, something in its arguments."""
        self._fault, self._at = fault, at

    def release(self) -> None:
        """Let a delayed commit reach the server."""
        self._release.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        back = asyncio.ensure_future(_pump(server_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                if self._fault is not None and self._at in data:
                    await self._meet(data, back, server_reader, server_writer, writer)
                    return
                server_writer.write(data)
                await server_writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            for end in (server_writer, writer):
                end.close()
            self._tasks.discard(task)

    async def _meet(
        self,
        data: bytes,
        back: "asyncio.Future[None]",
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        fault, self._fault = self._fault, None
        self.faults += 1
        back.cancel()
        with suppress(asyncio.CancelledError):
            await back
        if fault == "lose the commit":
            return
        if fault == "delay the commit":
            writer.close()  # the client sees it at once, and the server only later
            await self._release.wait()
        server_writer.write(data)
        await server_writer.drain()
        await server_reader.read(1)  # it has answered, so it has committed
        self.met.set()

    async def close(self) -> None:
        self._release.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """(the URL that leads through the proxy, the proxy)."""
    parts = urlsplit(database_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}")), proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
