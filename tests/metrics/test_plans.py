"""What Postgres makes of rewritten metrics: conditions reach the base table, and its index gives the order.

The last test shows why pushing down needs a rule of ours: Postgres moves conditions into DISTINCT ON for its own
columns only.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billable_metrics.catalog import Catalog
from billable_metrics.rewriter import rewrite
from tests.metrics.support import CATALOG, DAY, DOWNLOADS, Database, Series
from tests.metrics.tiers import build, tiers, with_tiers

Plan = dict[str, Any]
BASE_TABLE = "file_download_aggregated_2024_03"
WHOLE_DAY: dict[str, Any] = {"start": DAY, "end": DAY + timedelta(days=1)}


@pytest.fixture(scope="module")
def filled(scratch: Database) -> Database:
    """Ten days of 30 series a window, five partials each."""
    partials = tuple((count, Decimal(count), Decimal(0), Decimal(0)) for count in range(5))
    scratch.load(
        DOWNLOADS,
        (
            Series(window, f"customer {customer}", (speed, "x"), partials)
            for window in range(0, 1440, 3)
            for customer in range(10)
            for speed in ("fast", "slow", None)
        ),
    )
    scratch.execute("ANALYZE rollups.file_download_aggregated")
    return scratch


def plan_of(database: Database, text: str, *params: object, options: str = "") -> list[Plan]:
    """The nodes of the plan, from the top down."""
    found = database.runner.run(database.connection.fetchval(f"EXPLAIN ({options}FORMAT JSON) {text}", *params))
    return list(nodes(json.loads(found)[0]["Plan"]))


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def metric_plan(database: Database, metric: str, /, catalog: Catalog = CATALOG, **asked: Any) -> list[Plan]:
    rewritten = rewrite(metric, catalog, **asked)
    return plan_of(database, rewritten.sql, *rewritten.params)


def base_scans(plan: list[Plan]) -> list[Plan]:
    return [node for node in plan if "Relation Name" in node]


def conditions(node: Plan) -> str:
    return " ".join(str(node.get(key, "")) for key in ("Index Cond", "Recheck Cond", "Filter"))


def test_customer_period_and_groups_reach_the_base_table(filled: Database) -> None:
    metric = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE download_speed = 'fast'"
    plan = metric_plan(filled, metric, customer="customer 3", **WHOLE_DAY)
    (scan,) = base_scans(plan)  # of all partitions, the one month's
    assert scan["Relation Name"] == BASE_TABLE
    assert "external_customer_id = 'customer 3'" in scan["Filter"]
    assert "download_speed = 'fast'" in scan["Filter"]
    index = next(node for node in plan if "Index Name" in node)
    assert '"timestamp" >= \'2024-03-14' in index["Index Cond"]
    assert '"timestamp" < \'2024-03-15' in index["Index Cond"]
    assert not any("Filter" in node for node in plan if node is not scan)


@pytest.mark.parametrize(
    "condition", ["timestamp >= '2024-03-14' AND timestamp < '2024-03-15'", "timestamp_millis < 1710460800000"]
)
def test_times_written_in_the_metric_use_the_index(filled: Database, condition: str) -> None:
    metric = f"SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE {condition}"
    scans = [node for node in metric_plan(filled, metric) if "Index Cond" in node]
    assert [scan for scan in scans if '"timestamp" <' in scan["Index Cond"]]
    assert BASE_TABLE.replace("03", "04") not in json.dumps(scans)


def test_the_index_gives_the_order(filled: Database) -> None:
    """Whether reading the index beats sorting depends on the data; here only on whether it can be read instead."""
    metric = "SELECT timestamp, SUM(sum_bytes) FROM AGGREGATED_EVENTS('file_download') GROUP BY timestamp"
    filled.execute("SET enable_sort = off; SET enable_incremental_sort = off")
    try:
        plan = metric_plan(filled, metric, **WHOLE_DAY)
    finally:
        filled.execute("RESET enable_sort; RESET enable_incremental_sort")
    (scan,) = base_scans(plan)
    assert (scan["Node Type"], scan["Scan Direction"]) == ("Index Scan", "Backward")
    between = [node["Node Type"] for node in plan[: plan.index(scan)]]
    assert "Unique" in between
    assert "Sort" not in between
    assert "Incremental Sort" not in between


def test_conditions_on_totals_stay_above_the_latest_revision(filled: Database) -> None:
    metric = "SELECT COUNT(*) FROM AGGREGATED_EVENTS('file_download') WHERE aggregated_count < 3"
    plan = metric_plan(filled, metric, customer="customer 3", **WHOLE_DAY)
    (above,) = [node for node in plan if node["Node Type"] == "Subquery Scan"]
    assert "aggregated_count < 3" in above["Filter"]
    assert all("count" not in conditions(scan) for scan in base_scans(plan))
    assert filled.metric(metric).rows == [(0,)]  # each series ends at 4, and passed 0, 1 and 2 on its way


@pytest.fixture(scope="module")
def tiered(filled: Database) -> Iterator[Database]:
    build(filled)
    filled.execute("ANALYZE tiers.file_download_day; ANALYZE tiers.file_download_hour")
    yield filled
    filled.execute("DROP SCHEMA tiers CASCADE")


def test_customer_period_and_groups_reach_tiers_and_partials(tiered: Database) -> None:
    """Four days; of the second one hour is stale, of the last one half an hour is asked for."""
    stale = DAY + timedelta(days=1, hours=7)
    catalog = with_tiers(CATALOG, tiers([stale]))
    metric = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE download_speed = 'fast'"
    period: dict[str, Any] = {"start": DAY, "end": DAY + timedelta(days=3, minutes=30)}
    plan = metric_plan(tiered, metric, catalog, customer="customer 3", **period)
    scans = base_scans(plan)
    assert sorted(scan["Relation Name"] for scan in scans) == [
        *(BASE_TABLE, BASE_TABLE, "file_download_day", "file_download_hour")
    ]
    under = {id(scan): " ".join(map(conditions, nodes(scan))) for scan in scans}
    for scan in scans:
        assert "external_customer_id = 'customer 3'" in under[id(scan)]
        assert "download_speed = 'fast'" in under[id(scan)]
        assert '"timestamp" >= ' in under[id(scan)]
    read = {scan["Relation Name"]: under[id(scan)] for scan in scans}
    assert f"\"timestamp\" >= '{stale:%Y-%m-%d %H}:00:00+00'" in " ".join(under.values())
    assert "\"timestamp\" < '2024-03-17 00:00:00+00'" in read["file_download_day"]
    assert "2024-03-15 07:00:00+00" in read["file_download_hour"]
    partials = [node["Actual Rows"] for node in analyzed(tiered, metric, catalog, period) if is_partials(node)]
    assert sum(partials) == (2 + 1) * 5  # the windows of two ranges, five partials each; not the month's 2,400


def is_partials(node: Plan) -> bool:
    return node.get("Relation Name") == BASE_TABLE


def analyzed(database: Database, metric: str, catalog: Catalog, period: dict[str, Any]) -> list[Plan]:
    rewritten = rewrite(metric, catalog, customer="customer 3", **period)
    return plan_of(database, rewritten.sql, *rewritten.params, options="ANALYZE, ")


def test_postgres_by_itself_pushes_times_only(filled: Database) -> None:
    plan = plan_of(
        filled,
        "SELECT SUM(count) FROM rollups.file_download WHERE external_customer_id = 'customer 3'"
        " AND \"timestamp\" >= '2024-03-14' AND \"timestamp\" < '2024-03-15'",
    )
    (scan,) = base_scans(plan)
    assert "timestamp" in conditions(scan)
    assert "external_customer_id" not in conditions(scan)
