"""Running metrics: exact numbers, limits that hold, nothing changed, nothing left behind."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billable_metrics import session
from billable_metrics.execute import MetricRunner, Result, exact
from billable_metrics.limits import APPLICATION_NAME
from billable_metrics.rewriter import Rewritten, rewrite
from billable_metrics.role import METRIC_ROLE
from rollup_engine.errors import DatabaseUnavailable, MetricError
from tests.metrics.support import CATALOG, CUSTOMER, DAY, END, REQUESTS, START, Database, Series

SCAN = "AGGREGATED_EVENTS('API_REQUEST')"


async def run(url: str, rewritten: Rewritten, **options: float) -> Result:
    """Past the rewriter, to see what the connection itself holds back."""
    return await MetricRunner(url).run(lambda _: rewritten, CATALOG, **options)  # type: ignore[arg-type]


def run_as_is(database: Database, text: str, **options: float) -> Result:
    return database.runner.run(run(database.url, Rewritten(text, []), **options))


@given(st.decimals(allow_nan=False, allow_infinity=False))
@example(Decimal("12.000"))
@example(Decimal("-0.00"))
@example(Decimal("1E+30"))
@example(Decimal(10**60) + Decimal("0.5"))
def test_exact_keeps_the_value(number: Decimal) -> None:
    shown = exact(number)
    assert shown == number
    if isinstance(shown, Decimal):
        assert number != number.to_integral_value()
        assert shown.as_tuple().digits[-1] != 0
    else:
        assert isinstance(shown, int)


def test_exact_leaves_the_rest_alone() -> None:
    assert exact(None) is None
    assert exact("12.000") == "12.000"
    assert str(exact(Decimal("NaN"))) == "NaN"


def test_sums_are_exact_and_whole_ones_are_whole(scratch: Database) -> None:
    huge = Decimal("99999999999999999999999999999.000000001")
    scratch.load(REQUESTS, [Series(n, "acme", (status,), ((n, huge),)) for n in range(3) for status in ("a", "b")])
    result = scratch.metric(
        f"SELECT SUM(sum_duration), SUM(aggregated_count), SUM(sum_duration - 0.000000001) FROM {SCAN}"
    )
    assert result.columns == ["sum", "sum", "sum"]
    total = Decimal("599999999999999999999999999994.000000006")
    assert result.rows == [(total, 6, 599999999999999999999999999994)]
    assert [type(value) for value in result.rows[0]] == [Decimal, int, int]


def test_times_are_utc_whatever_the_database_says(scratch: Database) -> None:
    scratch.load(REQUESTS, [Series(0, "acme", ("a",), ((1, None),))])
    scratch.execute("ALTER ROLE postgres SET timezone = 'Asia/Kolkata'")
    try:
        result = scratch.metric(
            f"SELECT timestamp, timestamp::text AS t, date_trunc('day', timestamp) AS d FROM {SCAN}"
        )
    finally:
        scratch.execute("ALTER ROLE postgres RESET timezone")
    assert result.rows == [(DAY, "2024-03-14 00:00:00+00", DAY)]
    assert result.rows[0][0].utcoffset() == timedelta(0)  # type: ignore[attr-defined]


def test_parameters_are_bound_never_pasted(fixed: Database) -> None:
    hostile = "x' OR '1'='1"
    rewritten = rewrite(f"SELECT COUNT(*) FROM {SCAN}", CATALOG, customer=hostile, start=START, end=END)
    assert hostile not in rewritten.sql
    assert rewritten.params == [hostile, START, END]
    assert fixed.runner.run(run(fixed.url, rewritten)).rows == [(0,)]


def test_parameters_number_what_is_given() -> None:
    two_scans = f"SELECT COUNT(*) FROM {SCAN} AS a, {SCAN} AS b"
    assert rewrite(two_scans, CATALOG, end=END).params == [END]
    both = rewrite(two_scans, CATALOG, customer=CUSTOMER, end=END)
    assert both.params == [CUSTOMER, END]
    assert both.sql.count("$1") == both.sql.count("$2") == 2
    assert "$3" not in both.sql


@pytest.mark.parametrize(("start", "end"), [(END, START), (START, START)])
def test_a_period_runs_forward(start: datetime, end: datetime) -> None:
    with pytest.raises(MetricError, match="is not before its end"):
        rewrite(f"SELECT COUNT(*) FROM {SCAN}", CATALOG, start=start, end=end)


def test_a_period_without_time_zone_is_refused() -> None:
    with pytest.raises(MetricError, match=r"the period's start 2024-01-01T00:00:00 has no time zone"):
        rewrite(f"SELECT COUNT(*) FROM {SCAN}", CATALOG, start=datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM rollups.api_request_aggregated RETURNING 1",
        "INSERT INTO naive.api_request (aggregated_count) VALUES (1) RETURNING 1",
        "CREATE TABLE naive.x (a int)",
        "SELECT nextval('naive.s')",
    ],
)
@pytest.mark.parametrize(("metric_role", "refusal"), [(METRIC_ROLE, "permission|read-only"), (None, "read-only")])
def test_nothing_can_be_written(fixed: Database, statement: str, metric_role: str | None, refusal: str) -> None:
    """By the role, nor by a login that could: the transaction is READ ONLY."""
    fixed.execute("CREATE SEQUENCE IF NOT EXISTS naive.s")
    runner = MetricRunner(fixed.url, metric_role=metric_role)
    with pytest.raises(MetricError, match=refusal):
        fixed.runner.run(runner.run(lambda _: Rewritten(statement, []), CATALOG))


def test_one_statement_only(fixed: Database) -> None:
    with pytest.raises(MetricError, match="multiple commands"):
        run_as_is(fixed, "SELECT 1; SELECT 2")


def test_the_server_stops_a_long_metric(fixed: Database) -> None:
    started = time.monotonic()
    with pytest.raises(MetricError, match=r"took longer than 0\.3 s"):
        run_as_is(fixed, "SELECT pg_sleep(30)", timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert running(fixed) == 0


def test_the_client_stops_what_the_server_does_not(fixed: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "session_settings", lambda *_: {"application_name": APPLICATION_NAME})
    started = time.monotonic()
    with pytest.raises(MetricError, match=r"took longer than 0\.3 s"):
        run_as_is(fixed, "SELECT pg_sleep(30)", timeout_s=0.3)
    assert time.monotonic() - started < 5
    deadline = time.monotonic() + 5
    while running(fixed) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(fixed) == 0


def test_the_session_is_set_up_for_metrics(fixed: Database) -> None:
    expected = {
        "statement_timeout": "7s",
        "lock_timeout": "7s",
        "idle_in_transaction_session_timeout": "17s",
        "transaction_read_only": "on",
        "default_transaction_read_only": "on",
        "transaction_isolation": "repeatable read",
        "role": METRIC_ROLE,
        "search_path": "pg_catalog",
        "standard_conforming_strings": "on",
        "work_mem": "32MB",
        "hash_mem_multiplier": "1",
        "temp_file_limit": "2GB",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        "client_connection_check_interval": "1s",
    }
    asked = ", ".join(f"current_setting('{name}')" for name in expected)
    result = run_as_is(fixed, f"SELECT {asked}", timeout_s=7)
    assert dict(zip(expected, result.rows[0], strict=True)) == expected


def test_an_exponential_join_is_stopped(fixed: Database) -> None:
    tables = ", ".join(f"{SCAN} AS a{n}" for n in range(8))
    with pytest.raises(MetricError, match=r"took longer than 0\.3 s"):
        fixed.metric(f"SELECT COUNT(*) FROM {tables}", timeout_s=0.3)


def test_rows_are_limited(fixed: Database) -> None:
    metric = f"SELECT timestamp FROM {SCAN}"
    rows = len(fixed.metric(metric).rows)
    assert len(fixed.metric(metric, row_limit=rows).rows) == rows
    with pytest.raises(MetricError, match=f"gives more than {rows - 1} rows; group by less, or add a LIMIT"):
        fixed.metric(metric, row_limit=rows - 1)


def test_no_connection_stays(fixed: Database) -> None:
    fixed.metric(f"SELECT COUNT(*) FROM {SCAN}")
    with pytest.raises(MetricError):
        fixed.metric(f"SELECT 1 / 0 FROM {SCAN}")
    assert running(fixed) == 0


def running(database: Database) -> object:
    """Connections of metrics that the server has."""
    return database.plain(f"SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'").rows[
        0
    ][0]


def test_cancelling_ends_the_metric(fixed: Database) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(run(fixed.url, Rewritten("SELECT pg_sleep(30)", [])))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    fixed.runner.run(cancelled())
    assert running(fixed) == 0


def test_a_connection_that_is_ended(fixed: Database) -> None:
    async def ended() -> None:
        task = asyncio.create_task(run(fixed.url, Rewritten("SELECT pg_sleep(30)", [])))
        await asyncio.sleep(0.3)
        await fixed.connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"
        )
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await task

    fixed.runner.run(ended())


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (f"SELECT 1 / 0 FROM {SCAN}", "Postgres refuses the metric: division by zero"),
        (f"SELECT data_status::int FROM {SCAN} WHERE data_status = 'fast'", "invalid input syntax for type integer"),
        (f"SELECT timestamp, COUNT(*) FROM {SCAN}", "must appear in the GROUP BY clause"),
        (f"SELECT data_status + 1 FROM {SCAN}", "operator does not exist"),
        (f"SELECT timestamp FROM {SCAN} UNION SELECT 1, 2 FROM {SCAN}", "must have the same number of columns"),
        (f"SELECT CAST('0044-03-15 BC' AS DATE) FROM {SCAN}", "a value that is out of range"),
    ],
)
def test_what_postgres_refuses_is_a_metric_error(fixed: Database, metric: str, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        fixed.metric(metric)


def test_a_missing_table_says_what_to_do(database_url: str) -> None:
    rewritten = rewrite(f"SELECT COUNT(*) FROM {SCAN}", CATALOG)
    with pytest.raises(MetricError, match=r"does not exist; run `rollup-engine migrate`"):
        asyncio.run(run(database_url, rewritten))


@pytest.mark.parametrize("url", ["postgresql://user:secret@127.0.0.1:1/none", "nonsense"])
def test_no_database(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not answer") as caught:
        asyncio.run(run(url, Rewritten("SELECT 1", [])))
    assert "secret" not in str(caught.value)


def test_a_deadlock_with_a_column_being_added_is_asked_again(scratch: Database) -> None:
    scratch.load(REQUESTS, [Series(0, "acme", ("a",), ((7, None),))])
    first, second = "rollups.api_request_aggregated", "rollups.file_download_aggregated"
    text = f"SELECT (SELECT SUM(count) FROM {first}), (SELECT COUNT(*) * 0 FROM {second})"

    async def asking() -> Result:
        other = await asyncpg.connect(scratch.url, server_settings={"deadlock_timeout": "30s"})
        try:
            async with other.transaction():
                await other.execute(f"LOCK TABLE {second} IN ACCESS EXCLUSIVE MODE")
                asked = asyncio.create_task(run(scratch.url, Rewritten(text, [])))
                while not await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                    await asyncio.sleep(0.01)
                await other.execute(f"LOCK TABLE {first} IN ACCESS EXCLUSIVE MODE", timeout=10)
            return await asked
        finally:
            await other.close()

    assert scratch.runner.run(asking()).rows == [(7, 0)]
