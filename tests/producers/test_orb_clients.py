"""Orb's own clients with another base URL and nothing else: their retries, and what they make of a refusal."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orb
import pytest

from tests.acceptance.cli import until
from tests.producers.faulty import BUSY, LOST, faulty
from tests.producers.running import Running, calls, event_of, recount

pytestmark = pytest.mark.parametrize("running", ["embedded"], indirect=True)  # which Kafka it is makes no difference
Ingest = Callable[[str, str, list[dict[str, Any]]], Awaitable[orb.types.EventIngestResponse]]


async def _sync(url: str, key: str, events: list[dict[str, Any]]) -> orb.types.EventIngestResponse:
    def ingest() -> orb.types.EventIngestResponse:
        with orb.Orb(api_key=key, base_url=f"{url}/v1") as client:
            return client.events.ingest(events=events)  # type: ignore[arg-type]

    return await asyncio.to_thread(ingest)


async def _async(url: str, key: str, events: list[dict[str, Any]]) -> orb.types.EventIngestResponse:
    async with orb.AsyncOrb(api_key=key, base_url=f"{url}/v1") as client:
        return await client.events.ingest(events=events)  # type: ignore[arg-type]


@pytest.fixture(params=[_sync, _async], ids=["Orb", "AsyncOrb"])
def ingest(request: pytest.FixtureRequest) -> Ingest:
    found: Ingest = request.param
    return found


@pytest.fixture
def customer() -> str:
    return f"customer-{uuid4().hex}"


async def _has(running: Running, customer: str, made: list[dict[str, Any]]) -> None:
    wanted = recount(made)
    for _ in range(600):
        if await running.totals(customer) == wanted:
            return
        await asyncio.sleep(0.05)
    assert await running.totals(customer) == wanted


async def test_what_it_sends_again_counts_once(running: Running, ingest: Ingest, customer: str) -> None:
    made = calls(customer, distinct=20, repeated=3)
    with faulty(running.api, LOST, BUSY) as proxy:
        answer = await ingest(proxy.url, running.key, [event_of(call) for call in made])
    assert answer.validation_failed == []
    assert len(proxy.headers) == 3
    assert len({headers["idempotency-key"] for headers in proxy.headers}) == 1
    await _has(running, customer, made)


async def test_a_refusal_names_the_events_and_takes_the_others(running: Running, ingest: Ingest, customer: str) -> None:
    made = calls(customer, distinct=3, repeated=0)
    bad = event_of(made[0]) | {"idempotency_key": uuid4().hex, "properties": {"tokens": "many"}}
    with pytest.raises(orb.BadRequestError) as refused:
        await ingest(running.api, running.key, [*(event_of(call) for call in made), bad])
    assert refused.value.status_code == 400
    body: Any = refused.value.body
    (failed,) = body["validation_failed"]
    assert failed["idempotency_key"] == bad["idempotency_key"]
    assert any("tokens" in error for error in failed["validation_errors"])
    assert "validation_failed" in body["detail"]
    await _has(running, customer, made)


async def test_a_key_that_is_not_known(running: Running, ingest: Ingest, customer: str) -> None:
    with pytest.raises(orb.AuthenticationError, match="not known"):
        await ingest(running.api, "rk_no_key", [event_of(call) for call in calls(customer, 1, 0)])


PROGRAM = """\
import Orb from 'orb-billing'
const [good, mixed] = JSON.parse(process.argv[3])
const client = new Orb({ baseURL: process.argv[2] + '/v1', apiKey: process.env.INGEST_KEY, logLevel: 'off' })
const answer = await client.events.ingest({ events: good })
try {
  await client.events.ingest({ events: mixed })
} catch (error) {
  const bad = error instanceof Orb.BadRequestError
  console.log(JSON.stringify({ answer, bad, status: error.status, failed: error.error.validation_failed }))
}
"""


def test_the_client_for_node(running: Running, node_directory: Path, customer: str) -> None:
    made = calls(customer, distinct=20, repeated=3)
    bad = event_of(made[0]) | {"idempotency_key": uuid4().hex, "timestamp": "yesterday"}
    good, mixed = [event_of(call) for call in made[:10]], [*(event_of(call) for call in made[10:]), bad]
    program = node_directory / "program.mjs"
    program.write_text(PROGRAM, encoding="utf-8")
    with faulty(running.api, LOST, BUSY) as proxy:
        done: subprocess.CompletedProcess[str] = running.run(
            ["node", str(program), proxy.url, json.dumps([good, mixed])]
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["answer"], told["bad"], told["status"]) == ({"validation_failed": []}, True, 400)
    assert [one["idempotency_key"] for one in told["failed"]] == [bad["idempotency_key"]]
    names = [headers["idempotency-key"] for headers in proxy.headers]
    assert (len(names), len(set(names)), len(set(names[:3]))) == (4, 2, 1)
    until("its totals", lambda: asyncio.run(running.totals(customer)) == recount(made))
