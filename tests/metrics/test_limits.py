"""Limits of metrics kept from outside their session: time, data, how many at once; and connections that end."""

import asyncio
import time
from contextlib import suppress

import pytest

from billable_metrics import session
from billable_metrics.execute import MetricRunner, Result
from billable_metrics.limits import APPLICATION_NAME, Limits
from billable_metrics.rewriter import Rewritten, rewrite
from rollup_engine.errors import DatabaseUnavailable, MetricError, MetricsBusy
from tests.metrics.support import CATALOG, CUSTOMER, Database

SCAN = "AGGREGATED_EVENTS('API_REQUEST')"
CHEAP = f"SELECT COUNT(*) AS n FROM {SCAN} WHERE external_customer_id = '{CUSTOMER}'"
EXPENSIVE = f"SELECT COUNT(*) AS n FROM {', '.join(f'{SCAN} AS a{n}' for n in range(8))}"

# For each 'a' PostgreSQL compares 45,000 characters, and looks for no interrupt on the way: half a second and more.
DEAF = "SELECT position('b' || repeat('a', 45000) IN repeat('a', 90000))"


def as_is(text: str) -> Rewritten:
    return Rewritten(text, [])


async def ask(runner: MetricRunner, text: str, **options: object) -> Result:
    """Past the rewriter, which would refuse most of these."""
    return await runner.run(lambda _: as_is(text), CATALOG, **options)  # type: ignore[arg-type]


async def running(database: Database) -> int:
    found = await database.connection.fetchval(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = $1", APPLICATION_NAME
    )
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "SELECT repeat('x', 5000000)",
        "SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
        "SELECT * FROM generate_series(1, 100000) AS a(n), (SELECT 1, 2, 3, 4, 5, 6) AS b",
    ],
)
def test_data_is_limited_as_it_comes_in(fixed: Database, text: str) -> None:
    """One value too long, or rows too many: hung up on before they are held in memory."""
    runner = MetricRunner(fixed.url, Limits(result_bytes_max=1 << 20))
    with pytest.raises(MetricError, match="gives more than 1 MiB; group by less, or add a LIMIT"):
        fixed.runner.run(ask(runner, text))
    fixed.runner.run(runner.close())
    assert fixed.runner.run(running(fixed)) == 0


def test_data_below_the_limit_comes_whole(fixed: Database) -> None:
    runner = MetricRunner(fixed.url, Limits(result_bytes_max=1 << 20))
    result = fixed.runner.run(ask(runner, "SELECT n, repeat('x', 50) FROM generate_series(1, 12000) AS a(n)"))
    assert [row[0] for row in result.rows] == list(range(1, 12_001))


def test_temporary_files_are_limited(fixed: Database) -> None:
    runner = MetricRunner(fixed.url, Limits(work_mem_kb=64, temp_file_mb=1))
    with pytest.raises(MetricError, match="temporary file size exceeds"):
        fixed.runner.run(ask(runner, "SELECT DISTINCT n::text || 'some text' FROM generate_series(1, 100000) AS a(n)"))


def test_only_so_many_at_once(fixed: Database) -> None:
    """The others wait a bounded time, then are told so; nobody is lost."""
    runner = MetricRunner(fixed.url, Limits(connections_max=2, wait_s=0.3))

    async def asked() -> None:
        sleeping = [asyncio.create_task(ask(runner, "SELECT pg_sleep(0.8)")) for _ in range(2)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        with pytest.raises(MetricsBusy, match=r"2 metrics run already, and none ended within 0\.3 s"):
            await ask(runner, "SELECT 1")
        assert 0.2 < time.monotonic() - started < 0.7
        assert await running(fixed) == 2
        await asyncio.gather(*sleeping)
        assert (await ask(runner, "SELECT 1")).rows == [(1,)]

    fixed.runner.run(asked())


def test_one_caller_leaves_room_for_others(fixed: Database) -> None:
    runner = MetricRunner(fixed.url, Limits(connections_max=3, wait_s=0.3))

    async def asked() -> None:
        sleeping = [asyncio.create_task(ask(runner, "SELECT pg_sleep(0.6)", caller="greedy")) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = asyncio.create_task(ask(runner, "SELECT 1", caller="greedy"))
        assert (await ask(runner, "SELECT 2", caller="modest")).rows == [(2,)]
        with pytest.raises(MetricsBusy, match=r"2 metrics of 'greedy' run already, and none ended within 0\.3 s"):
            await refused
        await asyncio.gather(*sleeping)
        assert (await ask(runner, "SELECT 1", caller="greedy")).rows == [(1,)]

    fixed.runner.run(asked())


def test_it_stays_responsive(fixed: Database) -> None:
    """While one caller has as many expensive metrics running as it may, others' cheap ones are answered."""
    runner = MetricRunner(fixed.url, Limits(timeout_s=1.5))

    async def expensive() -> None:
        with pytest.raises(MetricError, match="took longer than"):
            await runner.run(lambda catalog: rewrite(EXPENSIVE, catalog), CATALOG, caller="hostile")

    async def asked() -> list[float]:
        hostile = [asyncio.create_task(expensive()) for _ in range(runner.limits.connections_per_caller_max)]
        await asyncio.sleep(0.2)
        took: list[float] = []
        while len(took) < 10 and not any(each.done() for each in hostile):
            started = time.monotonic()
            answer = await runner.run(lambda catalog: rewrite(CHEAP, catalog), CATALOG, caller="modest")
            took.append(time.monotonic() - started)
            assert len(answer.rows) == 1
        await asyncio.gather(*hostile)
        return took

    took = fixed.runner.run(asked())
    assert len(took) >= 3
    assert sorted(took)[len(took) // 2] < 0.7, took


def test_what_does_not_heed_a_cancel_is_terminated(fixed: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CLOSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(session, "welcome_settings", lambda _: {})  # it would notice by itself that we hung up
    fixed.execute(
        "CREATE OR REPLACE FUNCTION naive.stubborn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LOOP BEGIN"
        " PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    runner = MetricRunner(fixed.url, Limits(timeout_s=0.2, grace_s=0.1), metric_role=None)

    async def asked() -> None:
        with pytest.raises(MetricError, match="took longer"):
            await ask(runner, "SELECT naive.stubborn()")
        await asyncio.wait_for(runner.close(), 5)
        assert await running(fixed) == 0

    fixed.runner.run(asked())


def test_a_place_is_free_only_once_postgres_is_done(fixed: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that nothing can interrupt: its caller is answered, but its place stays taken until it has ended."""
    monkeypatch.setattr(session, "CLOSE_TIMEOUT_S", 0.1)
    runner = MetricRunner(fixed.url, Limits(timeout_s=0.1, grace_s=0.1, connections_max=1, wait_s=0.1))

    async def asked() -> None:
        started = time.monotonic()
        with pytest.raises(MetricError, match="took longer"):
            await ask(runner, DEAF)
        answered_s = time.monotonic() - started
        while await running(fixed):
            with suppress(MetricsBusy):
                await ask(runner, "SELECT 1")
                assert not await running(fixed)  # it ended between the two questions
        ended_s = time.monotonic() - started
        assert answered_s < ended_s - 0.1, "it ended before anybody could notice"
        await runner.close()
        assert (await ask(runner, "SELECT 1", timeout_s=5)).rows == [(1,)]

    fixed.runner.run(asked())


def test_another_process_of_the_same_number_is_left_alone(fixed: Database) -> None:
    """What is terminated is told by when it started, not by its number alone."""
    ended = session.Session(fixed.url, Limits(), 1, None)

    async def asked() -> None:
        await ended.open()
        await ended.begin()
        assert await ended.end()
        pid = await fixed.connection.fetchval("SELECT pg_backend_pid()")
        ended._pid = pid  # as if this number had been given to a new process: that one started before, so set it back
        ended._seen_at = await fixed.connection.fetchval(
            "SELECT backend_start - interval '1 s' FROM pg_stat_activity WHERE pid = $1", pid
        )
        assert await ended._terminate()
        assert await fixed.connection.fetchval("SELECT 1") == 1

    fixed.runner.run(asked())


def test_a_login_without_the_right_to_limit_files_runs_all_the_same(fixed: Database) -> None:
    fixed.execute("CREATE ROLE plain_reader LOGIN PASSWORD 'x' IN ROLE rollup_metrics")
    host = fixed.url.rpartition("@")[2]
    runner = MetricRunner(f"postgresql://plain_reader:x@{host}", metric_role=None)
    try:
        answer = fixed.runner.run(ask(runner, "SELECT current_user::text, current_setting('temp_file_limit')"))
    finally:
        fixed.execute("DROP ROLE plain_reader")
    assert answer.rows == [("plain_reader", "-1")]


def test_without_the_role_it_refuses_and_says_what_to_run(fixed: Database) -> None:
    fixed.execute("CREATE ROLE no_member LOGIN PASSWORD 'x'")
    host = fixed.url.rpartition("@")[2]
    try:
        with pytest.raises(DatabaseUnavailable, match='superuser run: GRANT rollup_metrics TO "no_'):
            fixed.runner.run(ask(MetricRunner(f"postgresql://no_member:x@{host}"), "SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="ROLLUP_METRICS_DATABASE_URL"):
            fixed.runner.run(ask(MetricRunner(fixed.url, metric_role="rollup_metrics_nowhere"), "SELECT 1"))
    finally:
        fixed.execute("DROP ROLE no_member")
