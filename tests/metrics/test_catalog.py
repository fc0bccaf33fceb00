"""Names: what the catalogue lists, and what a written name finds."""

import pytest

from billable_metrics.catalog import Catalog, Table
from billable_metrics.rewriter import rewrite
from rollup_engine.errors import MetricError
from tests.metrics.support import CATALOG


def test_columns_of_a_rollup() -> None:
    table = CATALOG.table("file_download")
    assert table is not None
    assert table.base_table == 'rollups."file_download_aggregated"'
    assert list(table.columns) == [
        *("timestamp", "timestamp_millis", "external_customer_id", "download_speed", "data_clusterid"),
        *("aggregated_count", "sum_bytes", "min_bytes", "max_bytes"),
    ]
    assert table.columns["aggregated_count"] == "count"
    assert table.group_columns == ("external_customer_id", "download_speed", "data_clusterid")
    assert table.latest_by == {"aggregated_count": "MAX", "sum_bytes": "MAX", "min_bytes": "MIN", "max_bytes": "MAX"}


@pytest.mark.parametrize("name", ["API_REQUEST", "api_request", "Api-Request"])
def test_events_by_any_case(name: str) -> None:
    table = CATALOG.table(name)
    assert table is not None
    assert table.name == "API_REQUEST"


def test_unknown_events() -> None:
    assert CATALOG.table("nothing") is None
    assert CATALOG.nearest("api_requests") == "API_REQUEST"
    assert CATALOG.nearest("zzz") is None
    assert CATALOG.partials_table("api_request") is None
    assert CATALOG.partials_table("Api_Request_AGGREGATED") is CATALOG.table("API_REQUEST")


@pytest.mark.parametrize(
    ("written", "column"),
    [
        ("data_clusterId", "data_clusterid"),
        ("DATA.CLUSTERID", "data_clusterid"),
        ("count", "aggregated_count"),
        ("Aggregated_Count", "aggregated_count"),
        ("revision", None),
        ("tuple_key", None),
        ("event_name", None),
    ],
)
def test_columns_by_any_case(written: str, column: str | None) -> None:
    table = CATALOG.table("file_download")
    assert table is not None
    assert table.column(written) == column


KEYWORDS = (
    *(
        "type",
        "name",
        "date",
        "time",
        "year",
        "month",
        "day",
        "hour",
        "format",
        "index",
        "key",
        "value",
        "role",
        "text",
    ),
    *("session", "model", "language", "location", "source", "schema", "status", "method", "object", "uuid", "range"),
    *("first", "last", "rows", "percent", "filter", "level", "version", "table", "view", "database", "function", "map"),
    *(
        "action",
        "comment",
        "show",
        "tag",
        "policy",
        "stream",
        "package",
        "option",
        "final",
        "replace",
        "unique",
        "user",
    ),
    *(
        "country",
        "environment",
        "instance",
        "cluster",
        "topic",
        "host",
        "size",
        "unit",
        "amount",
        "kind",
        "left",
        "sum",
    ),
)


@pytest.mark.parametrize("name", KEYWORDS)
def test_grouping_columns_may_be_keywords(name: str) -> None:
    columns = {each: each for each in ("timestamp", "timestamp_millis", "external_customer_id", name)}
    table = Table("x", "rollups.x", columns | {"aggregated_count": "count"}, 600_000, ("external_customer_id", name))
    metric = f"SELECT x.{name}, COUNT(DISTINCT {name}) FROM AGGREGATED_EVENTS('x') WHERE {name} = 'a' GROUP BY x.{name}"
    assert f"WHERE\n    \"{name}\" = 'a'" in rewrite(metric, Catalog([table])).sql


def test_a_grouping_column_called_event_name() -> None:
    columns = {each: each for each in ("timestamp", "timestamp_millis", "external_customer_id", "event_name")}
    table = Table(
        "x", "rollups.x", columns | {"aggregated_count": "count"}, 600_000, ("external_customer_id", "event_name")
    )
    catalog = Catalog([table])
    assert (
        "'download'"
        in rewrite("SELECT COUNT(*) FROM AGGREGATED_EVENTS('x') WHERE event_name = 'download'", catalog).sql
    )
    with pytest.raises(MetricError, match="has its own column event_name; use AGGREGATED_EVENTS"):
        rewrite("SELECT MAX(count) FROM events WHERE event_name = 'x_aggregated' GROUP BY timestamp", catalog)
