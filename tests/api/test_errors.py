"""Every way of failing is a problem that says what to do, and shows nothing of the inside."""

import asyncio
from urllib.parse import urlsplit

import pytest

from rollup_engine.api.problems import MEDIA_TYPE
from rollup_engine.errors import BrokerUnavailable, MetricsBusy
from tests.api.bed import APP_ID, DAY, SCAN, Bed, Client, client
from tests.contract.tcp_proxy import proxied

PERIOD = "start=2024-03-14T00:00:00Z&end=2024-03-15T00:00:00Z"
USAGE = f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=acme"


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/nothing", 404, "/openapi.json"),
        ("GET", "/", 404, "/openapi.json"),
        ("GET", "/v1/metrics/", 404, "/openapi.json"),
        ("GET", "/v1/metrics/byte", 404, "'bytes'"),
        ("GET", f"/v1/metrics/byte/usage?{PERIOD}&external_customer_id=acme", 404, "'bytes'"),
        ("DELETE", "/v1/metrics", 405, "`Allow`"),
        ("GET", "/v1/query", 405, "`Allow`"),
        ("GET", "/v1/metrics/bytes/usage", 422, "query.start"),
        ("GET", f"/v1/metrics/bytes/usage?{PERIOD}", 422, "external_customer_id"),
        ("GET", f"{USAGE}&granularity=week", 422, "query.granularity"),
        ("GET", f"{USAGE}&timezone=Europe/Belin", 422, "'Europe/Berlin'"),
        ("GET", f"{USAGE}&group_by=regin", 422, "'region'"),
        ("GET", f"{USAGE}&limit=0", 422, "query.limit"),
        ("GET", f"{USAGE}&fil=1", 422, "'fil'"),
        ("GET", f"{USAGE}&cursor=x", 422, "next_cursor"),
        ("GET", "/v1/metrics?cursor=x", 422, "next_cursor"),
        ("GET", f"/v1/events/volume?{PERIOD}&event=downlod", 422, "'download'"),
        ("GET", f"/v1/events/volume?{PERIOD}&events=download", 422, "'events'"),
        ("GET", "/v1/events/volume?start=2024-03-14T00:00:00Z&end=2023-03-14T00:00:00Z", 422, "before its end"),
        ("GET", "/v1/events/volume?start=0001-01-01T00:00:00Z&end=9999-12-31T23:59:59Z", 422, "1970"),
        ("GET", "/v1/events/volume?end=0001-01-01T00:00:00Z", 422, "1970"),
        ("GET", "/v1/events/volume?end=9999-12-31T23:59:59-11:00", 422, "no time that exists"),
        ("GET", "/v1/events/volume?start=2023-03-14T00:00:00Z&end=2024-03-14T00:00:00Z", 422, "92 days"),
        ("GET", "/v1/events/volume?start=2024-03-14", 422, "2024-03-14T00:00:00Z"),
        ("GET", f"/v1/events/volume?{PERIOD}&external_customer_id=%00", 422, "U+0000"),
        ("GET", f"/v1/events/volume?{PERIOD}&cursor=W10", 422, "next_cursor"),
    ],
)
async def test_refusals(api: Client, method: str, path: str, status: int, words: str) -> None:
    answer = await api.http.request(method, path, headers={"Authorization": f"Bearer {api.key}"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    problem = answer.json()
    assert words in problem["detail"]
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize("path", [USAGE, f"/v1/events/volume?{PERIOD}"])
async def test_forms_that_there_are_not(api: Client, path: str) -> None:
    for accept in ("image/png", "application/json;q=0", "text/csv;q=0, application/xml"):
        answer = await api.get(path, accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (406, MEDIA_TYPE), accept
        assert "text/csv" in answer.json()["detail"]
    assert (await api.post("/v1/query", {"sql": f"SELECT region FROM {SCAN}"}, accept="x/y")).status_code == 406


async def test_a_fault_of_ours_shows_nothing(api: Client) -> None:
    async def broken() -> None:
        raise RuntimeError("secret")

    api.services.current = broken  # type: ignore[method-assign, assignment]
    answer = await api.get(USAGE)
    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_before_the_engine_has_run(own_bed: Bed) -> None:
    await own_bed.pool.execute("DELETE FROM rollup_engine.generations")
    async with client(own_bed) as api:
        answer = await api.get("/v1/metrics")
        assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE)
        assert APP_ID in answer.json()["detail"]
        assert (await api.http.get("/health/ready")).status_code == 200


async def test_postgres_away_and_back(own_bed: Bed) -> None:
    await own_bed.emit("download", [(0, "acme", ("eu", None), 1, "1")], watermark=DAY)
    key = await own_bed.key()
    password = urlsplit(own_bed.url).password or ""
    async with proxied(own_bed.url) as (url, proxy), Bed.on(url) as bed, client(bed, key) as api:
        assert (await api.get(USAGE)).status_code == 200
        there, proxy._host = proxy._host, "127.0.0.2"  # nobody listens there
        await proxy.close()
        for path in (USAGE, "/v1/metrics", "/v1/status", "/health/ready"):
            answer = await api.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE), path
            assert int(answer.headers["retry-after"]) >= 1
            assert password not in answer.text
            assert "127.0.0.1" not in answer.text
        assert (await api.http.get("/health/live")).status_code == 200
        assert (await api.http.get("/metrics")).status_code == 200
        proxy._host = there
        async with asyncio.timeout(10):
            while (await api.get(USAGE)).status_code != 200:
                await asyncio.sleep(0.05)


async def test_status_without_kafka(api: Client) -> None:
    async def away() -> None:
        raise BrokerUnavailable

    api.services._kafka_log = away  # type: ignore[method-assign]
    answer = await api.get("/v1/status")
    assert (answer.status_code, answer.json()["kafka"]) == (200, False)
    assert answer.json()["events"]["download"]["lag"] == 0


async def test_too_many_metrics_at_once(api: Client) -> None:
    async def busy(*args: object, **named: object) -> None:
        raise MetricsBusy("8 metrics run already")

    api.services.runner.run = busy  # type: ignore[method-assign, assignment]
    api.services.cache._entries.clear()
    answer = await api.get(USAGE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "8 metrics" in answer.json()["detail"]


async def test_a_request_that_a_stop_cuts_off(api: Client) -> None:
    """uvicorn cancels what is under way when its time is up."""

    async def cancelled(*args: object, **named: object) -> None:
        raise asyncio.CancelledError

    api.services.runner.run = cancelled  # type: ignore[method-assign, assignment]
    api.services.cache._entries.clear()
    answer = await api.get(USAGE)
    assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE)
    assert answer.headers["retry-after"]
