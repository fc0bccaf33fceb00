"""Ad hoc SQL: rows, pages of one snapshot, what it is rewritten to, and every way of being refused."""

from typing import Any

from tests.api.bed import DAY, SCAN, WINDOW, Bed, Client, client

ALL = {"sql": f"SELECT timestamp, external_customer_id, region, sum_bytes FROM {SCAN} ORDER BY 1, 2, 3 NULLS LAST"}


async def test_rows_and_columns(api: Client) -> None:
    asked = {"sql": f"SELECT region, SUM(aggregated_count) AS n, NULL AS nothing, TRUE AS yes FROM {SCAN} GROUP BY 1"}
    answer = (await api.post("/v1/query", asked)).json()
    assert answer["columns"] == ["region", "n", "nothing", "yes"]
    assert {row["region"] for row in answer["data"]} == {"eu", "us", None}
    assert {type(row["n"]) for row in answer["data"]} == {int}
    assert answer["data"][0]["nothing"] is None
    assert answer["data"][0]["yes"] is True
    assert answer["data_through"] == "2024-03-14T23:50:00Z"


async def test_pages_are_of_one_snapshot(own_bed: Bed) -> None:
    rows = [(window, "acme", ("eu", None), 1, "1") for window in range(5)]
    await own_bed.emit("download", rows, watermark=DAY)
    async with client(own_bed) as api:
        first = (await api.post("/v1/query", ALL | {"limit": 2})).json()
        changed = [(window, "aaaa", ("eu", None), 1, "1") for window in range(5)]
        await own_bed.emit("download", changed, watermark=DAY)
        second = (await api.post("/v1/query", ALL | {"limit": 2, "cursor": first["next_cursor"]})).json()
        third = (await api.post("/v1/query", ALL | {"limit": 2, "cursor": second["next_cursor"]})).json()
        names = [row["external_customer_id"] for page in (first, second, third) for row in page["data"]]
        assert names == ["acme"] * 5
        assert third["next_cursor"] is None
        assert len((await api.post("/v1/query", ALL)).json()["data"]) == 10
        api.services.cache._entries.clear()
        gone = await api.post("/v1/query", ALL | {"limit": 2, "cursor": first["next_cursor"]})
        assert gone.status_code == 410


async def test_explain_says_what_is_read(api: Client) -> None:
    asked = ALL | {"explain": True, "start": "2024-03-14T00:00:00Z", "external_customer_id": "acme"}
    answer = (await api.post("/v1/query", asked)).json()
    assert '"rollups"."download_aggregated"' in answer["sql"]
    assert sorted(answer["parameters"]) == ["2024-03-14T00:00:00Z", "acme"]
    assert answer["notes"]


async def test_the_period_is_final_or_not(api: Client) -> None:
    """Windows are closed up to the 137th."""
    closed = (DAY + 137 * WINDOW).isoformat()
    for end, final in ((closed, True), ((DAY + 138 * WINDOW).isoformat(), False), (None, False)):
        assert (await api.post("/v1/query", ALL | {"end": end})).json()["final"] is final


async def test_an_error_points_at_its_place(api: Client) -> None:
    asked = {"sql": "SELECT SUM(aggregated_count)\nFROM AGGREGATED_EVENTS('downlod')"}
    answer = await api.post("/v1/query", asked)
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422
    assert (problem["line"], problem["column"]) == (2, 24)
    assert problem["detail"].endswith("FROM AGGREGATED_EVENTS('downlod')\n                         ^")
    assert "'download'" in problem["detail"]


async def test_two_columns_of_one_name(api: Client) -> None:
    answer = await api.post("/v1/query", {"sql": f"SELECT region AS a, region AS a FROM {SCAN}"})
    assert (answer.status_code, "'a'" in answer.json()["detail"]) == (422, True)


async def test_bodies_that_are_none(api: Client) -> None:
    headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
    bodies: list[tuple[bytes, int]] = [
        (b"", 422),
        (b'{"sql": "\xff"}', 400),
        (b"{", 422),
        (b"[]", 422),
        (b'{"sql": 1}', 422),
        (b'{"sql": "SELECT 1", "customer": "x"}', 422),
        (b'{"sql": "SELECT 1", "limit": 0}', 422),
        (b'{"sql": "SELECT 1", "start": "yesterday"}', 422),
        (b'{"sql": "SELECT 1", "external_customer_id": "\\u0000"}', 422),
        (b'{"sql": "' + b"x" * 200_000 + b'"}', 413),
    ]
    for body, status in bodies:
        answer = await api.http.post("/v1/query", content=body, headers=headers)
        assert answer.status_code == status, body[:50]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


async def test_cursors_that_were_not_given_out(api: Client) -> None:
    given: Any = (await api.post("/v1/query", ALL | {"limit": 1})).json()["next_cursor"]
    for cursor in ("", "a", "💥", "e30", "W10", given[:-2], given + "AA", "A" * 20_000):
        answer = await api.post("/v1/query", ALL | {"cursor": cursor})
        assert answer.status_code == 422, cursor
    answer = await api.post("/v1/query", {"sql": f"SELECT region FROM {SCAN}", "cursor": given})
    assert "another request" in answer.json()["detail"]
