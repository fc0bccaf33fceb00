"""Who may see what: every endpoint, every scope, bound and unbound keys, revoked and made-up ones."""

import pytest

from rollup_engine.api.problems import MEDIA_TYPE
from rollup_engine.runtime import api_keys
from rollup_engine.runtime.api_keys import SCOPES
from tests.api.bed import APP_ID, SCAN, Bed, Client, client

PERIOD = "start=2024-03-14T00:00:00Z&end=2024-03-15T00:00:00Z"
QUERY = {"sql": f"SELECT external_customer_id, SUM(aggregated_count) AS n FROM {SCAN} GROUP BY 1 ORDER BY 1"}
ENDPOINTS = [  # method and address, the scope that it needs, and what a key bound to `acme` gets
    ("GET", "/v1/metrics", "read", 200),
    ("GET", "/v1/metrics/bytes", "read", 200),
    ("GET", f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=acme", "read", 200),
    ("GET", f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=globex", "read", 403),
    ("GET", f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=acme&external_customer_id=globex", "read", 403),
    ("GET", f"/v1/events/volume?{PERIOD}", "read", 200),
    ("GET", f"/v1/events/volume?{PERIOD}&external_customer_id=globex", "read", 403),
    ("GET", "/v1/status", "read", 403),
    ("POST", "/v1/query", "query", 200),
    ("POST", "/v1/ingest", "ingest", 200),
    ("POST", "/v1/cloudevents", "ingest", 200),
    ("POST", "/api/v1/events", "ingest", 200),
]
CLOUDEVENTS = "application/cloudevents-batch+json"
BODIES = {"/v1/query": (QUERY, {}), "/v1/ingest": ({"events": []}, {})}


async def _ask(api: Client, method: str, path: str, key: str) -> int:
    if method == "GET":
        answer = await api.get(path, key=key)
    else:
        body, headers = BODIES.get(path, ([], {"Content-Type": CLOUDEVENTS}))
        answer = await api.post(path, body, key=key, **headers)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json()["status"] == answer.status_code
    return 200 if answer.status_code == 204 else answer.status_code


async def test_every_endpoint_is_here(api: Client) -> None:
    listed = {(method.upper(), path) for path, methods in api.app.openapi()["paths"].items() for method in methods}
    tried = {(method, path.split("?")[0].replace("/bytes", "/{name}")) for method, path, *_ in ENDPOINTS}
    assert {(method, path) for method, path in listed if path.startswith(("/v1/", "/api/"))} == tried


async def test_scopes_and_customers(bed: Bed, api: Client) -> None:
    for scope in SCOPES:
        for customer in (None, "acme"):
            key = await bed.key(scope, customer=customer)
            for method, path, needed, bound in ENDPOINTS:
                expected = 403 if scope not in (needed, "admin") else bound if customer else 200
                assert await _ask(api, method, path, key) == expected, (scope, customer, path)


async def test_without_a_good_key(bed: Bed, api: Client) -> None:
    revoked = await bed.key("read", "query", name="revoked")
    await api_keys.revoke(bed.pool, APP_ID, "revoked")
    other_app = await api_keys.create(bed.pool, "another", "key", ["read", "query"], None)
    wrong = api.key[:-1] + ("a" if api.key[-1] != "a" else "b")
    made_up = "rk_0123456789ab_" + "a" * 43
    for key in (
        "",
        "rk_",
        "x" * 10_000,
        api.key + "a",
        api.key.upper(),
        wrong,
        made_up,
        revoked,
        other_app,
        "rk_\u00fc",
    ):
        for method, path, *_ in [*ENDPOINTS, ("GET", "/v1/nothing", "", 0), ("POST", "/v1/nothing", "", 0)]:
            answers = [
                await api.http.request(method, path, headers={"Authorization": f"Bearer {key}".encode()}, content=b"{")
                for _ in range(1)
            ]
            assert [answer.status_code for answer in answers] == [401], (key, path)
            assert answers[0].headers["www-authenticate"].startswith("Bearer realm=")
            if key.startswith("rk_0") or key in (wrong, revoked, other_app):
                assert answers[0].json()["detail"] == "This key is not known, or was revoked."
    for headers in ({}, {"Authorization": f"Basic {api.key}"}, {"Authorization": api.key}, {"X-Api-Key": api.key}):
        assert (await api.http.get("/v1/metrics", headers=headers)).status_code == 401


async def test_a_revoked_key_ends_at_once(bed: Bed, api: Client) -> None:
    key = await bed.key("read", name="for a moment")
    assert (await api.get("/v1/metrics", key=key)).status_code == 200
    await api_keys.revoke(bed.pool, APP_ID, "for a moment")
    assert (await api.get("/v1/metrics", key=key)).status_code == 401


async def test_a_bound_key_sees_one_customer(bed: Bed, api: Client) -> None:
    key = await bed.key("read", "query", customer="acme")
    usage = (await api.get(f"/v1/metrics/bytes/usage?{PERIOD}", key=key)).json()["data"]
    assert [row["external_customer_id"] for row in usage] == ["acme"]
    rows = (await api.post("/v1/query", QUERY, key=key)).json()["data"]
    assert [row["external_customer_id"] for row in rows] == ["acme"]
    assert (await api.post("/v1/query", QUERY | {"external_customer_id": "globex"}, key=key)).status_code == 403
    everybody = (await api.get(f"/v1/events/volume?{PERIOD}&event=download")).json()["data"]
    mine = (await api.get(f"/v1/events/volume?{PERIOD}&event=download", key=key)).json()["data"]
    assert [row["count"] * 2 for row in mine] == [row["count"] for row in everybody]
    assert "sql" not in (await api.get("/v1/metrics/bytes", key=key)).json()
    assert "sql" in (await api.get("/v1/metrics/bytes")).json()
    explained = (await api.post("/v1/query", QUERY | {"explain": True}, key=key)).json()
    assert explained["parameters"] == ["acme"]


async def test_a_bound_key_is_not_shown_a_metric_by_its_errors(own_bed: Bed) -> None:
    await own_bed.pool.execute("UPDATE rollup_engine.rollups SET complete_from = '2024-04-01'")
    async with client(own_bed) as api:
        path = f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=acme"
        bound = await api.get(path, key=await own_bed.key("read", customer="acme"))
        assert (bound.status_code, "2024-04-01T00:00:00Z" in bound.json()["detail"]) == (422, True)
        assert "SUM(" not in bound.text
        assert "SUM(" in (await api.get(path)).text


async def test_what_is_kept_for_one_key_is_not_shown_to_another(bed: Bed, api: Client) -> None:
    """The same words mean something else for a bound key: the answers kept, the ETags and the cursors know it."""
    bound = await bed.key("read", "query", customer="globex")
    for _ in range(2):
        everybody = await api.post("/v1/query", QUERY | {"limit": 1})
        mine = await api.post("/v1/query", QUERY, key=bound)
        assert [row["external_customer_id"] for row in everybody.json()["data"]] == ["acme"]
        assert [row["external_customer_id"] for row in mine.json()["data"]] == ["globex"]
    stolen = QUERY | {"limit": 1, "cursor": everybody.json()["next_cursor"]}
    assert (await api.post("/v1/query", stolen, key=bound)).status_code == 422
    volume = f"/v1/events/volume?{PERIOD}"
    etag = (await api.get(volume)).headers["etag"]
    assert (await api.get(volume, key=bound, if_none_match=etag)).status_code == 200
    assert (await api.get(volume, if_none_match=etag)).status_code == 304


async def test_too_many_requests(bed: Bed) -> None:
    async with client(bed, api_rate="3/minute") as api:
        other = await bed.key("read")
        answers = [await api.get("/v1/metrics") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert answers[-1].headers["content-type"] == MEDIA_TYPE
        assert (await api.get("/v1/metrics", key=other)).status_code == 200
        assert (await api.http.get("/health/live")).status_code == 200


async def test_a_key_is_stored_nowhere(bed: Bed) -> None:
    key = await bed.key("read", name="secret")
    row = await bed.pool.fetchrow("SELECT * FROM rollup_engine.api_keys WHERE name = 'secret'")
    assert row is not None
    secret = key.rsplit("_", 1)[1]
    assert len(secret) == 43
    assert not any(secret in str(value) for value in row.values())
    assert secret.encode() not in row["hash"]
    listed = [one for one in await api_keys.listed(bed.pool, APP_ID) if one.name == "secret"]
    assert secret not in str(listed)


@pytest.mark.parametrize(
    ("name", "scopes", "customer", "words"),
    [
        ("n", [], None, "needs a --scope"),
        ("n", ["read", "write"], None, "'write' is not known"),
        ("", ["read"], None, "printable"),
        ("a\nb", ["read"], None, "printable"),
        ("0123456789ab", ["read"], None, "no id"),
        ("n", ["read"], "", "--customer is empty"),
    ],
)
async def test_keys_that_are_refused(bed: Bed, name: str, scopes: list[str], customer: str | None, words: str) -> None:
    with pytest.raises(api_keys.UsageError, match=words):
        await api_keys.create(bed.pool, APP_ID, name, scopes, customer)


async def test_a_name_is_one_key_at_a_time(bed: Bed) -> None:
    first = await bed.key("read", name="rotating")
    with pytest.raises(api_keys.UsageError, match="already"):
        await bed.key("read", name="rotating")
    await api_keys.revoke(bed.pool, APP_ID, "rotating")
    second = await bed.key("query", name="rotating")
    assert await api_keys.find(bed.pool, APP_ID, first) is None
    found = await api_keys.find(bed.pool, APP_ID, second)
    assert found is not None
    assert await api_keys.revoke(bed.pool, APP_ID, found.id) == "rotating"
    with pytest.raises(api_keys.UsageError, match="no key 'rotating'"):
        await api_keys.revoke(bed.pool, APP_ID, "rotating")
