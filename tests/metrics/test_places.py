"""Errors say what is wrong, where, and what to write instead."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billable_metrics.rewriter import rewrite
from rollup_engine.errors import MetricError
from tests.metrics.support import CATALOG, CUSTOMER

SCAN = "AGGREGATED_EVENTS('file_download')"


def refused(metric: str, **asked: str) -> MetricError:
    with pytest.raises(MetricError) as caught:
        rewrite(metric, CATALOG, **asked)  # type: ignore[arg-type]
    return caught.value


PLACED = [  # a metric, the text (its last occurrence) at whose first character the caret stands, the message
    (f"SELECT SUM(sum_byte) FROM {SCAN}", "sum_byte", "there is no column 'sum_byte'; did you mean sum_bytes?"),
    (
        f"SELECT d.zzz FROM {SCAN} AS d",
        "d.zzz",
        "there is no column 'd.zzz'; d has timestamp, timestamp_millis, external_customer_id, download_speed,",
    ),
    (
        f'SELECT "Zürich 😀", "zzz" FROM (SELECT 1 AS "Zürich 😀" FROM {SCAN}) AS d',
        '"zzz"',
        "there is no column 'zzz'; d has Zürich 😀",
    ),
    (
        "SELECT 1 FROM AGGREGATED_EVENTS('file_downlod')",
        "'file_downlod'",
        "there is no event 'file_downlod'; did you mean 'file_download'?",
    ),
    (
        "SELECT 1 FROM AGGREGATED_EVENTS('invoice')",
        "'invoice'",
        "there is no event 'invoice'; those there are: API_REQUEST, file_download",
    ),
    (
        "SELECT 1 FROM file_download",
        "file_download",
        "there is no table 'file_download'; metric SQL reads AGGREGATED_EVENTS('file_download')",
    ),
    (
        f"SELECT timestamp, roundd(sum_bytes) FROM {SCAN}",
        "roundd",
        "the function roundd is not part of metric SQL. Did you mean round? Functions there are: abs, avg,",
    ),
    (
        f"SELECT LATEST_BY(sum_bytes) FROM {SCAN}",
        "LATEST_BY",
        "LATEST_BY takes a value and a time: LATEST_BY(sum_x, timestamp)",
    ),
    (
        f"SELECT EARLIEST_BY(DISTINCT sum_bytes, timestamp) FROM {SCAN}",
        "EARLIEST_BY",
        "EARLIEST_BY takes a value and a time: EARLIEST_BY(sum_x, timestamp)",
    ),
    (
        f"SELECT latest_by(count, timestamp ORDER BY 1) FROM {SCAN}",
        "latest_by",
        "LATEST_BY takes a value and a time: LATEST_BY(sum_x, timestamp)",
    ),
    (
        f"SELECT latest_by(count, timestamp) FILTER (WHERE TRUE) OVER () FROM {SCAN}",
        "latest_by",
        "LATEST_BY is an aggregate and takes no OVER; use FIRST_VALUE or LAST_VALUE",
    ),
    (
        f"SELECT LATEST_BY(latest_by(count, timestamp), timestamp) FROM {SCAN}",
        "LATEST_BY",
        "LATEST_BY is an aggregate and holds no other one; take the inner one in a subquery",
    ),
    (
        f"SELECT latest(count, timestamp) FROM {SCAN}",
        "latest",
        "the function latest is not part of metric SQL. Did you mean latest_by?",
    ),
    (f"SELECT latest_by(nothing, timestamp) FROM {SCAN}", "nothing", "there is no column 'nothing'"),
    (
        f"SELECT EXTRACT(fortnight FROM timestamp) FROM {SCAN}",
        "fortnight",
        "'fortnight' is no unit of time; those there are: day, dow",
    ),
    (f"SELECT INTERVAL '1 fortnight' FROM {SCAN}", "'1 fortnight'", "an interval is written as INTERVAL '1 day'"),
    (
        f"SELECT sum_bytes::float8 FROM {SCAN}",
        "sum_bytes",
        "the type double precision is not part of metric SQL; sums stay exact with numeric",
    ),
    (
        f"SELECT 'x'::regclass FROM {SCAN}",
        "'x'",
        "the type regclass is not part of metric SQL; types there are: bigint, boolean,",
    ),
    (
        f"SELECT timestamp FROM {SCAN} AS a JOIN {SCAN} AS b USING (external_customer_id)",
        "timestamp",
        "'timestamp' is a column of 'a' and 'b'; write which one is meant",
    ),
    (
        f"SELECT 1 FROM {SCAN} AS a, {SCAN} AS a",
        SCAN,
        "two tables are called 'a'; give each its own name with AS",
    ),
    (f"SELECT 1 FROM {SCAN} WHERE download_speed = $1", "$1", "'$' is not part of metric SQL"),
    (f"SELECT (1 FROM {SCAN}", "FROM", "this is not valid SQL: Expecting )"),
    (f"SELECT 1 FROM {SCAN} WHERE timestamp >", ">", "this is not valid SQL: something is missing here"),
    (f"SELECT 1 FROM {SCAN} WHERE timestamp > 'x", "'x", "a quotation mark or comment is opened and not closed"),
    (
        f"SELECT 1 FROM {SCAN}; SELECT 2",
        ";",
        "metric SQL is one statement; take out what follows the semicolon",
    ),
    ("DROP TABLE x", "DROP", "metric SQL is one SELECT statement; this is DROP"),
]


@pytest.mark.parametrize(("metric", "at", "message"), PLACED)
def test_place(metric: str, at: str, message: str) -> None:
    error = refused(metric)
    column = metric.rindex(at) + 1
    assert error.message.startswith(message)
    assert (error.line, error.column) == (1, column)
    assert str(error).endswith(f"\n  {metric}\n  {' ' * (column - 1)}^")


def test_place_on_a_later_line() -> None:
    error = refused(f"-- usage\nSELECT timestamp,\n\tSUM(nothing)\nFROM {SCAN}")
    assert (error.line, error.column) == (3, 6)
    assert str(error).endswith("\n  \tSUM(nothing)\n  \t    ^")


PARAMETERS = {
    "since": ("TIMESTAMPTZ", datetime(2024, 3, 14, tzinfo=UTC)),
    "price": ("NUMERIC", Decimal(1)),
    "end": ("BOOLEAN", True),
    "speed": ("TEXT", "fast'; --"),
}


def test_parameters_are_bound_with_their_type() -> None:
    metric = (
        f"SELECT SUM(count) * :price + :price::int FROM {SCAN} WHERE download_speed = :speed AND timestamp >= :since"
        " HAVING :end AND ':speed' <> ''"
    )
    rewritten = rewrite(metric, CATALOG, customer=CUSTOMER, parameters=PARAMETERS)
    assert rewritten.params == [Decimal(1), True, "fast'; --", datetime(2024, 3, 14, tzinfo=UTC), CUSTOMER]
    assert 'SUM("file_download"."aggregated_count") * CAST($1 AS DECIMAL)' in rewritten.sql
    assert '"download_speed" = CAST($3 AS TEXT)' in rewritten.sql
    assert '"timestamp" >= CAST($4 AS TIMESTAMPTZ)' in rewritten.sql
    assert "CAST($2 AS BOOLEAN)" in rewritten.sql  # True is not bound as the equal number 1
    assert "':speed' <> ''" in rewritten.sql
    assert '"external_customer_id" = $5' in rewritten.sql


def test_a_parameter_settles_a_column_of_the_long_form() -> None:
    metric = (
        "SELECT MAX(count) FROM events WHERE event_name = 'file_download_aggregated' AND download_speed = :speed"
        " AND data_clusterid = :speed GROUP BY timestamp, external_customer_id"
    )
    assert "GROUP BY" in rewrite(metric, CATALOG, parameters=PARAMETERS).sql


@pytest.mark.parametrize(
    ("metric", "at", "message"),
    [
        (f"SELECT 1 FROM {SCAN} WHERE :sped = ''", ":sped", "there is no parameter 'sped'; did you mean 'speed'?"),
        (f"SELECT :zzz FROM {SCAN}", ":zzz", "there is no parameter 'zzz'; those there are: end, price, since, speed"),
        (f"SELECT 1 FROM {SCAN} WHERE TRUE = : end", ": end", "':' is not part of metric SQL; a parameter is written"),
        (f"SELECT 1 FROM {SCAN} WHERE TRUE = :'x'", ":'x'", "':' is not part of metric SQL; a parameter is written"),
        (f"SELECT 1 FROM {SCAN} WHERE TRUE = :", ":", "':' is not part of metric SQL; a parameter is written :name"),
        (f"SELECT count :price FROM {SCAN}", ":price", "a parameter is a value; it cannot name a column or table"),
        (f"SELECT 1 FROM {SCAN} AS :speed", ":speed", "a parameter is a value; it cannot name a column or table"),
        ("SELECT 1 FROM AGGREGATED_EVENTS(:speed)", "AGG", "AGGREGATED_EVENTS takes one event name in quotation marks"),
    ],
)
def test_place_of_a_parameter(metric: str, at: str, message: str) -> None:
    with pytest.raises(MetricError) as caught:
        rewrite(metric, CATALOG, parameters=PARAMETERS)
    assert caught.value.message.startswith(message)
    assert (caught.value.line, caught.value.column) == (1, metric.rindex(at) + 1)


def test_a_metric_without_parameters() -> None:
    assert refused(f"SELECT :speed FROM {SCAN}").message == "there is no parameter 'speed'; the metric declares none"


LONG = "SELECT timestamp, MAX(count) FROM events WHERE event_name = 'file_download_aggregated'"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (f"{LONG} GROUP BY timestamp", "external_customer_id, download_speed, data_clusterid missing"),
        (f"{LONG} GROUP BY external_customer_id", "timestamp_millis, download_speed, data_clusterid missing"),
        (f"{LONG}", "timestamp_millis, external_customer_id, download_speed, data_clusterid missing"),
        (f"{LONG} AND download_speed = 'x' GROUP BY 1, external_customer_id", "data_clusterid missing"),
        (
            f"{LONG} AND (download_speed = 'x' OR data_clusterid = 'x') GROUP BY 1, external_customer_id",
            "download_speed, data_clusterid missing",
        ),
        (
            f"{LONG} AND download_speed <> 'x' AND NOT data_clusterid = 'x' GROUP BY 1, external_customer_id",
            "download_speed, data_clusterid missing",
        ),
        (
            f"{LONG} AND download_speed IN ('x', 'y') GROUP BY 1, external_customer_id, data_clusterid",
            "download_speed missing",
        ),
        (
            f"{LONG} AND download_speed = data_clusterid AND data_clusterid IS NOT NULL GROUP BY 1, 2, 3",
            "external_customer_id, download_speed, data_clusterid missing",
        ),
        (
            f"{LONG} GROUP BY date_trunc('day', timestamp), external_customer_id, download_speed, data_clusterid",
            "timestamp_millis missing",
        ),
        (
            f"{LONG} GROUP BY timestamp, external_customer_id, lower(download_speed), data_clusterid",
            "download_speed missing",
        ),
    ],
)
def test_long_form_names_what_is_missing(metric: str, message: str) -> None:
    assert refused(metric).message.startswith(f"{message}: FROM events has one total per window and tuple")


GROUPED = "GROUP BY timestamp, external_customer_id, download_speed, data_clusterid"


def test_long_form_accepts_the_systems_customer() -> None:
    metric = f"{LONG} GROUP BY timestamp, download_speed, data_clusterid"
    assert refused(metric).message.startswith("external_customer_id missing")
    assert "GROUP BY" in rewrite(metric, CATALOG, customer=CUSTOMER).sql


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("SUM(aggregated_count)", "MAX"),
        ("SUM(sum_bytes)", "MAX"),
        ("COUNT(*)", "MAX or MIN"),
        ("AVG(sum_bytes)", "MAX"),
        ("MIN(count)", "MAX"),
        ("MAX(min_bytes)", "MIN"),
        ("MIN(max_bytes)", "MAX"),
        ("COALESCE(SUM(count), 0)", "MAX"),
        ("MAX(sum_bytes + min_bytes)", "MAX or MIN"),
    ],
)
def test_long_form_takes_the_latest(output: str, remedy: str) -> None:
    metric = f"SELECT {output} FROM events WHERE event_name = 'file_download_aggregated' {GROUPED}"
    if output == "MAX(sum_bytes + min_bytes)":
        rewrite(metric, CATALOG)  # of two totals that move apart no hand-written form is right, and this one is one row
        return
    assert f"take the latest with {remedy} and add up outside" in refused(metric).message


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (f"SELECT MAX(count) FROM events {GROUPED}", "FROM events needs one condition event_name = "),
        (
            f"SELECT MAX(count) FROM events WHERE event_name = 'file_download_aggregated' OR TRUE {GROUPED}",
            "FROM events needs one condition event_name = ",
        ),
        (
            f"SELECT MAX(count) FROM events WHERE event_name IN ('file_download_aggregated') {GROUPED}",
            "FROM events needs one condition event_name = ",
        ),
        (
            f"{LONG} AND event_name = 'API_REQUEST_aggregated' {GROUPED}",
            "FROM events needs one condition event_name = ",
        ),
        (
            f"SELECT MAX(count) FROM events WHERE event_name = 'file_download' {GROUPED}",
            "there is no event 'file_download'; did you mean 'file_download_aggregated'?",
        ),
        (
            f"SELECT MAX(count) FROM events, {SCAN} AS d WHERE event_name = 'file_download_aggregated' {GROUPED}",
            "FROM events is read alone; join it as a subquery, or use AGGREGATED_EVENTS",
        ),
    ],
)
def test_long_form_needs_one_event(metric: str, message: str) -> None:
    assert refused(metric).message.startswith(message)
