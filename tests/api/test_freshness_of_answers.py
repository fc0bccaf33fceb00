"""What is kept is never stale, and what is said of freshness is true: the token, the ETag, `data_through`, `final`."""

from datetime import timedelta

from tests.api.bed import DAY, SCAN, WINDOW, Bed, client
from tests.api.conftest import ROWS

HOUR = timedelta(hours=1)
USAGE = "/v1/metrics/bytes/usage?start=2024-03-14T00:00:00Z&end=2024-03-14T01:00:00Z&external_customer_id=acme"
QUERY = {"sql": f"SELECT SUM(aggregated_count) AS n FROM {SCAN}", "end": "2024-03-14T01:00:00Z"}
VOLUME = "/v1/events/volume?start=2024-03-14T00:00:00Z&end=2024-03-14T01:00:00Z&event=download"


async def test_a_new_emission_is_seen_at_once(own_bed: Bed) -> None:
    async with client(own_bed) as api:
        await own_bed.emit("download", [(0, "acme", ("eu", None), 1, "1.5")], watermark=DAY)
        first = [await api.get(USAGE), await api.post("/v1/query", QUERY), await api.get(VOLUME)]
        again = [await api.get(USAGE), await api.post("/v1/query", QUERY), await api.get(VOLUME)]
        assert [answer.json()["data"] for answer in first] == [answer.json()["data"] for answer in again]
        await own_bed.emit("download", [(0, "acme", ("eu", None), 3, "4.5")], watermark=DAY)
        after = [await api.get(USAGE), await api.post("/v1/query", QUERY), await api.get(VOLUME)]
        values = [list(answer.json()["data"][0].values())[-1] for answer in (*first, *after)]
        assert values == ["1.5", 1, 1, "4.5", 3, 3]
        assert after[0].headers["etag"] != first[0].headers["etag"]


async def test_nothing_is_asked_twice_between_emissions(own_bed: Bed) -> None:
    await own_bed.emit("download", ROWS, watermark=DAY)
    async with client(own_bed) as api:
        run, ran = api.services.runner.run, 0

        async def counted(*args: object, **named: object) -> object:
            nonlocal ran
            ran += 1
            return await run(*args, **named)  # type: ignore[arg-type]

        api.services.runner.run = counted  # type: ignore[assignment, method-assign]
        for _ in range(3):
            await api.get(USAGE)
            await api.get(USAGE, accept="text/csv")
            await api.post("/v1/query", QUERY)
            await api.get(VOLUME)
        assert ran == 3
        for _ in range(2):  # these change without an emission
            await api.get(USAGE.replace("bytes", "recent"))
            await api.post("/v1/query", {"sql": f"SELECT COUNT(*) AS n, now() AS at FROM {SCAN}"})
        assert ran == 7


async def test_not_modified(own_bed: Bed) -> None:
    await own_bed.emit("download", ROWS, watermark=DAY)
    async with client(own_bed) as api:
        for path in (USAGE, VOLUME, "/v1/metrics", "/v1/metrics/bytes", "/v1/status"):
            etag = (await api.get(path)).headers["etag"]
            assert not etag.startswith("W/")
            for given in (etag, f'"other", {etag}', f"W/{etag}", "*"):
                unchanged = await api.get(path, if_none_match=given)
                assert (unchanged.status_code, unchanged.content) == (304, b""), path
                assert unchanged.headers["etag"] == etag
            assert (await api.get(path, if_none_match='"other"')).status_code == 200
        etag = (await api.get(USAGE)).headers["etag"]
        assert (await api.get(USAGE, accept="text/csv")).headers["etag"] != etag
        await own_bed.emit("download", [(0, "acme", ("eu", "a"), 99, "99")], watermark=DAY)
        assert (await api.get(USAGE, if_none_match=etag)).status_code == 200
        fresher = [await api.get(USAGE, accept="text/csv")]
        await own_bed.emit("download", [], watermark=DAY + HOUR)
        await api.look()
        fresher.append(await api.get(USAGE, accept="text/csv"))
        assert fresher[0].text == fresher[1].text  # only the headers say how fresh it is
        assert fresher[0].headers["etag"] != fresher[1].headers["etag"]


async def test_data_through_is_what_is_contained(own_bed: Bed) -> None:
    async with client(own_bed) as api:

        async def said(path: str = USAGE) -> tuple[str | None, bool]:
            await api.look()
            answer = await api.get(path)
            assert answer.headers.get("rollup-data-through") == answer.json()["data_through"]
            assert answer.headers["rollup-final"] == str(answer.json()["final"]).lower()
            return answer.json()["data_through"], answer.json()["final"]

        assert await said() == (None, False)
        await own_bed.emit("download", ROWS, watermark=DAY + HOUR)
        assert await said() == ("2024-03-14T01:00:00Z", False)
        await own_bed.routed("download", DAY + 5 * HOUR)  # seen, and not contained
        assert await said() == ("2024-03-14T01:00:00Z", False)
        await own_bed.emit("download", [], watermark=DAY + 6 * HOUR, closed=DAY + HOUR - WINDOW)
        assert await said() == ("2024-03-14T06:00:00Z", False)
        await own_bed.emit("download", [], watermark=DAY + 7 * HOUR, closed=DAY + HOUR)
        assert await said() == ("2024-03-14T07:00:00Z", True)
        assert (await said(USAGE.replace("bytes", "calls")))[0] is None  # of another event type
        status = (await api.get("/v1/status")).json()["rollups"]
        assert status["download"] == {"data_through": "2024-03-14T07:00:00Z", "closed_before": "2024-03-14T01:00:00Z"}
        assert status["api_call"]["data_through"] is None


async def test_an_answer_never_claims_more_than_it_holds(own_bed: Bed) -> None:
    """An emission between the look and the data makes the answer newer than it says; one that comes after the data
    is not claimed by the answer that is kept."""
    async with client(own_bed) as api:
        await own_bed.emit("download", [(0, "acme", ("eu", None), 1, "1")], watermark=DAY)
        await api.look()
        run = api.services.runner.run

        async def overtaken(*args: object, **named: object) -> object:
            found = await run(*args, **named)  # type: ignore[arg-type]
            await own_bed.emit("download", [(0, "acme", ("eu", None), 2, "2")], watermark=DAY + HOUR)
            await api.look()  # as it is done in the background
            return found

        api.services.runner.run = overtaken  # type: ignore[assignment, method-assign]
        held = (await api.get(USAGE)).json()
        assert (held["data"][0]["value"], held["data_through"]) == (1, "2024-03-14T00:00:00Z")
        api.services.runner.run = run  # type: ignore[method-assign]
        await api.look()
        held = (await api.get(USAGE)).json()
        assert (held["data"][0]["value"], held["data_through"]) == (2, "2024-03-14T01:00:00Z")


async def test_a_new_yaml_is_taken_up(own_bed: Bed) -> None:
    async with client(own_bed) as api:
        await own_bed.emit("download", ROWS, watermark=DAY)
        assert (await api.get(VOLUME)).status_code == 200
        add = "INSERT INTO rollup_engine.generations SELECT app_id, 2, 'new', replace(config, $1, $2)"
        await own_bed.pool.execute(f"{add} FROM rollup_engine.generations", '"event":"download"', '"event":"transfer"')
        assert (await api.get(VOLUME)).status_code == 422
        assert (await api.get(VOLUME.replace("=download", "=transfer"))).status_code == 200


async def test_a_new_yaml_holds_for_what_is_final(own_bed: Bed) -> None:
    """From the first answer on: what was closed under the old grace period may change under the new one."""
    async with client(own_bed) as api:
        await own_bed.emit("download", ROWS, watermark=DAY + 7 * HOUR, closed=DAY + HOUR)
        await api.look()
        assert (await api.get(USAGE)).json()["final"]
        add = "INSERT INTO rollup_engine.generations SELECT app_id, 2, 'new', replace(config, $1, $2)"
        longer = '"grace_ms":3600000', '"grace_ms":36000000'
        await own_bed.pool.execute(f"{add} FROM rollup_engine.generations", *longer)
        assert not (await api.get(USAGE)).json()["final"]
