"""Migrations and the tables of rollups: made once, from wherever, and only ever extended."""

import asyncio
import re
from uuid import UUID

import asyncpg
import pytest

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import Aggregate, GroupColumn
from rollup_engine.errors import ConfigError
from rollup_engine.ports import Span
from rollup_engine.progress import NOTHING, ROUTE
from rollup_engine.route.state import NO_WATERMARK_MS
from rollup_engine.runtime import schema, sql
from rollup_engine.runtime.database import at_time
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.tables import Column, Schema
from tests.contract.specs import APP_ID, config, declared, event_type, rollup


async def columns(pool: "asyncpg.Pool[asyncpg.Record]", relation: str) -> list[str]:
    rows = await pool.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'rollups' AND table_name = $1"
        " ORDER BY ordinal_position",
        relation,
    )
    return [row[0] for row in rows]


class TestMigrate:
    async def test_twice_is_once(self, database_url: str) -> None:
        pool = await schema.connect(database_url)
        try:
            names = [name for name, _ in sql.migrations()]
            assert await schema.migrate(pool) == names
            assert await schema.migrate(pool) == []
        finally:
            await pool.close()

    async def test_from_many_places_at_once(self, database_url: str) -> None:
        pools = await asyncio.gather(*(schema.connect(database_url) for _ in range(6)))
        try:
            applied = await asyncio.gather(*map(schema.migrate, pools))
            assert sorted(map(len, applied)) == [0] * 5 + [len(sql.migrations())]
            await asyncio.gather(*(declared(pool, config()) for pool in pools))
            assert await columns(pools[0], "downloads") != []
        finally:
            for pool in pools:
                await pool.close()


class TestDeclare:
    async def test_the_table_is_the_documented_one(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        assert await columns(pool, "downloads_aggregated") == [
            *("idempotency_key", "timestamp", "timestamp_millis", "external_customer_id", "count"),
            *("revision", "final", "emitted_at", "tuple_key", "region", "speed", "sum_bytes", "max_bytes"),
        ]

    async def test_the_view_shows_the_latest_revision(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        insert = (
            'INSERT INTO rollups."downloads_aggregated" (idempotency_key, "timestamp", external_customer_id, count,'
            " revision, tuple_key, region, sum_bytes) VALUES"
            " (gen_random_uuid(), $1::text::timestamptz, 'c', $2::bigint, $3, md5($4)::uuid, $4, $2::bigint)"
        )
        for count, revision, region in ((5, 2, "eu"), (9, 10, "eu"), (7, 3, "eu"), (1, 1, "us")):
            await pool.execute(insert, "1999-08-14T15:10Z", count, revision, region)
        rows = await pool.fetch("SELECT region, count, sum_bytes, timestamp_millis FROM rollups.downloads ORDER BY 1")
        assert [tuple(row) for row in rows] == [("eu", 9, 9, 934_643_400_000), ("us", 1, 1, 934_643_400_000)]

    @pytest.mark.parametrize(
        ("watermarks", "complete"),
        [
            ({}, None),
            ({"call": 1_000_000}, 1_200_000),  # of another event type: what of this one came by then was passed over
            ({"download": NO_WATERMARK_MS}, None),  # nothing but refused ones so far
            ({"download": 599_999}, 600_000),
            ({"download": 600_000}, 1_200_000),
        ],
    )
    async def test_a_rollup_added_later_is_complete_after_all_that_was_seen(
        self, pool: "asyncpg.Pool[asyncpg.Record]", watermarks: dict[str, int], complete: int | None
    ) -> None:
        await declared(pool, config())
        sink = PostgresSink(pool, APP_ID)
        for source, seen in (("raw/0", watermarks), ("raw/1", {"download": 5} if watermarks else {})):
            claim = await sink.claim(ROUTE, source, 0)
            await sink.advance(claim, 1, {"watermarks": seen} if source == "raw/0" or complete else {}, NOTHING)
        await declared(pool, config(event_type("download", rollup(), rollup("more"))))
        found = dict(await pool.fetch("SELECT table_name, complete_from FROM rollup_engine.rollups"))
        assert found == {"downloads": None, "more": None if complete is None else at_time(complete)}

    async def test_a_rollup_left_out_for_a_while_is_complete_after_all_that_was_seen_meanwhile(
        self, pool: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        both, one = config(event_type("download", rollup(), rollup("more"))), config()
        await declared(pool, both)
        claim = await PostgresSink(pool, APP_ID).claim(ROUTE, "raw/0", 0)
        await PostgresSink(pool, APP_ID).advance(claim, 1, {"watermarks": {"download": 700_000}}, NOTHING)
        for before, content in ((both, both), (both, one), (one, both)):
            async with pool.acquire() as connection:
                await schema.declare(connection, APP_ID, content, before)
            found = dict(await pool.fetch("SELECT table_name, complete_from FROM rollup_engine.rollups"))
            assert found == {"downloads": None, "more": at_time(1_200_000) if before is one else None}

    async def test_columns_are_added_and_none_is_lost(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        before = await columns(pool, "downloads")
        later = rollup(
            group_by=(GroupColumn(path="zone", column="zone"), GroupColumn(path="region", column="region")),
            aggregates=(Aggregate(kind="min", path="bytes", column="min_bytes"),),
        )
        await declared(pool, config(event_type("download", later)))
        assert await columns(pool, "downloads") == [*before, "zone", "min_bytes"]
        async with pool.acquire() as connection:
            known = (await schema.schemas(connection, ["downloads"]))["downloads"]
        assert known.groups == ("region", "speed", "zone")
        assert known.aggregates == (Column("sum", "sum_bytes"), Column("max", "max_bytes"), Column("min", "min_bytes"))

    async def test_a_view_of_others_goes_on_working(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """BI tools build on the view: extending it must not need it dropped."""
        await declared(pool, config())
        await pool.execute("CREATE VIEW theirs AS SELECT region, sum(count) FROM rollups.downloads GROUP BY 1")
        later = rollup(aggregates=(Aggregate(kind="sum", path="parts", column="sum_parts"),))
        await declared(pool, config(event_type("download", later)))
        assert await pool.fetch("SELECT * FROM theirs") == []
        assert "sum_parts" in await columns(pool, "downloads")

    async def test_twice_changes_nothing(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        before = await columns(pool, "downloads"), await columns(pool, "downloads_aggregated")
        await declared(pool, config())
        assert (await columns(pool, "downloads"), await columns(pool, "downloads_aggregated")) == before

    async def test_a_table_belongs_to_one_app_id(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config(), app_id="first")
        with pytest.raises(ConfigError, match=r"rollups\.downloads_aggregated belongs to app id 'first'.*another name"):
            await declared(pool, config(), app_id="second")

    async def test_a_window_stays_as_it_is(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        changed = config(event_type("download", rollup(window_ms=3_600_000)))
        with pytest.raises(ConfigError, match=r"windows of 600 s in the database, and 3600 s in the YAML.*new name"):
            await declared(pool, changed)

    async def test_a_column_keeps_its_kind(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        changed = rollup(aggregates=(Aggregate(kind="max", path="bytes", column="sum_bytes"),))
        with pytest.raises(ConfigError, match=r"'sum_bytes'.* is a sum column in the database, and a max.*`as:`"):
            await declared(pool, config(event_type("download", changed)))

    async def test_what_is_refused_changes_nothing(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        await declared(pool, config())
        added = rollup("fresh")
        refused = rollup(window_ms=3_600_000)
        with pytest.raises(ConfigError):
            await declared(pool, config(event_type("download", added, refused)))
        assert await columns(pool, "fresh") == []

    async def test_columns_of_any_name_are_read_back_and_finished(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """The queries' own names are none of theirs."""
        names = ["wanted", "last", "hex", "word", "latest", "partial", "scanned", "window_start", "digits", "words"]
        spec = rollup(group_by=tuple(GroupColumn(path=name, column=name) for name in names))
        await declared(pool, config(event_type("download", spec)))
        columns = ", ".join(names)
        values = ", ".join(f"'{name}'" for name in names)
        await pool.execute(
            'INSERT INTO rollups."downloads_aggregated" (idempotency_key, "timestamp", external_customer_id, count,'
            f" revision, tuple_key, {columns}) VALUES"
            f" (gen_random_uuid(), '1999-01-01Z', 'c', 1, 1, '{UUID(int=7)}', {values})"
        )
        sink, shape = PostgresSink(pool, APP_ID), Schema.of(spec)
        found, _ = await sink.not_final(shape, Span(FIRST_MS, LAST_MS, 0), 7, 10, 100)
        back = await sink.read_back(shape, found.select("window_ms", "tuple_key"))
        assert found.equals(back)
        assert found.select(names).row(0) == tuple(names)

    @pytest.mark.parametrize("planned", ["force_custom_plan", "force_generic_plan"])
    @pytest.mark.parametrize("analyzed", [True, False])
    async def test_and_the_finishing_of_closed_windows(
        self, pool: "asyncpg.Pool[asyncpg.Record]", analyzed: bool, planned: str
    ) -> None:
        """Read backwards and stopped at its limit, without a sort: a part costs the same in a table of any size."""
        await declared(pool, config())
        for month, end in (("2022-07", "2022-08"), ("2022-08", "2022-09")):
            bounds = {"month": month.replace("-", ""), "start": f"{month}-01Z", "end": f"{end}-01Z"}
            await pool.execute(sql.template("month", table="downloads", **bounds))
            await pool.execute(
                'INSERT INTO rollups."downloads_aggregated" (idempotency_key, "timestamp", external_customer_id, count,'
                " revision, tuple_key)"
                f" SELECT gen_random_uuid(), '{month}-03Z'::timestamptz + n % 50 * interval '10 min', 'c', 1, n,"
                " md5((n % 2000)::text)::uuid FROM generate_series(1, 20000) AS n"
            )
        if analyzed:
            await pool.execute("ANALYZE")
        query = sql.fill(sql.queries("progress")["not_final"], table="downloads", columns='"count"', rows="500")
        arguments = "'2022-07-03Z', '2022-08-03T03:00Z', '00000000-0000-0000-0000-000000000000', 8, 3"
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL plan_cache_mode = {planned}")
            await connection.execute(f"PREPARE finish (timestamptz, timestamptz, uuid, bigint, bigint) AS {query}")
            rows = await connection.fetch(f"EXPLAIN (ANALYZE) EXECUTE finish ({arguments})")
            await connection.execute("DEALLOCATE finish")
        plan = "\n".join(row[0] for row in rows)
        assert "Index Scan Backward" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "Sort Method" not in plan, plan
        read = [int(found) for found in re.findall(r"Index Scan.*actual .*rows=(\d+)", plan)]
        assert 500 <= sum(read) <= 510, plan

    async def test_one_index_serves_the_reading_back(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """The plans of `read_back` and `last_window` must not scan the table, whatever it holds."""
        await declared(pool, config())
        await pool.execute(
            'INSERT INTO rollups."downloads_aggregated" (idempotency_key, "timestamp", external_customer_id, count,'
            " revision, tuple_key) SELECT gen_random_uuid(), '1999-01-01Z'::timestamptz + n % 50 * interval '10 min',"
            " 'c', 1, n, md5((n % 2000)::text)::uuid FROM generate_series(1, 20000) AS n"
        )
        await pool.execute("ANALYZE")
        query = sql.fill(sql.queries("progress")["read_back"], table="downloads", columns='"count"')
        literal = query.replace("$1", "ARRAY['1999-01-01T00:10Z']").replace("$2", "ARRAY[md5('1')]")
        last = sql.fill(sql.queries("progress")["last_window"], table="downloads")
        for query in (literal, last):
            plan = "\n".join(row[0] for row in await pool.fetch(f"EXPLAIN {query}"))
            assert re.search(r"Index (Only )?Scan", plan), plan
            assert "Seq Scan" not in plan, plan
