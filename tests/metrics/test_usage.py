"""Usage: each value is the metric over that customer's, bucket's and group's windows, and nothing else's."""

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billable_metrics.catalog import Catalog
from billable_metrics.execute import MetricRunner
from billable_metrics.metric import Metric
from billable_metrics.parameters import Parameter
from billable_metrics.periods import Granularity
from billable_metrics.usage import CELLS_MAX, CUSTOMERS_MAX, PAGE_MAX, Usage, UsageRequest, plan_usage, usage
from billable_metrics.usage_statement import Position
from rollup_engine.errors import MetricError
from tests.metrics import tiers as tier_tables
from tests.metrics.calendars import naive_buckets
from tests.metrics.support import CATALOG, CUSTOMER, DAY, DOWNLOADS, REQUESTS, WINDOW, Database, Series
from tests.metrics.test_property import histories

SCAN = "AGGREGATED_EVENTS('API_REQUEST')"

METRICS = {
    "sum": f"SELECT SUM(aggregated_count) FROM {SCAN} AS a",
    "null": f"SELECT SUM(sum_duration) FROM {SCAN} AS a WHERE data_status = 'a'",
    "count": f"SELECT COUNT(*) FROM {SCAN} AS a",
    "peak": f"SELECT MAX(n) FROM (SELECT SUM(aggregated_count) AS n FROM {SCAN} AS a GROUP BY timestamp) AS w",
    "ratio": f"SELECT SUM(sum_duration) / NULLIF(SUM(aggregated_count), 0) FROM {SCAN} AS a",
    "with": f"WITH w AS (SELECT * FROM {SCAN} AS a WHERE aggregated_count > 3) SELECT COUNT(*) FROM w",
    "two": f"SELECT (SELECT SUM(aggregated_count) FROM {SCAN} AS a) + (SELECT COUNT(*) FROM {SCAN} AS b)",
    "exists": f"SELECT COUNT(*) FROM {SCAN} AS a WHERE EXISTS (SELECT 1 FROM {SCAN} AS b"
    " WHERE b.timestamp > a.timestamp AND b.data_status IS NOT DISTINCT FROM a.data_status)",
    "cell": f"SELECT COUNT(*) FROM {SCAN} AS cell WHERE EXISTS (SELECT 1 FROM {SCAN} AS b"
    " WHERE b.timestamp > cell.timestamp)",
    "parameter": f"SELECT SUM(aggregated_count) FROM {SCAN} AS a WHERE aggregated_count > :least OR data_status = '$1'",
    "one": f"SELECT aggregated_count FROM {SCAN} AS a ORDER BY timestamp DESC, data_status LIMIT 1",
}
PARAMETERS = {"least": Parameter("least", "number", default=Decimal(5))}


def metric(sql: str, **parameters: Parameter) -> Metric:
    return Metric(name="tried", description="", unit="", sql=sql, parameters=parameters)


def ask(database: Database, asked: Metric, request: UsageRequest) -> Usage:
    return database.runner.run(usage(MetricRunner(database.url), CATALOG, asked, request))


def ask_directly(database: Database, asked: Metric, request: UsageRequest) -> Usage:
    """The same on the database's own connection, which costs less."""
    plan = plan_usage(asked, request, CATALOG)
    return plan.read(tier_tables.rows(database, plan.statement(CATALOG)))


Row = tuple[str, datetime, datetime, tuple[str | None, ...], object]


def naive_usage(database: Database, sql: str, request: UsageRequest) -> list[Row]:
    """The metric over a naive table cut down to one cell, cell by cell."""
    zone = ZoneInfo(request.timezone)
    cut = naive_buckets(request.start, request.end, request.granularity, zone, WINDOW)
    totals = database.plain("SELECT external_customer_id, timestamp, data_status FROM naive.api_request").rows
    rows = []
    for customer in sorted(request.customers):
        found = {
            (status,) if request.group_by else ()
            for of, time, status in totals
            if of == customer and request.start <= time < request.end  # type: ignore[operator]
        }
        if not request.group_by:
            found = {()}
        for group in sorted(found, key=lambda key: [(each is None, (each or "").encode()) for each in key]):
            for start, end in cut:
                value = database.plain(_over_cell(sql, customer, start, end, group)).rows[0:1]
                value = value[0][0] if value else None
                if value is not None or request.fill_zero:
                    rows.append((customer, start, end, group, value or 0))
    return rows


def _over_cell(sql: str, customer: str, start: datetime, end: datetime, group: tuple[str | None, ...]) -> str:
    condition = f"external_customer_id = '{customer}' AND timestamp >= '{start}' AND timestamp < '{end}'"
    for value in group:
        condition += " AND data_status IS NOT DISTINCT FROM "
        condition += "NULL" if value is None else "'" + value.replace("'", "''") + "'"
    return re.sub(
        r"AGGREGATED_EVENTS\('API_REQUEST'\)",
        lambda _: f"(SELECT * FROM naive.api_request WHERE {condition})",
        sql.replace(":least", "5"),
    )


def rows_of(found: Usage | Iterable[Usage]) -> list[Row]:
    pages = [found] if isinstance(found, Usage) else found
    return [
        (row.external_customer_id, row.start, row.end, tuple(row.group.values()), row.value)
        for page in pages
        for row in page.rows
    ]


@st.composite
def requests(draw: st.DrawFn) -> UsageRequest:
    granularity = draw(st.sampled_from(["none", "window", "hour", "day"]))
    first = draw(st.integers(-2, 15))
    return UsageRequest(
        customers=tuple(draw(st.lists(st.sampled_from([CUSTOMER, "globex", "nobody"]), min_size=1, unique=True))),
        start=DAY + first * WINDOW,
        end=DAY + (first + draw(st.integers(1, 10))) * WINDOW,
        granularity=granularity,
        timezone=draw(st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"])),
        group_by=draw(st.sampled_from([(), ("data_status",), ("DATA.status",)])),
        fill_zero=draw(st.booleans()),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories(1, 1), name=st.sampled_from(sorted(METRICS)), request=requests(), page=st.integers(1, 7))
def test_usage_is_the_metric_over_each_cell(
    scratch: Database, history: list[Series], name: str, request: UsageRequest, page: int
) -> None:
    scratch.load(REQUESTS, history)
    asked = metric(METRICS[name], **(PARAMETERS if name == "parameter" else {}))
    naive = naive_usage(scratch, METRICS[name], request)
    assert rows_of(ask_directly(scratch, asked, request)) == naive
    pages = [ask_directly(scratch, asked, replace(request, limit=page))]
    while (after := pages[-1].next) is not None and len(pages) < 4:
        pages.append(ask_directly(scratch, asked, replace(request, limit=page, after=after)))
    assert rows_of(pages) == naive[: 4 * page]
    assert all(len(each.rows) == page for each in pages[:-1])


DOWNLOADED = "AGGREGATED_EVENTS('file_download')"
TIERED = {
    "sum": f"SELECT SUM(aggregated_count) FROM {DOWNLOADED}",
    "max": f"SELECT MAX(max_bytes) FROM {DOWNLOADED} WHERE download_speed = 'fast'",
    "peak": "SELECT MAX(n) FROM (SELECT date_trunc('hour', timestamp) AS hour, SUM(sum_bytes) AS n"
    f" FROM {DOWNLOADED} GROUP BY hour) AS hours",
    "days": f"SELECT COUNT(DISTINCT date_trunc('day', timestamp, 'Europe/Berlin')) FROM {DOWNLOADED}",
    "ratio": f"SELECT SUM(sum_bytes) FILTER (WHERE download_speed IS NULL) / NULLIF(SUM(count), 0) FROM {DOWNLOADED}",
    "rows": f"SELECT COUNT(*) FROM {DOWNLOADED}",
    "since": f"SELECT SUM(count) FROM {DOWNLOADED} WHERE timestamp >= '2024-03-30T07:20:00Z'",
}
TIERED_DAYS = (30, 31, 32)
"""Clocks change in Berlin on the second of them."""


@pytest.fixture(scope="module")
def tiered(scratch: Database) -> Iterator[Database]:
    chance = random.Random(5)
    made = {}
    for _ in range(400):
        moment = tier_tables.day(chance.choice(TIERED_DAYS), chance.randrange(24), chance.randrange(6) * 10)
        window, customer, speed = (moment - DAY) // WINDOW, chance.choice((CUSTOMER, "globex")), chance.choice(SPEEDS)
        values = (chance.randint(0, 50), *(Decimal(chance.randint(-999, 999)) / 100 for _ in range(3)))
        made[window, customer, speed] = Series(window, customer, (speed, None), ((1, None, None, None), values))
    scratch.load(DOWNLOADS, made.values())
    tier_tables.build(scratch)
    yield scratch
    scratch.execute("DROP SCHEMA tiers CASCADE")


SPEEDS = (None, "", "fast", "slow")
TIMES = st.builds(tier_tables.day, st.sampled_from(TIERED_DAYS), st.integers(0, 23), st.sampled_from([0, 0, 10, 50]))


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(TIERED)),
    period=st.lists(TIMES, min_size=2, max_size=2, unique=True).map(sorted),
    granularity=st.sampled_from(["none", "hour", "day", "day", "month"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
    customers=st.sampled_from([(CUSTOMER,), (CUSTOMER, "globex")]),
    group_by=st.sampled_from([(), ("download_speed",), ("data_clusterid", "download_speed")]),
    hours=st.lists(st.builds(tier_tables.day, st.sampled_from(TIERED_DAYS), st.integers(0, 23)), max_size=3),
)
def test_with_tiers_and_without_it_is_the_same(
    tiered: Database,
    name: str,
    period: list[datetime],
    granularity: str,
    zone: str,
    customers: tuple[str, ...],
    group_by: tuple[str, ...],
    hours: list[datetime],
) -> None:
    made = tier_tables.tiers(hours)
    plan = plan_usage(
        metric(TIERED[name]),
        UsageRequest(customers, *period, granularity, zone, group_by),  # type: ignore[arg-type]
        CATALOG,
    )
    with tier_tables.spoiled(tiered, made):
        with_them = plan.statement(tier_tables.with_tiers(CATALOG, made))
        found = plan.read(tier_tables.rows(tiered, with_them))
        cell_by_cell = replace(plan, grouped=None)
        naive = plan.read(tier_tables.rows(tiered, plan.statement(CATALOG)))
        assert cell_by_cell.read(tier_tables.rows(tiered, cell_by_cell.statement(CATALOG))).rows == naive.rows
    assert found.rows == naive.rows, "\n".join(with_them.notes)


class TestAgainstTheFixedHistory:
    """Cases that the random ones would meet too rarely."""

    request = UsageRequest((CUSTOMER,), DAY, DAY + timedelta(hours=5))

    def value(self, fixed: Database, sql: str, **asked: object) -> object:
        (row,) = ask(fixed, metric(sql), replace(self.request, **asked)).rows
        return row.value

    def test_two_event_types(self, fixed: Database) -> None:
        sql = (
            "SELECT SUM(d.aggregated_count) / (SELECT SUM(r.aggregated_count) FROM AGGREGATED_EVENTS('API_REQUEST') r)"
            " FROM AGGREGATED_EVENTS('file_download') AS d"
        )
        where = (
            f"external_customer_id = '{CUSTOMER}' AND timestamp >= '{DAY}' AND timestamp < '{DAY}'::timestamptz + '5h'"
        )
        naive = fixed.plain(
            f"SELECT (SELECT SUM(aggregated_count) FROM naive.file_download WHERE {where})"
            f" / (SELECT SUM(aggregated_count) FROM naive.api_request WHERE {where})"
        )
        assert [(self.value(fixed, sql),)] == naive.rows

    def test_the_long_form(self, fixed: Database) -> None:
        sql = (
            "SELECT SUM(n) FROM (SELECT MAX(aggregated_count) AS n FROM events WHERE event_name ="
            " 'API_REQUEST_aggregated' GROUP BY timestamp_millis, data_status) AS w"
        )
        plain = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('API_REQUEST')"
        assert self.value(fixed, sql) == self.value(fixed, plain)
        both = replace(self.request, customers=("globex", CUSTOMER), granularity="hour", group_by=("data_status",))
        assert rows_of(ask(fixed, metric(sql), both)) == rows_of(ask(fixed, metric(plain), both))

    def test_another_customer_is_out_of_reach_however_the_metric_asks(self, fixed: Database) -> None:
        for sql in (
            f"SELECT COUNT(*) FROM {SCAN} WHERE external_customer_id = 'globex'",
            f"SELECT COUNT(*) FROM {SCAN} WHERE TRUE OR external_customer_id = 'globex'",
            (
                f"SELECT COUNT(*) FROM (SELECT 1 FROM {SCAN} AS a WHERE external_customer_id <> '{CUSTOMER}'"
                f" UNION ALL SELECT 1 FROM {SCAN} AS cell WHERE cell.external_customer_id <> '{CUSTOMER}') AS x"
            ),
            f"SELECT (SELECT COUNT(DISTINCT external_customer_id) - 1 FROM {SCAN}) FROM {SCAN} LIMIT 1",
        ):
            every = self.value(fixed, f"SELECT COUNT(*) FROM {SCAN}")
            assert self.value(fixed, sql) in (0, every if "TRUE" in sql else 0)

    def test_customers_are_values(self, fixed: Database) -> None:
        name = "'; DROP TABLE x; -- $1 :a"
        assert ask(fixed, metric(METRICS["sum"]), replace(self.request, customers=(name,))).rows == ()

    def test_text_that_looks_like_a_placeholder_stays_as_it_is(self, fixed: Database) -> None:
        sql = (
            "SELECT SUM(CASE WHEN '''$1' = '''$' || '1' AND \"$2\" = '$' || '2' THEN 1 END)"
            f' FROM (SELECT \'$2\' AS "$2" FROM {SCAN}) AS "a""$3"'
        )
        assert self.value(fixed, sql) == self.value(fixed, f"SELECT COUNT(*) FROM {SCAN}")

    def test_a_metric_that_gives_several_rows(self, fixed: Database) -> None:
        with pytest.raises(MetricError, match="'tried' gives several rows where one number is wanted"):
            self.value(fixed, f"SELECT aggregated_count FROM {SCAN}")

    @pytest.mark.parametrize("projection", ["MAX(data_status)", "TRUE", "CAST('NaN' AS NUMERIC)", "MIN(timestamp)"])
    def test_a_metric_that_gives_no_number(self, fixed: Database, projection: str) -> None:
        with pytest.raises(MetricError, match="and a metric is a number"):
            self.value(fixed, f"SELECT {projection} FROM {SCAN} WHERE data_status IS NOT NULL LIMIT 1")

    def test_snapping_says_what_was_evaluated(self, fixed: Database) -> None:
        asked = replace(self.request, end=self.request.end - timedelta(minutes=1))
        with pytest.raises(MetricError, match="cuts a 10-minute window of 'API_REQUEST'"):
            plan_usage(metric(METRICS["sum"]), asked, CATALOG)
        found = ask(fixed, metric(METRICS["sum"]), replace(asked, snap="inward"))
        assert found.period.end == self.request.end - WINDOW
        assert found.rows[0].end == found.period.end

    @pytest.mark.parametrize(
        ("granularity", "zone"), [("hour", "UTC"), ("hour", "Asia/Kolkata"), ("window", "UTC"), ("none", "UTC")]
    )
    def test_all_pages_are_the_whole(self, fixed: Database, granularity: Granularity, zone: str) -> None:
        asked = replace(
            self.request,
            customers=(CUSTOMER, "globex", "initech"),
            granularity=granularity,
            timezone=zone,
            group_by=("data_status",),
        )
        whole = rows_of(ask(fixed, metric(METRICS["sum"]), asked))
        assert len(whole) > 15
        pages, after = [], None
        for _ in itertools.count():
            pages.append(ask(fixed, metric(METRICS["sum"]), replace(asked, limit=7, after=after)))
            assert len(pages) <= len(whole), "the pages never end"
            after = pages[-1].next
            if after is None:
                break
        assert rows_of(pages) == whole


class TestRefused:
    """What is refused before the database is asked."""

    asked = metric(f"SELECT SUM(a.aggregated_count) FROM {SCAN} AS a")
    request = UsageRequest((CUSTOMER,), DAY, DAY + timedelta(hours=1))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"customers": ()}, "no customer is named"),
            ({"customers": tuple(map(str, range(CUSTOMERS_MAX + 1)))}, f"at most {CUSTOMERS_MAX} customers at once"),
            ({"customers": ("a\0",)}, "external_customer_id holds the character U+0000"),
            ({"customers": tuple("abc"), "end": DAY + 50 * timedelta(days=1), "granularity": "window"}, str(CELLS_MAX)),
            ({"timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'?"),
            (
                {"group_by": ("data_statu",)},
                "'data_statu' is no group column of 'API_REQUEST'; did you mean 'data_status'?",
            ),
            ({"group_by": ("external_customer_id",)}, "no group column of 'API_REQUEST'; those it has: data_status"),
            ({"group_by": ("aggregated_count",)}, "no group column"),
            ({"group_by": ("data_status", "DATA_STATUS")}, "'data_status' is named twice"),
            ({"limit": 0}, f"a page has 1 to {PAGE_MAX} rows"),
            ({"after": Position(CUSTOMER, ("a",), DAY)}, "one of another request"),
            ({"parameters": {"x": "1"}}, "there is no parameter 'x'"),
        ],
    )
    def test_requests(self, change: dict[str, object], says: str) -> None:
        with pytest.raises(MetricError) as refused:
            plan_usage(self.asked, replace(self.request, **change), CATALOG)  # type: ignore[arg-type]
        assert says in str(refused.value)

    def test_a_group_column_that_only_one_of_the_rollups_has(self) -> None:
        both = metric(
            f"SELECT (SELECT COUNT(*) FROM {SCAN}) + (SELECT COUNT(*) FROM AGGREGATED_EVENTS('{DOWNLOADS.name}'))"
        )
        with pytest.raises(MetricError) as refused:
            plan_usage(both, replace(self.request, group_by=("data_status",)), CATALOG)
        assert "'data_status' is no group column of 'API_REQUEST' and 'file_download'; those it has: none" in str(
            refused.value
        )

    @pytest.mark.parametrize(("name", "orders", "time"), [("sum", 1, "key"), ("count", 2, "period_start")])
    def test_the_order_is_the_same_whatever_the_databases_collation(self, name: str, orders: int, time: str) -> None:
        plan = plan_usage(metric(METRICS[name]), replace(self.request, group_by=("data_status",)), CATALOG)
        found = re.findall("^ORDER BY ([^)\n]*)", plan.statement(CATALOG).sql, re.MULTILINE)
        assert found == [f'"customer" COLLATE "C", "group_0" COLLATE "C", "{time}"'] * orders

    @pytest.mark.parametrize(
        ("sql", "plain"),
        [
            (f"SELECT SUM(count) FROM {SCAN}", True),
            (f"select sum(count) -- all\nFROM {SCAN} AS e WHERE data_status <> ';' ; -- that is it", True),
            (
                f"SELECT ROUND(SUM(sum_duration) FILTER (WHERE count > 1) / NULLIF(COUNT(*), 0), 2) AS x FROM {SCAN}",
                True,
            ),
            (f"SELECT LATEST_BY(count, timestamp) FROM {SCAN}", True),
            (f"SELECT 5 + SUM(count) FROM {SCAN}", True),
            (f"SELECT ALL SUM(count) FROM {SCAN}", True),
            (f"SELECT COUNT(*) FROM {SCAN}", False),
            (f"SELECT COALESCE(SUM(count), 0) FROM {SCAN}", False),
            (f"SELECT LEAST(SUM(count), 5) FROM {SCAN}", False),
            (f"SELECT CASE WHEN SUM(count) > 1 THEN 1 ELSE 0 END FROM {SCAN}", False),
            (f"SELECT NULLIF(5, SUM(count)) FROM {SCAN}", False),
            (f"SELECT SUM(SUM(count)) OVER () FROM {SCAN}", False),
            (f"SELECT SUM(count) FROM {SCAN} LIMIT 1", False),
            (f"SELECT SUM(count) FROM {SCAN} HAVING SUM(count) > 1", False),
            (f"SELECT SUM(a.count) FROM {SCAN} AS a CROSS JOIN {SCAN} AS b", False),
            (f"SELECT SUM(count) FROM {SCAN} WHERE count > (SELECT AVG(count) FROM {SCAN})", False),
            (f"SELECT SUM(count) FROM (SELECT MAX(count) AS count FROM {SCAN}) AS x", False),
            (f"(SELECT SUM(count) FROM {SCAN})", False),
        ],
    )
    def test_only_plain_metrics_are_grouped(self, fixed: Database, sql: str, plain: bool) -> None:
        asked = replace(self.request, customers=(CUSTOMER, "globex"), group_by=("data_status",), granularity="hour")
        plan = plan_usage(metric(sql), asked, CATALOG)
        assert (plan.grouped is not None) == plain
        assert plan_usage(metric(sql), replace(asked, fill_zero=True), CATALOG).grouped is None
        answers = [
            each.read(tier_tables.rows(fixed, each.statement(CATALOG))).rows
            for each in (plan, replace(plan, grouped=None))
        ]
        assert answers[0] == answers[1]
        assert answers[0]

    def test_a_statement_holds_no_value(self) -> None:
        plan = plan_usage(self.asked, replace(self.request, customers=("SECRET", "other")), CATALOG)
        made = plan.statement(CATALOG)
        assert "SECRET" not in made.sql
        assert "2024" not in made.sql
        assert ["SECRET", "other"] in made.params


def test_a_group_column_called_like_the_cells() -> None:
    """In GROUP BY a column goes before an output of that name: usage would be split by it, unasked."""
    (table,) = (one for one in CATALOG.tables if one.name == "API_REQUEST")
    called = replace(
        table, columns=dict(table.columns) | {"cell": "cell"}, group_columns=(*table.group_columns, "cell")
    )
    request = UsageRequest(customers=(CUSTOMER,), start=DAY, end=DAY + WINDOW)
    plan = plan_usage(metric(METRICS["sum"]), request, Catalog([called]))
    assert '"a"."cell"' not in plan.statement(Catalog([called])).sql
