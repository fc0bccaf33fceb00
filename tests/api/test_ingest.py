"""`POST /v1/ingest` without a server and with a Kafka that does what the test says: every answer, and what was sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_engine.api.admission import INGEST_BODY_BYTES_MAX
from rollup_engine.api.problems import MEDIA_TYPE
from rollup_engine.config.model import Config
from rollup_engine.runtime import sql
from tests.api.bed import APP_ID, CONFIG, Bed, client
from tests.api.ingest_bed import PATH, TAKEN, Door, event
from tests.unit.route.test_router_against_naive import values
from tests.unit.runtime.fake_producer import Kafka


async def test_taken(door: Door) -> None:
    answer = await door.post(event("1"), event("2", event_name="API_CALL"))
    assert (answer.status_code, answer.json()) == (200, TAKEN)
    assert answer.headers["content-type"] == "application/json"
    assert sorted(door.sent) == ["1", "2"]
    assert (await door.post()).json() == TAKEN


async def test_the_good_ones_of_a_400_are_taken(door: Door) -> None:
    bad = [event("2", bytes="x"), event("3", event_name="other"), event(..., timestamp=...)]
    for path in (PATH, f"{PATH}?debug=true"):
        twice = event("4")
        answer = await door.post(event("1"), *bad, twice, twice, path=path)
        problem = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (400, MEDIA_TYPE)
        assert (problem["status"], problem["type"]) == (400, "about:blank")
        assert [one["idempotency_key"] for one in problem["validation_failed"]] == ["2", "3", ""]
        assert all(one["validation_errors"] for one in problem["validation_failed"])
        assert problem.get("debug") == ({"ingested": ["1", "4"], "duplicate": ["4"]} if "debug" in path else None)
    assert sorted(door.sent) == ["1", "1", "4", "4", "4", "4"]


async def test_debug_of_a_200(door: Door) -> None:
    answer = await door.post(event("1"), event("2"), path=f"{PATH}?debug=true")
    assert answer.json() == TAKEN | {"debug": {"ingested": ["1", "2"], "duplicate": []}}


async def test_half_a_surrogate_pair_costs_the_others_nothing(door: Door) -> None:
    content = json.dumps({"events": [event("1"), event("2", properties={"x": "@"})]}).replace("@", "\\ud800")
    headers = {"Authorization": f"Bearer {door.api.key}"}
    answer = await door.api.http.post(PATH, content=content.encode(), headers=headers)
    assert (answer.status_code, door.sent) == (400, ["1"])
    assert [one["idempotency_key"] for one in answer.json()["validation_failed"]] == ["2"]


async def test_a_key_with_two_bodies_takes_nothing(door: Door) -> None:
    answer = await door.post(event("1"), event("2", bytes=1), event("2", bytes=2))
    assert answer.status_code == 400
    assert [one["idempotency_key"] for one in answer.json()["validation_failed"]] == ["1", "2", "2"]
    assert door.sent == []


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "words"),
    [
        (PATH, b"", {}, 400, "not JSON"),
        (PATH, b'{"events":', {}, 400, "not JSON"),
        (PATH, b"{}", {}, 400, "must be"),
        (PATH, b'{"events": [1, 2, 3]}', {}, 400, "2 are allowed"),
        (PATH, b"\xff", {}, 400, "UTF-8"),
        (PATH, b"[" * 200_000, {}, 400, ""),
        (PATH, b'{"events": []}', {"content-encoding": "gzip"}, 415, "gzip"),
        (PATH, b" " * (INGEST_BODY_BYTES_MAX + 1), {}, 413, "too large"),
        (PATH, b'{"events": []}', {"idempotency-key": ""}, 422, "1 to 255"),
        (PATH, b'{"events": []}', {"idempotency-key": "x" * 256}, 422, "1 to 255"),
        (f"{PATH}?debgu=true", b'{"events": []}', {}, 422, "'debgu'"),
        (f"{PATH}?debug=maybe", b'{"events": []}', {}, 422, "query.debug"),
        (f"{PATH}?backfill_id=b", b'{"events": []}', {}, 422, "Backfills"),
    ],
)
async def test_refusals(bed: Bed, path: str, content: bytes, headers: dict[str, str], status: int, words: str) -> None:
    async with client(bed, await bed.key("ingest"), ingest_events_max=2) as api:
        door = Door.of(api)
        sent = {"Authorization": f"Bearer {api.key}", **headers}
        answer = await api.http.post(path, content=content, headers=sent)
        assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
        assert words in answer.json()["detail"]
        assert door.sent == []


async def test_a_body_above_the_reads_limit(door: Door) -> None:
    assert (await door.post(*(event(str(n), more="x" * 2_000) for n in range(400)))).json() == TAKEN


async def test_a_bound_key(bed: Bed, door: Door) -> None:
    key = await bed.key("ingest", customer="acme")
    answer = await door.post(event("1"), event("2", customer="globex"), key=key)
    assert answer.status_code == 400
    assert [one["idempotency_key"] for one in answer.json()["validation_failed"]] == ["2"]
    assert door.sent == ["1"]


async def test_its_own_rate(bed: Bed) -> None:
    key = await bed.key("ingest", "read")
    async with client(bed, key, api_rate="2/minute", ingest_rate="3/minute") as api:
        door = Door.of(api)
        answers = [await door.post(event(str(number))) for number in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert door.sent == ["0", "1", "2"]
        assert [(await api.get("/v1/metrics")).status_code for _ in range(3)] == [200, 200, 429]


async def test_no_kafka_is_known(bed: Bed, tmp_path: Any) -> None:
    async with client(bed, await bed.key("ingest"), state_dir=tmp_path) as api:
        answer = await api.post(PATH, {"events": [event()]})
        assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE)
        assert "ROLLUP_KAFKA_BOOTSTRAP_SERVERS" in answer.json()["detail"]
        assert (await api.post(PATH, {"events": [event(bytes="x")]})).status_code == 400, "told without a Kafka"


async def test_no_acknowledgement(door: Door) -> None:
    await door.post(event("1"))
    door.kafka.made[0].answers = lambda future: None
    answer = await door.post(event("2"))
    assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE)
    assert "did not acknowledge" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_new_yaml_is_followed(own_bed: Bed) -> None:
    async with client(own_bed, await own_bed.key("ingest")) as api:
        door = Door.of(api)
        named = event("1", event_name="upload")
        assert (await door.post(named)).status_code == 400
        upload = CONFIG.events[0].model_copy(update={"event": "upload"})
        config = Config(events=(*CONFIG.events, upload))
        added = sql.queries("registry")["add_generation"]
        await own_bed.pool.fetchval(added, APP_ID, config.digest, config.to_json())
        async with asyncio.timeout(5):
            while (await door.post(named)).status_code != 200:
                await asyncio.sleep(0.1)


bodies = st.one_of(
    st.lists(values, max_size=3).map(lambda parts: b'{"events":[%s]}' % b",".join(part or b"" for part in parts)),
    st.binary(max_size=30),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.sampled_from([value, None, "", 0, [], {}, "\0", "x", "2024-03-14T10:09:58"])
                for name, value in event("k").items()
            },
        ).map(lambda changes: event(at=event()["at"]) | changes),
        max_size=4,
    ).map(lambda events: json.dumps({"events": events}).encode()),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
async def test_whatever_is_sent(door: Door, body: bytes) -> None:
    """An answer that says what was sent, and no failure; what it does not name was sent, and nothing else."""
    services = door.api.services
    kafka = door.kafka = Kafka()
    services._intake = kafka.intake(services.config, ingest_timeout_s=5)
    headers = {"Authorization": f"Bearer {door.api.key}"}
    answer = await door.api.http.post(f"{PATH}?debug=true", content=body, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    said = answer.json()
    assert (answer.status_code == 200) == (said["validation_failed"] == [] and "debug" in said)
    records = [value for one in kafka.made for batch, _ in one.sent for value in batch]
    sent = [json.loads(value)["idempotency_key"] for value in records]
    taken = said.get("debug", {"ingested": []})["ingested"]
    assert sorted(set(sent)) == sorted(taken)
    failed = [one["idempotency_key"] for one in said["validation_failed"]]
    assert not set(taken) & set(failed)
    if "debug" in said:
        assert len(json.loads(body)["events"]) == len(sent) + len(failed)
