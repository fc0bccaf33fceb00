"""A letter of a bucket's row says in which object it is, and on which line; one of Kafka's says nothing of the kind."""

import asyncpg
import pytest

from rollup_engine.buckets.offsets import BUCKET_PARTITIONS, offset_of
from rollup_engine.config.model import Bucket
from rollup_engine.runtime import sql
from rollup_engine.runtime.letter_screens import letters_table
from rollup_engine.runtime.screens import console

APP_ID = "letters"
USAGE = Bucket(url="s3://usage/new/", format="csv", poll_ms=30_000)
OTHER = Bucket(url="file:///srv/usage/", format="ndjson", poll_ms=30_000)
LAST_LINE = 1 << 36


async def listed(pool: "asyncpg.Pool[asyncpg.Record]", bucket: Bucket, *names: str, app_id: str = APP_ID) -> None:
    number = await pool.fetchval(
        "INSERT INTO rollup_engine.buckets (app_id, topic, url, format) VALUES ($1, $2, $3, $4) RETURNING id",
        app_id,
        bucket.topic,
        bucket.url,
        bucket.format,
    )
    await pool.executemany(
        "INSERT INTO rollup_engine.objects (bucket, number, name, etag, size, seen_ms) VALUES ($1, $2, $3, 'e', 1, 1)",
        [(number, place, name) for place, name in enumerate(names)],
    )


async def letter(pool: "asyncpg.Pool[asyncpg.Record]", topic: str, number: int, line: int) -> int:
    written: int = await pool.fetchval(
        "INSERT INTO rollup_engine.dead_letters (app_id, event, source, source_offset, recorded_at, outcome, reason,"
        " detail) VALUES ($1, 'api', $2, $3, now(), 'invalid', 'malformed_csv', 'no cell') RETURNING id",
        APP_ID,
        f"{topic}/{number % BUCKET_PARTITIONS}",
        offset_of(number, line),
    )
    return written


@pytest.mark.parametrize("query", ["letters", "letter"])
async def test_object_and_line(pool: "asyncpg.Pool[asyncpg.Record]", query: str) -> None:
    await listed(pool, USAGE, *(f"{n}.csv" for n in range(6)))
    await listed(pool, OTHER, "a/b [c].ndjson")
    await listed(pool, USAGE, *(f"of another app {n}" for n in range(6)), app_id="another")
    expected = {
        await letter(pool, USAGE.topic, 5, 3): ("s3://usage/new/5.csv", 3),
        await letter(pool, USAGE.topic, 0, LAST_LINE): ("s3://usage/new/0.csv", LAST_LINE),
        await letter(pool, OTHER.topic, 0, 1): ("file:///srv/usage/a/b [c].ndjson", 1),
        await letter(pool, OTHER.topic, 1, 1): (None, None),  # there is no such object
        await letter(pool, "raw", 1, 1): (None, None),
    }
    text = sql.queries("status")[query]
    if query == "letters":
        rows = await pool.fetch(text, APP_ID, None, None, 10)
    else:
        rows = [await pool.fetchrow(text, APP_ID, number) for number in expected]
    assert {row["id"]: (row["object"], row["line"]) for row in rows} == expected
    assert {row["detail"] for row in rows} == {"no cell"}


async def test_people_see_the_object_in_place_of_the_offset(
    pool: "asyncpg.Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 200)
    await listed(pool, USAGE, "[b]0:a:.csv")
    await letter(pool, USAGE.topic, 0, 1_234_567)
    await letter(pool, "raw", 0, 8)
    rows = await pool.fetch(sql.queries("status")["letters"], APP_ID, None, None, 10)
    for width in (80, 200):
        with console.capture() as captured:
            console.print(letters_table([dict(row) for row in rows], width))
        text = captured.get()
        assert "s3://usage/new/[b]0:a:.csv line 1234567" in text
        assert "raw/0 @7" in text
