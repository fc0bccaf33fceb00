"""Tiers and compaction: what is noted, what a pass makes of it, and what readers find afterwards."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from billable_metrics.catalog import catalog_from_config
from billable_metrics.coverage import with_coverage
from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import Aggregate, Config, GroupColumn
from rollup_engine.config.settings import Settings
from rollup_engine.errors import ClaimLost, ConfigError, RollupError
from rollup_engine.ports import Span
from rollup_engine.progress import NOTHING, ROLLUP
from rollup_engine.runtime import compact, refresh, upkeep
from rollup_engine.runtime.database import at_ms, at_time
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.runtime.tiers import HOUR
from rollup_engine.runtime.upkeep import Report, upkeep_once
from rollup_engine.tables import Schema
from rollup_engine.telemetry import UPKEEP_FAULTS
from tests.contract.emissions import DAY_MS, HOUR_MS, WINDOW_MS, Emitter, window, wrong_steps
from tests.contract.specs import APP_ID, config, declared, event_type, rollup

EVERYTHING = {"quiet_s": 0.0, "overdue_s": 0.0, "keep_s": 0.0}
YEARS_S = 1e9


@pytest.fixture
async def tables(pool: Any) -> Any:
    await declared(pool, config())
    return pool


@pytest.fixture
def emitter(tables: Any) -> Emitter:
    return Emitter(PostgresSink(tables, APP_ID), "deltas/0")


async def upkept(pool: Any, **changes: Any) -> Report:
    return await upkeep_once(pool, APP_ID, **(EVERYTHING | changes))


async def noted(pool: Any) -> dict[str, int]:
    return dict(await pool.fetch("SELECT tier, count(*) FROM rollup_engine.changes GROUP BY tier"))


async def compared(pool: Any, content: Config | None = None) -> int:
    """How many rows of the tiers readers may use: all of them right."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        wrong, rows = await wrong_steps(connection, content)
    assert not wrong
    return rows


async def held(pool: Any, tier: str) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(f'SELECT * FROM rollups."downloads_{tier}" ORDER BY "timestamp", tuple_key')
    return [(at_ms(row["timestamp"]), row["region"], row["count"], row["sum_bytes"], row["max_bytes"]) for row in rows]


def of(window_ms: int, count: int, total: str, most: str | None = None, region: str | None = "eu") -> Any:
    return {(window_ms, "c", region): (count, Decimal(total), None if most is None else Decimal(most))}


class TestNotes:
    async def test_an_emission_notes_each_hour_it_touches_once(self, tables: Any, emitter: Emitter) -> None:
        starts = (window(0, 1), window(0, 1, 5), window(0, 2), -WINDOW_MS)
        await emitter.emit({key: value for start in starts for key, value in of(start, 1, "1").items()})
        rows = await tables.fetch("SELECT table_name, tier, start FROM rollup_engine.changes ORDER BY start")
        assert [(row[0], row[1], at_ms(row[2])) for row in rows] == [
            ("downloads", "hour", start) for start in (-HOUR_MS, window(0, 1), window(0, 2))
        ]

    async def test_without_partials_there_is_none(self, tables: Any) -> None:
        sink = PostgresSink(tables, APP_ID)
        await sink.advance(await sink.claim(ROLLUP, "deltas/0", 0), 1, {}, NOTHING)
        assert await noted(tables) == {}

    async def test_what_is_rolled_back_is_not_noted(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await PostgresSink(tables, APP_ID).claim(ROLLUP, "deltas/0", 0)
        with pytest.raises(ClaimLost):
            await emitter.emit(of(window(0, 2), 1, "1"))
        assert await noted(tables) == {"hour": 1}

    async def test_a_session_that_leaves_no_notes_makes_the_tiers_unknown(
        self, database_url: str, tables: Any, emitter: Emitter
    ) -> None:
        await emitter.emit({k: v for hour in (1, 2) for k, v in of(window(0, hour), 1, "1").items()})
        await emitter.emit(of(window(3, 1), 1, "1"))
        await upkept(tables)
        assert await compared(tables) == 5
        somebody = await asyncpg.connect(database_url)
        try:
            for change in (
                "UPDATE rollups.downloads_aggregated SET count = 7 WHERE \"timestamp\" < '2022-08-14T02:00Z'",
                "DELETE FROM rollups.downloads_aggregated WHERE \"timestamp\" > '2022-08-15'",
                "TRUNCATE rollups.downloads_aggregated",
            ):
                await somebody.execute(change)
                assert await noted(tables) == {"all": 1}
                assert await compared(tables) == 0
                await upkept(tables)
                rows = await compared(tables)
                assert rows == len(await held(tables, "hourly")) + len(await held(tables, "daily"))
        finally:
            await somebody.close()
        assert rows == 0

    async def test_who_changes_partials_time_and_again_does_not_have_every_hour_noted_each_time(
        self, database_url: str, tables: Any, emitter: Emitter
    ) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await upkept(tables)
        somebody = await asyncpg.connect(database_url)
        try:
            for passes in ({"all": 1}, {"all": 2}):
                await somebody.execute("UPDATE rollups.downloads_aggregated SET count = count + 1")
                await upkept(tables, quiet_s=60.0, overdue_s=600.0)
                assert await noted(tables) == passes
        finally:
            await somebody.close()
        first = "id = (SELECT min(id) FROM rollup_engine.changes)"
        await tables.execute(f"UPDATE rollup_engine.changes SET created_at = now() - interval '11 min' WHERE {first}")
        await upkept(tables, quiet_s=60.0, overdue_s=600.0)
        assert set(await noted(tables)) == {"hour"}
        await upkept(tables)
        assert await compared(tables) == 2


class TestRefresh:
    async def test_hours_and_days_hold_the_latest_of_each_window(self, tables: Any, emitter: Emitter) -> None:
        first, second, later = window(0, 1), window(0, 1, 3), window(0, 7)
        more = of(later, 2, "1", "9") | of(later, 1, "1", region=None)
        await emitter.emit(of(first, 3, "7", "4") | of(second, 1, "-0.5") | more)
        await emitter.emit(of(first, 5, "2.5", "4"))  # the sum fell
        report = await upkept(tables)
        assert (report.hours, report.days, report.partials_deleted) == (2, 1, 1)
        hours = [(window(0, 1), "eu", 6, Decimal("2.0"), 4), (later, None, 1, 1, None), (later, "eu", 2, 1, 9)]
        assert sorted(await held(tables, "hourly"), key=repr) == sorted(hours, key=repr)
        days = [(window(0, 0), "eu", 8, Decimal("3.0"), 9), (window(0, 0), None, 1, 1, None)]
        assert sorted(await held(tables, "daily"), key=repr) == sorted(days, key=repr)
        assert await noted(tables) == {}
        assert await compared(tables) == 5

    async def test_a_late_change_flows_into_both(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1") | of(window(0, 2), 1, "1") | of(window(1, 1), 1, "1"))
        await upkept(tables)
        assert await compared(tables) == 5
        await emitter.emit(of(window(0, 1), 2, "-8"))
        assert await compared(tables) == 3  # all but the hour, and its day
        assert (await upkept(tables)).rows_written == 2  # and only what changed is written
        assert await compared(tables) == 5
        assert [row[3] for row in await held(tables, "daily")] == [Decimal(-7), Decimal(1)]

    async def test_an_emission_in_the_middle_of_a_refresh_keeps_its_note(
        self, tables: Any, emitter: Emitter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        total, more = refresh._total, iter([of(window(0, 1), 2, "2"), of(window(0, 1, 4), 1, "1", region="us")])

        async def with_an_emission(*args: Any) -> int:
            written = await total(*args)
            if (changes := next(more, None)) is not None:
                await emitter.emit(changes)
            return written

        monkeypatch.setattr(refresh, "_total", with_an_emission)
        for expected in (1, 1, 0):
            await upkept(tables, keep_s=YEARS_S)
            assert (await noted(tables)).get("hour", 0) == expected
            await compared(tables)
        assert await compared(tables) == 4

    async def test_a_large_hour_is_totalled_in_parts(
        self, tables: Any, emitter: Emitter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many: dict[Any, Any] = {(window(0, 1, n % 2), f"c{n}", "eu"): (n, Decimal(n), None) for n in range(3_000)}
        await emitter.emit(many)
        total, parts = refresh._total, []

        async def watched(*args: Any) -> int:
            """Cut off in the second part; and in the third of the next time, all change again, those done as well."""
            parts.append(args)
            assert await compared(tables) == 0  # as long as it is not done
            if len(parts) == 2:
                raise ConnectionResetError("cut off")
            if len(parts) == 5:
                await emitter.emit({key: (9, Decimal(9), None) for key in many})
            return await total(*args)

        monkeypatch.setattr(refresh, "_total", watched)
        one = refresh.Rollup("downloads", upkeep.tiers_of(WINDOW_MS))

        async def refreshed() -> None:
            async with tables.acquire() as connection:
                await refresh.refresh(connection, one, HOUR, at_time(window(0, 1)), range_rows=500)

        with pytest.raises(ConnectionResetError):
            await refreshed()
        await refreshed()
        assert len(parts) > 5
        assert (await noted(tables))["hour"] == 1
        assert await compared(tables) == 0
        await refreshed()
        assert await compared(tables) == 3_000

    async def test_what_is_gone_from_the_partials_goes_from_the_totals(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1") | of(window(0, 1), 1, "1", region="us"))
        await upkept(tables)
        await tables.execute("DELETE FROM rollups.downloads_aggregated WHERE region = 'us'")
        await tables.execute("SELECT rollup_engine.note_all('downloads')")
        await upkept(tables)
        assert await compared(tables) == 2

    async def test_only_quiet_hours_are_refreshed_unless_overdue(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await emitter.emit(of(window(0, 2), 1, "1"))
        await tables.execute(
            "UPDATE rollup_engine.changes SET created_at = created_at - interval '90 s' WHERE start = $1",
            at_time(window(0, 1)),
        )
        assert (await upkept(tables, quiet_s=60, overdue_s=600)).hours == 1
        await emitter.emit(of(window(0, 2), 1, "1"))
        assert (await upkept(tables, quiet_s=60, overdue_s=600)).hours == 0
        await tables.execute(
            "UPDATE rollup_engine.changes SET created_at = created_at - interval '700 s'"
            " WHERE id = (SELECT min(id) FROM rollup_engine.changes WHERE tier = 'hour')"
        )
        assert (await upkept(tables, quiet_s=60, overdue_s=600)).hours == 1

    async def test_an_hour_that_still_goes_on_is_never_overdue(self, tables: Any, emitter: Emitter) -> None:
        start = at_ms(await tables.fetchval("SELECT date_bin('10 minutes', now() + interval '1 hour', 'epoch')"))
        await emitter.emit(of(start, 1, "1"))
        await tables.execute("UPDATE rollup_engine.changes SET created_at = created_at - interval '30 s'")
        assert (await upkept(tables, quiet_s=60, overdue_s=20)).hours == 0
        assert (await upkept(tables, quiet_s=20, overdue_s=60)).hours == 1

    async def test_a_day_waits_for_all_its_hours(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1") | of(window(0, 2), 1, "1"))
        assert (await upkept(tables, steps_max=1)).days == 0
        assert (await upkept(tables, steps_max=1)).days == 1

    @pytest.mark.parametrize(
        ("window_ms", "made", "rows"),
        [
            (1_000, 2, 2),
            (600_000, 2, 2),
            (2_700_000, 1, 1),
            (HOUR_MS, 1, 1),
            (6 * HOUR_MS, 1, 2),
            (DAY_MS, 0, 0),
        ],
    )
    async def test_tiers_are_of_whole_windows(self, pool: Any, window_ms: int, made: int, rows: int) -> None:
        content = config(event_type("download", rollup(window_ms=window_ms)))
        await declared(pool, content)
        emitter = Emitter(PostgresSink(pool, APP_ID), "deltas/0")
        for count in (1, 2):
            starts = (window(0, 0) + number * window_ms for number in (0, 1, 5))
            await emitter.emit({key: v for start in starts for key, v in of(start, count, "1.5").items()})
        report = await upkept(pool)
        assert await compared(pool, content) == rows
        assert await pool.fetchval("SELECT count(*) FROM rollup_engine.tiers") == made
        assert report.partials_deleted == 3

    @pytest.mark.parametrize("start", [FIRST_MS, LAST_MS // DAY_MS * DAY_MS + 23 * HOUR_MS])
    async def test_the_calendars_ends(self, tables: Any, emitter: Emitter, start: int) -> None:
        await emitter.emit(of(start, 1, "1"))
        assert await compared(tables) == 0
        await upkept(tables)
        assert await compared(tables) == 2


class TestDeclared:
    async def test_columns_that_come_later_leave_tuples_as_they_were(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await upkept(tables)
        later = config(
            event_type(
                "download",
                rollup(
                    group_by=(*rollup().group_by, GroupColumn(path="zone", column="zone")),
                    aggregates=(*rollup().aggregates, Aggregate(kind="min", path="bytes", column="min_bytes")),
                ),
            )
        )
        await declared(tables, later)
        assert await compared(tables, later) == 2
        wider = Schema.of(later.rollups[0])
        again = Emitter(PostgresSink(tables, APP_ID), "deltas/0", schema=wider)
        again._revision = 1
        await again.emit(of(window(0, 1), 2, "1"))
        await upkept(tables)
        assert await compared(tables, later) == 2

    async def test_a_table_from_before_is_noted_whole(self, tables: Any, emitter: Emitter) -> None:
        starts = (FIRST_MS, -1 * HOUR_MS, window(0, 1), window(0, 1, 2), window(40, 5), LAST_MS // HOUR_MS * HOUR_MS)
        for start in starts:
            await emitter.emit(of(start, 1, "1"))
        await tables.execute("DROP TABLE rollups.downloads_hourly, rollups.downloads_daily")
        await tables.execute("TRUNCATE rollup_engine.changes, rollup_engine.tiers")
        await declared(tables, config())
        hours = await tables.fetch("SELECT DISTINCT start FROM rollup_engine.changes")
        assert {at_ms(row[0]) for row in hours} == {start // HOUR_MS * HOUR_MS for start in starts}
        assert await compared(tables) == 0
        await upkept(tables)
        assert await compared(tables) == 10

    async def test_notes_wait_for_tiers_that_are_still_to_be_made(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await tables.execute("DELETE FROM rollup_engine.tiers WHERE tier = 'hour'")
        assert await upkept(tables) == Report()
        assert await noted(tables) == {"hour": 1}

    async def test_a_name_that_is_taken_is_refused(self, pool: Any) -> None:
        await declared(pool, config(event_type("other", rollup("downloads_hourly"))), app_id="other")
        with pytest.raises(ConfigError, match=r'rollups\."downloads_hourly" is there already.*another name'):
            await declared(pool, config())


class TestCoverage:
    async def test_a_database_without_tiers_gives_none(self, database_url: str) -> None:
        connection = await asyncpg.connect(database_url)
        try:
            found = await with_coverage(connection, catalog_from_config(config()))
        finally:
            await connection.close()
        assert [table.tiers for table in found.tables] == [()]

    async def test_neighbouring_steps_are_one_range_and_days_of_noted_hours_are_stale(
        self, tables: Any, emitter: Emitter
    ) -> None:
        await emitter.emit({key: v for hour in (3, 4, 7) for key, v in of(window(0, hour), 1, "1").items()})
        async with tables.acquire() as connection:
            day, hour = (await with_coverage(connection, catalog_from_config(config()))).tables[0].tiers
        assert (day.name, day.step_ms, day.base_table) == ("day", DAY_MS, 'rollups."downloads_daily"')
        assert day.stale == ((at_time(window(0, 0)), at_time(window(1, 0))),)
        assert (hour.name, hour.step_ms, hour.base_table) == ("hour", HOUR_MS, 'rollups."downloads_hourly"')
        ranges = ((3, 5), (7, 8))
        assert hour.stale == tuple((at_time(window(0, a)), at_time(window(0, b))) for a, b in ranges)


class TestCompaction:
    async def test_of_each_series_the_latest_stays(self, tables: Any, emitter: Emitter) -> None:
        for count in (1, 2, 3):
            await emitter.emit(of(window(0, 1), count, str(9 - count)) | of(window(0, 2), count, "1"), final=count == 3)
        before = await tables.fetch("SELECT * FROM rollups.downloads ORDER BY 1")
        report = await upkept(tables)
        assert (report.partials_deleted, report.touched) == (4, {"rollups.downloads_aggregated_202208"})
        assert await tables.fetch("SELECT * FROM rollups.downloads ORDER BY 1") == before
        rows = await tables.fetch("SELECT count, revision, final FROM rollups.downloads_aggregated")
        assert [tuple(row) for row in rows] == [(3, 3, True)] * 2

    async def test_what_was_superseded_lately_stays_and_is_not_forgotten(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        await emitter.emit(of(window(0, 1), 2, "1"))
        assert (await upkept(tables, keep_s=3_600)).partials_deleted == 0
        assert await noted(tables) == {"compact": 1}
        await emitter.emit(of(window(0, 1), 3, "1"))
        aged = "UPDATE {} SET {column} = {column} - interval '2 h' WHERE {}"
        await tables.execute(aged.format("rollup_engine.changes", "tier = 'compact'", column="created_at"))
        await tables.execute(aged.format("rollups.downloads_aggregated", "count < 3", column="emitted_at"))
        assert (await upkept(tables, keep_s=3_600)).partials_deleted == 2
        assert await noted(tables) == {"compact": 1}  # of the refresh just now
        assert (await upkept(tables)).partials_deleted == 0

    async def test_reading_back_and_finishing_are_as_before(self, tables: Any, emitter: Emitter) -> None:
        spec, sink = Schema.of(rollup()), PostgresSink(tables, APP_ID)
        for count in (1, 2):
            for region in ("eu", "us", None):
                await emitter.emit(of(window(0, 1), count, "2.5", region=region) | of(window(0, 3), count, "1"))
        await emitter.emit(of(window(0, 3), 3, "1"), final=True)
        wanted = emitter.partials(emitter.latest).frame.select("window_ms", "tuple_key")
        span = Span(window(0, 0), window(1, 0), 0)

        async def read() -> Any:
            back = (await sink.read_back(spec, wanted)).sort("window_ms", "tuple_key")
            frame, _ = await sink.not_final(spec, span, 0, 1, 100)
            return back.rows(), frame.sort("window_ms", "tuple_key").rows()

        before = await read()
        assert (await upkept(tables)).partials_deleted > 0
        assert await read() == before
        assert (len(before[0]), len(before[1])) == (4, 3)


class TestPasses:
    async def test_one_process_at_a_time(self, tables: Any, emitter: Emitter) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))
        async with tables.acquire() as connection:
            assert await connection.fetchval("SELECT pg_try_advisory_lock(1919249009, hashtext($1))", APP_ID)
            assert await upkept(tables) == Report(elsewhere=True)
            assert (await upkeep_once(tables, "another")).elsewhere is False
            await connection.execute("SELECT pg_advisory_unlock_all()")
        assert (await upkept(tables)).hours == 1

    @pytest.mark.parametrize("fault", [None, RuntimeError, asyncio.CancelledError])
    async def test_whoever_has_a_pass_in_hand_lets_go_of_it(
        self, tables: Any, emitter: Emitter, fault: type[BaseException] | None
    ) -> None:
        await emitter.emit(of(window(0, 1), 1, "1"))

        def look(report: Report) -> None:
            if fault is not None:
                raise fault

        with suppress(*[fault] if fault else []):
            await upkept(tables, on_step=look)
        assert await tables.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0

    async def test_what_cannot_be_done_keeps_nothing_else_waiting(self, pool: Any) -> None:
        content = config(event_type("download", rollup("broken"), rollup("downloads")))
        await declared(pool, content)
        sink = PostgresSink(pool, APP_ID)
        for table in ("broken", "downloads"):
            emitter = Emitter(sink, f"deltas.{table}/0", table)
            for count in (1, 2):
                await emitter.emit(of(window(0, 1), count, "1"))
        await pool.execute("DROP TABLE rollups.broken_hourly")
        with pytest.raises(asyncpg.UndefinedTableError):
            await upkept(pool)
        assert [row[2] for row in await held(pool, "daily")] == [2]
        assert await pool.fetchval("SELECT count(*) FROM rollups.downloads_aggregated") == 1
        assert await noted(pool) == {"hour": 2}  # of the broken one

    async def test_a_fault_is_counted_and_tried_again(self, tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        found: list[object] = [OSError("gone"), ValueError("a bug"), Report(hours=1, more=True), Report()]
        done, before = asyncio.Event(), UPKEEP_FAULTS._value.get()

        async def once(*args: object, **options: object) -> Report:
            assert options == {"quiet_s": 240.0, "overdue_s": 600.0, "keep_s": 7.0}
            answer = found.pop(0)
            if not found:
                done.set()
                return Report()
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Report)
            return answer

        monkeypatch.setattr(upkeep, "upkeep_once", once)
        monkeypatch.setattr(upkeep, "FAULT_PAUSE_SECONDS", 0.0)
        going = asyncio.ensure_future(upkeep.upkeep_forever(tables, APP_ID, emit_every_s=120.0, keep_s=7.0))
        await asyncio.wait_for(done.wait(), 5)
        going.cancel()
        with suppress(asyncio.CancelledError):
            await going
        assert UPKEEP_FAULTS._value.get() == before + 2

    async def test_it_ends_although_the_database_goes_as_it_is_asked_to(
        self, tables: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, passes = asyncio.Event(), []

        async def once(*args: object, **options: object) -> Report:
            passes.append(args)
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(passes) == 1:
                    raise OSError("gone") from None  # as a ROLLBACK says it
                raise
            return Report()

        monkeypatch.setattr(upkeep, "upkeep_once", once)
        monkeypatch.setattr(upkeep, "FAULT_PAUSE_SECONDS", 0.0)
        going = asyncio.ensure_future(upkeep.upkeep_forever(tables, APP_ID, emit_every_s=1.0))
        await begun.wait()
        going.cancel()
        done, _ = await asyncio.wait((going,), timeout=0.5)
        going.cancel()
        assert done == {going}
        assert going.cancelled()


class TestCommand:
    async def test_it_works_off_everything_and_says_what_came_of_it(
        self, database_url: str, tables: Any, emitter: Emitter, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for count in range(5):
            await emitter.emit({(window(0, 1), f"c{n}", "eu"): (count, Decimal(1), None) for n in range(20)})
        settings = Settings(database_url=database_url, app_id=APP_ID)
        await asyncio.to_thread(compact.run, settings, timedelta(hours=1), full=False)
        assert "superseded less than 1h ago stay in 1 hours" in " ".join(capsys.readouterr().out.split())
        # As a REINDEX that was cut off leaves it behind.
        index = "rollups.downloads_aggregated_202208_cut_ccnew"
        await tables.execute(f"CREATE INDEX {index[8:]} ON rollups.downloads_aggregated_202208 (count)")
        await tables.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", index)
        for full in (False, True):
            await asyncio.to_thread(compact.run, settings, timedelta(0), full=full)
        assert await tables.fetchval("SELECT to_regclass($1)", index) is None
        said = capsys.readouterr().out
        rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if "downloads" in line]
        assert [row[2:4] for row in rows] == [["100", "20"], ["20", "20"]]
        assert said.count("--full gives it back") == 1
        assert await tables.fetchval("SELECT count(*) FROM rollups.downloads_aggregated") == 20
        assert await compared(tables) == 40

    async def test_an_app_id_without_rollups_is_told(self, database_url: str, pool: Any) -> None:
        settings = Settings(database_url=database_url, app_id="nobody")
        with pytest.raises(RollupError, match="'nobody' has no rollups"):
            await asyncio.to_thread(compact.run, settings, timedelta(0), full=False)

    async def test_it_says_that_somebody_changes_partials_without_notes(self, tables: Any) -> None:
        await tables.execute(
            "INSERT INTO rollup_engine.changes (table_name, tier, start) VALUES ('downloads', 'all', 'epoch')"
        )
        (line,) = await compact._left(tables, APP_ID, timedelta(hours=1))
        assert "downloads: somebody goes on changing its partials without a note" in line
