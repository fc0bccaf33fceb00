"""CloudEvents over HTTP to totals: as the specification has them, and as OpenMeter's client sends them."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import openmeter
import openmeter.aio
import openmeter.models
import pytest
from corehttp.exceptions import ClientAuthenticationError, HttpResponseError, ServiceResponseError

from tests.producers.faulty import BUSY, LOST, faulty
from tests.producers.running import Running, Totals

STRUCTURED, BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"


@pytest.fixture
def customer() -> str:
    return f"customer-{uuid4().hex}"


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx.AsyncClient(base_url=running.api, headers=headers) as made:
        yield made


def event(customer: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "specversion": "1.0",
        "type": "com.example.tokens",
        "source": "/gateway/1",
        "id": uuid4().hex,
        "time": "2024-03-14T09:02:50Z",
        "subject": customer,
        "data": {"model": "large", "tokens": 100},
    }
    return {name: value for name, value in (plain | changes).items() if value is not ...}


async def _has(running: Running, customer: str, wanted: Totals) -> None:
    found: Totals = {}
    for _ in range(600):
        found = await running.totals(customer, "ai_tokens", "model")
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    assert found == wanted


async def test_one_event_and_a_batch(running: Running, client: httpx.AsyncClient, customer: str) -> None:
    one = event(customer)
    other_source = event(customer, id=one["id"], source="/gateway/2")
    batch = [one, other_source, event(customer, data={"model": "small", "tokens": 7}), event(customer, data=...)]
    for kind, content in [(STRUCTURED, one), (f"{BATCHED}; charset=UTF-8", batch), (BATCHED, [])]:
        answer = await client.post("/v1/cloudevents", content=json.dumps(content), headers={"Content-Type": kind})
        assert (answer.status_code, answer.content) == (204, b"")
    await _has(running, customer, {"large": (2, 200), "small": (1, 7), None: (1, 0)})


async def test_what_is_refused_is_named_and_the_others_are_taken(
    running: Running, client: httpx.AsyncClient, customer: str
) -> None:
    bad = {
        "specversion": event(customer, specversion="0.3"),
        "id": event(customer, id=""),
        "source": event(customer, source=...),
        "type": event(customer, type=5),
        "time": event(customer, time=...),
        "data_base64": event(customer, data=..., data_base64="e30="),
        "tokens": event(customer, data={"model": "large", "tokens": "many"}),
        "no object": event(customer, data="text"),
        "no event type": event(customer, type="com.example.other"),
    }
    content = json.dumps([event(customer), *bad.values()])
    answer = await client.post("/v1/cloudevents", content=content, headers={"Content-Type": BATCHED})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    failed = answer.json()["validation_failed"]
    for (word, sent), one in zip(bad.items(), failed, strict=True):
        assert (one["source"], one["id"]) == (sent.get("source"), sent["id"])
        assert any(word in error for error in one["validation_errors"]), (word, one)
    await _has(running, customer, {"large": (1, 100)})


@pytest.mark.parametrize("path", ["/v1/cloudevents", "/api/v1/events"])
async def test_modes_that_are_not_understood(client: httpx.AsyncClient, customer: str, path: str) -> None:
    attributes = {f"ce-{name}": value for name, value in event(customer, data=...).items()}
    for headers in (
        {"Content-Type": "application/json"} | attributes,
        {"Content-Type": "application/cloudevents+avro"},
    ):
        answer = await client.post(path, content='{"tokens": 1}', headers=headers)
        assert answer.status_code == 415
        assert STRUCTURED in answer.json()["detail"]
        assert BATCHED in answer.headers["accept"]


def _model(customer: str, tokens: int) -> openmeter.models.Event:
    sent = event(customer, time=datetime.fromisoformat("2024-03-14T09:02:50+00:00"))
    return openmeter.models.Event(**sent | {"data": {"model": "large", "tokens": tokens}})


async def test_openmeters_client(running: Running, customer: str) -> None:
    sent = [_model(customer, tokens) for tokens in (1, 20, 300)]

    def ingest(url: str) -> None:
        with openmeter.Client(endpoint=url, token=running.key) as client:
            client.events.ingest_event(sent[0])  # a 503 it tries again by itself
            with pytest.raises(ServiceResponseError):
                client.events.ingest_events(sent)  # but not where the answer was lost
            client.events.ingest_events(sent)
            client.events.ingest_events_json(sent[2])

    with faulty(running.api, BUSY, "", LOST) as proxy:
        await asyncio.to_thread(ingest, proxy.url)
    assert len(proxy.headers) == 5
    await _has(running, customer, {"large": (3, 321)})


async def test_openmeters_asynchronous_client_and_its_errors(running: Running, customer: str) -> None:
    async with openmeter.aio.Client(endpoint=running.api, token=running.key) as client:
        await client.events.ingest_events([_model(customer, 4), _model(customer, 5)])
        with pytest.raises(HttpResponseError) as refused:
            await client.events.ingest_event(openmeter.models.Event(**event(customer, time=None)))
    assert refused.value.status_code == 400
    assert "validation_failed" in json.loads(refused.value.response.text())
    async with openmeter.aio.Client(endpoint=running.api, token="rk_no_key") as client:
        with pytest.raises(ClientAuthenticationError):
            await client.events.ingest_event(_model(customer, 6))
    await _has(running, customer, {"large": (2, 9)})
