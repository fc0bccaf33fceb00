"""`POST /v1/ingest` under load and in trouble: what is shed, what is remembered, and what is taken all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from rollup_engine.api import ingesting
from rollup_engine.api.problems import MEDIA_TYPE
from rollup_engine.runtime import api_keys
from tests.api.bed import APP_ID, Bed, client
from tests.api.ingest_bed import PATH, TAKEN, Door, event
from tests.contract.tcp_proxy import proxied


async def asgi(app: FastAPI, key: str, *messages: dict[str, Any], **headers: str) -> tuple[int, int]:
    """A request by hand: (status, messages of its body that were read). The body does not go on after the last."""
    read, statuses = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        if read > len(messages):
            await asyncio.Event().wait()
        return messages[read - 1]

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    named = {"authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "app": app,
    }
    await app(scope, receive, send)
    return statuses[0], read


async def test_what_is_too_much_is_not_read(bed: Bed, door: Door) -> None:
    """A call counts from before its body, with what it says; and no key has more than half."""
    api = door.api
    keys = [await bed.key("ingest") for _ in range(3)]
    waiting = [
        asyncio.create_task(asgi(api.app, key, content_length=str(7 << 20))) for key in keys[:2] for _ in range(5)
    ]
    await asyncio.sleep(0.3)
    assert sorted(task.done() for task in waiting) == [False] * 8 + [True] * 2
    assert {task.result() for task in waiting if task.done()} == {(503, 0)}
    part = {"type": "http.request", "body": b"{}"}
    assert await asgi(api.app, keys[2], part, content_length=str(7 << 20)) == (400, 1), "another key has room"
    waiting.append(asyncio.create_task(asgi(api.app, keys[2], content_length=str(7 << 20))))
    await asyncio.sleep(0.1)
    assert await asgi(api.app, keys[2], part, content_length=str(2 << 20)) == (503, 0), "all that there is"
    assert (await door.post(event())).json() == TAKEN, "a small one still has room"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (await asgi(api.app, keys[0], part, content_length=str(7 << 20)))[0] == 400


async def test_a_body_that_does_not_say_its_size_counts_as_it_comes(door: Door) -> None:
    """So that slow ones shut out nobody."""
    api = door.api
    small = {"type": "http.request", "body": b'{"events"', "more_body": True}
    large = {"type": "http.request", "body": b" " * (7 << 20), "more_body": True}
    slow = [asyncio.create_task(asgi(api.app, api.key, small)) for _ in range(20)]
    await asyncio.sleep(0.3)
    assert (await door.post(event())).json() == TAKEN
    slow += [asyncio.create_task(asgi(api.app, api.key, large)) for _ in range(4)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in slow)
    assert await asgi(api.app, api.key, small, large) == (503, 2)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert (await asgi(api.app, api.key, {"type": "http.request", "body": b"{}"}))[0] == 400


async def test_a_body_that_does_not_arrive(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingesting, "BODY_SECONDS_MAX", 0.05)
    part = {"type": "http.request", "body": b'{"events"', "more_body": True}
    assert (await asgi(door.api.app, door.api.key, part))[0] == 408
    assert (await asgi(door.api.app, door.api.key, part, {"type": "http.disconnect"}))[0] == 400


class TestIdempotencyKey:
    async def test_the_first_answer_again(self, door: Door) -> None:
        same = [event("1", bytes="x"), event("2")]
        first = [await door.post(*same, Idempotency_Key="k") for _ in range(3)]
        assert {answer.content for answer in first} == {first[0].content}
        assert {(answer.status_code, answer.headers["content-type"]) for answer in first} == {(400, MEDIA_TYPE)}
        assert door.sent == ["2"]
        await door.post(event("2"), Idempotency_Key="other")
        assert door.sent == ["2", "2"]

    async def test_also_while_the_first_is_under_way(self, door: Door) -> None:
        door.kafka.gate.clear()
        same = event("1")
        calls = [asyncio.create_task(door.post(same, Idempotency_Key="k")) for _ in range(5)]
        await asyncio.sleep(0.1)
        door.kafka.gate.set()
        assert [answer.json() for answer in await asyncio.gather(*calls)] == [TAKEN] * 5
        assert door.sent == ["1"]

    async def test_with_another_body(self, bed: Bed, door: Door) -> None:
        await door.post(event("1"), Idempotency_Key="k")
        answer = await door.post(event("2"), Idempotency_Key="k")
        assert answer.status_code == 422
        assert "another body" in answer.json()["detail"]
        other = await bed.key("ingest")
        assert (await door.post(event("2"), key=other, Idempotency_Key="k")).json() == TAKEN
        assert door.sent == ["1", "2"]

    async def test_a_failure_is_not_kept(self, door: Door) -> None:
        door.kafka.gate.clear()
        same = event("1")
        calls = [asyncio.create_task(door.post(same, Idempotency_Key="k")) for _ in range(2)]
        assert 503 in {answer.status_code for answer in await asyncio.gather(*calls)}
        door.kafka.gate.set()
        assert (await door.post(same, Idempotency_Key="k")).json() == TAKEN
        assert set(door.sent) == {"1"}


async def test_events_are_taken_while_postgres_is_away(own_bed: Bed) -> None:
    """With keys that were good a moment ago, under the YAML of then; not with others, and not for reading."""
    known, unknown = await own_bed.key("ingest", "read"), await own_bed.key("ingest")
    async with proxied(own_bed.url) as (url, proxy), Bed.on(url) as bed, client(bed, known) as api:
        door = Door.of(api)
        assert (await door.post(event("1"))).json() == TAKEN
        there, proxy._host = proxy._host, "127.0.0.2"  # nobody listens there
        await proxy.close()
        for number in "23":
            assert (await door.post(event(number))).json() == TAKEN
        api.services.outage.over()
        api.services._config_at = float("-inf")
        assert (await api.services.config()).events, "of a moment ago, whoever asks first"
        assert (await door.post(event("4"), key=unknown)).status_code == 503
        assert (await api.get("/v1/metrics")).status_code == 503
        await api_keys.revoke(own_bed.pool, APP_ID, known.split("_")[1])
        proxy._host = there
        async with asyncio.timeout(10):
            while (await door.post(event("5"))).status_code != 401:
                await asyncio.sleep(0.05)
        assert {"1", "2", "3"} <= set(door.sent)
