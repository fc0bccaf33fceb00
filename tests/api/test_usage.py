"""Metrics and their usage: the right rows, in every form, page by page."""

import base64
import io
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from rollup_engine.api import cursors
from rollup_engine.api.cursors import Cursor
from tests.api.bed import DAY, WINDOW, Bed, Client, client
from tests.api.conftest import ROWS

PERIOD = "start=2024-03-14T00:00:00Z&end=2024-03-15T00:00:00Z"
BYTES = f"/v1/metrics/bytes/usage?{PERIOD}&external_customer_id=acme&external_customer_id=globex"
VOLUME = f"/v1/events/volume?{PERIOD}"
GROUPED = f"{BYTES}&granularity=hour&group_by=region&group_by=end"


async def test_the_list(api: Client) -> None:
    answer = (await api.get("/v1/metrics")).json()
    assert [one["name"] for one in answer["data"]] == ["bytes", "calls", "downloads", "recent", "split"]
    assert answer["next_cursor"] is None
    shown = (await api.get("/v1/metrics/downloads")).json()
    assert shown == answer["data"][2]
    assert shown["group_by"] == ["region", "end"]
    assert shown["parameters"] == [
        {"name": "least", "type": "number", "required": True, "default": None, "description": "The least count."}
    ]


async def test_the_list_in_pages(api: Client) -> None:
    names, cursor = [], ""
    for _ in range(3):
        page = (await api.get(f"/v1/metrics?limit=2{cursor}")).json()
        names.append([one["name"] for one in page["data"]])
        cursor = f"&cursor={page['next_cursor']}"
    assert names == [["bytes", "calls"], ["downloads", "recent"], ["split"]]
    assert page["next_cursor"] is None


async def test_one_number_per_customer(api: Client) -> None:
    answer = (await api.get(BYTES)).json()
    for row in answer["data"]:
        mine = [Decimal(total) for _, customer, _, _, total in ROWS if customer == row["external_customer_id"]]
        assert Decimal(row["value"]) == sum(mine)
    assert [row["external_customer_id"] for row in answer["data"]] == ["acme", "globex"]
    assert answer["unit"] == "events"
    assert answer["period"] == {"start": "2024-03-14T00:00:00Z", "end": "2024-03-15T00:00:00Z"}


async def test_parameters_of_the_metric(api: Client) -> None:
    path = f"/v1/metrics/downloads/usage?{PERIOD}&external_customer_id=acme"
    (row,) = (await api.get(f"{path}&least=8")).json()["data"]
    assert row["value"] == sum(count for _, customer, _, count, _ in ROWS if customer == "acme" and count >= 8)
    assert (await api.get(path)).status_code == 422
    assert "'least'" in (await api.get(f"{path}&leats=8")).json()["detail"]
    assert "twice" in (await api.get(f"{path}&least=8&least=9")).json()["detail"]


async def test_zeros_on_request(api: Client) -> None:
    path = f"/v1/metrics/calls/usage?{PERIOD}&external_customer_id=acme&granularity=hour"
    assert len((await api.get(path)).json()["data"]) == 2
    filled = (await api.get(f"{path}&fill=true")).json()["data"]
    assert [row["value"] for row in filled] == [21, 57] + [0] * 22


async def test_an_edge_that_cuts_a_window(api: Client) -> None:
    path = "/v1/metrics/calls/usage?start=2024-03-14T00:05:00Z&end=2024-03-14T01:00:00Z&external_customer_id=acme"
    detail = (await api.get(path)).json()["detail"]
    assert "2024-03-14T00:00:00Z" in detail
    assert "2024-03-14T00:10:00Z" in detail
    answer = (await api.get(f"{path}&snap=inward")).json()
    assert answer["period"]["start"] == "2024-03-14T00:10:00Z"
    assert answer["data"][0]["value"] == sum(range(2, 7))


@pytest.mark.parametrize(
    ("path", "limit"),
    [(GROUPED, 1), (GROUPED, 5), (f"{GROUPED}&fill=true", 24), (VOLUME, 1), (VOLUME, 2)],
)
async def test_pages_are_the_whole(api: Client, path: str, limit: int) -> None:
    whole = (await api.get(path)).json()
    pages: list[Any] = []
    answer = await api.get(f"{path}&limit={limit}")
    while True:
        assert len(answer.json()["data"]) <= limit
        pages += answer.json()["data"]
        assert len(pages) <= len(whole["data"]), "pages come again"
        if "next" not in answer.links:
            break
        assert answer.json()["next_cursor"]
        answer = await api.get(answer.links["next"]["url"])
    assert pages == whole["data"]
    assert len(pages) > limit
    assert whole["next_cursor"] is None


async def test_csv_and_parquet_are_the_json(api: Client) -> None:
    rows = (await api.get(GROUPED)).json()["data"]
    csv = await api.get(GROUPED, accept="text/csv")
    parquet = await api.get(GROUPED, accept="application/vnd.apache.parquet")
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.headers["rollup-data-through"] == (await api.get(GROUPED)).json()["data_through"]
    columns = ["external_customer_id", "start", "end", "region", "group_end", "value"]
    expected = [[*list(row.values())[:3], *row["group"].values(), row["value"]] for row in rows]
    lines = csv.text.split("\r\n")
    assert lines[0] == ",".join(columns)
    assert lines[1:-1] == [",".join(map(_csv, row)) for row in expected]
    frame = pl.read_parquet(io.BytesIO(parquet.content))
    assert frame.columns == columns
    assert frame["value"].dtype == pl.Decimal(38, 2)
    as_text = frame.with_columns(pl.col("start", "end").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert [[*row[:-1], Decimal(row[-1])] for row in as_text.iter_rows()] == [
        [*row[:-1], Decimal(row[-1])] for row in expected
    ]


def _csv(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if text == "" or "," in text else text


async def test_a_quotient_keeps_its_digits(api: Client) -> None:
    path = f"/v1/metrics/split/usage?{PERIOD}&external_customer_id=acme"
    json_value = (await api.get(path)).json()["data"][0]["value"]
    csv_value = (await api.get(path, accept="text/csv")).text.split("\r\n")[1].split(",")[-1]
    assert isinstance(json_value, str)
    assert csv_value == json_value
    assert len(json_value) > 17


async def test_volume_counts_what_there_is(api: Client) -> None:
    rows = (await api.get(VOLUME)).json()["data"]
    hours: dict[str, int] = {}
    for window, _, _, count, _ in ROWS:
        hours[f"2024-03-14T{window // 6:02}:00:00Z"] = hours.get(f"2024-03-14T{window // 6:02}:00:00Z", 0) + count
    assert {row["start"]: row["count"] for row in rows if row["event"] == "download"} == hours
    assert [row["count"] for row in rows if row["event"] == "API_CALL"] == [21, 57]
    mine = (await api.get(f"{VOLUME}&event=download&external_customer_id=acme")).json()["data"]
    assert [row["count"] * 2 for row in mine] == list(hours.values())
    assert (await api.get("/v1/events/volume")).json()["data"] == []  # the last day by the clock


async def test_positions_that_are_none(api: Client) -> None:
    """A cursor of this request with something else in it."""
    given = (await api.get(f"{GROUPED}&limit=1")).json()["next_cursor"]
    request = cursors.decode(given, _digest_in(given)).request
    for after in (["acme"], ["acme", None], [None, None], ["acme", "noon"], ["acme", "2024-03-14T00:00:00Z", "eu"]):
        answer = await api.get(f"{GROUPED}&limit=1&cursor={cursors.encode(Cursor(request, after=[*after]))}")
        assert answer.status_code == 422, after


def _digest_in(cursor: str) -> str:
    text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    return str(json.loads(text)[0])


async def test_values_too_long_for_a_cursor(own_bed: Bed) -> None:
    """They are refused where the cursor would be given out, not where it comes back."""
    await own_bed.emit("download", [(0, "acme", (letter * 20_000, None), 1, "1") for letter in "ab"], watermark=DAY)
    async with client(own_bed) as api:
        assert len((await api.get(f"{BYTES}&group_by=region")).json()["data"]) == 2
        answer = await api.get(f"{BYTES}&group_by=region&limit=1")
        assert (answer.status_code, "`limit`" in answer.json()["detail"]) == (422, True)


async def test_long_values_count_for_more_in_what_is_kept(own_bed: Bed) -> None:
    await own_bed.emit("download", [(0, "acme", (letter * 20_000, None), 1, "1") for letter in "ab"], watermark=DAY)
    async with client(own_bed) as api:
        await api.get(f"{BYTES}&group_by=region")
        assert api.services.cache.rows > 200


async def test_volume_leaves_out_hours_of_which_a_part_is_not_known(own_bed: Bed) -> None:
    rows = [(window, "acme", ("eu", None), 1, "1") for window in range(12)]
    await own_bed.emit("download", rows, watermark=DAY)
    async with client(own_bed) as api:
        path = f"{VOLUME}&event=download"
        assert [row["count"] for row in (await api.get(path)).json()["data"]] == [6, 6]
    await own_bed.pool.execute("UPDATE rollup_engine.rollups SET complete_from = $1", DAY + WINDOW)
    async with client(own_bed) as api:
        assert [row["start"] for row in (await api.get(path)).json()["data"]] == ["2024-03-14T01:00:00Z"]
