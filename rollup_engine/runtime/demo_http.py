"""The demo's event over HTTP: a curl line for people to copy, run here as it stands, and what came of it.

Owns: the line and its key. Must never touch the event type that the demo proves: whoever sends the line again, or
another like it, changes no total of that.
"""

import asyncio
import json
import shlex
import shutil
import time
import urllib.request
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console

from rollup_engine.errors import RollupError
from rollup_engine.runtime import api_keys
from rollup_engine.runtime.children import Children
from rollup_engine.runtime.screens import table
from rollup_engine.runtime.status import Status

EVENT = "api_request"
CUSTOMER = "acme"
TAKEN = '{"validation_failed":[]}'
START_SECONDS = 30.0
CURL_SECONDS = 15.0


async def ready(children: Children) -> str:
    """Wait for the API; its address."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            with direct.open(f"{children.api}/health/ready", timeout=2) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            return False

    deadline = time.monotonic() + START_SECONDS
    while not await asyncio.to_thread(answers):
        if time.monotonic() > deadline:
            raise RollupError(f"The API does not answer at {children.api} within {START_SECONDS:g} s.")
        children.watch()
        await asyncio.sleep(0.05)
    assert children.api is not None
    return children.api


async def send(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, api: str, console: Console) -> bool:
    """Print the line, run it, show the answer. False where there is no curl. Raises `RollupError` where the event
    is not taken."""
    key = await api_keys.create(pool, app_id, "demo", ["ingest"], None)
    line = curl_line(api, key, datetime.now(UTC))
    console.print("\n[bold]Send an event over HTTP[/bold], from another terminal while this runs:\n")
    console.print(line, style="cyan", highlight=False, markup=False, soft_wrap=True)
    if shutil.which("curl") is None:
        console.print("\ncurl is not installed here, so the line was not tried.\n")
        return False
    answer = await _run(line)
    console.print(f"\nRun here just now, it answered {answer}", highlight=False, markup=False, soft_wrap=True)
    console.print("Sent again it counts no second time; with another idempotency_key it is another event.\n")
    return True


def curl_line(api: str, key: str, at: datetime) -> str:
    """A command for a shell, over several lines."""
    event = {
        "event_name": EVENT,
        "idempotency_key": "request-1",
        "timestamp": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "external_customer_id": CUSTOMER,
        "properties": {"region": "eu-west-1", "bytes": 5120},
    }
    host = urlsplit(api).hostname or ""
    proxied = urllib.request.getproxies().keys() & {"http", "all"} and not urllib.request.proxy_bypass(host)
    parts = [
        f"curl -sS {f'--noproxy {host} ' if proxied else ''}{api}/v1/ingest",
        f"-H {shlex.quote(f'Authorization: Bearer {key}')}",
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(json.dumps({'events': [event]}))}",
    ]
    return " \\\n  ".join(parts)


async def _run(line: str) -> str:
    """Its answer. Raises `RollupError` for any but that the event was taken."""
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(shell.communicate(), CURL_SECONDS)
    except TimeoutError as error:
        shell.kill()
        await shell.wait()
        raise RollupError(f"The curl line had no answer within {CURL_SECONDS:g} s.") from error
    answer = out.decode(errors="replace")
    if answer != TAKEN:
        raise RollupError(f"The curl line failed: {answer or err.decode(errors='replace').strip()}")
    return answer


async def show(connection: asyncpg.Connection, status: Status, console: Console) -> bool:
    """What came of it. True where it is counted, and the books of its event type balance."""
    rows = await connection.fetch(
        'SELECT "timestamp", external_customer_id, region, count, bytes FROM rollups.api_request'
        " WHERE external_customer_id = $1 ORDER BY 1",
        CUSTOMER,
    )
    books = status.events[EVENT]
    columns = ["window", "customer", "region", "count", "bytes"]
    console.print(table("what came over HTTP", columns, [tuple(row) for row in rows], numbers=columns[3:]))
    console.print(f"{EVENT}: {books.received:,} received, {books.counted:,} counted, {books.duplicate:,} duplicates.")
    balanced = books.received == books.counted + books.duplicate + books.conflicting + books.late + books.invalid
    return balanced and books.counted >= 1 and sum(row["count"] for row in rows) >= 1
