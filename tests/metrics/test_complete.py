"""A rollup that was added later answers only for the time from which it counts everything."""

from datetime import UTC, datetime

import pytest

from billable_metrics.catalog import catalog_from_config
from billable_metrics.rewriter import rewrite
from rollup_engine.errors import MetricError
from tests.metrics.support import CONFIG

ADDED = datetime(2022, 8, 14, 15, 20, tzinfo=UTC)
CATALOG = catalog_from_config(CONFIG, {"file_download": ADDED})
METRIC = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download')"


@pytest.mark.parametrize("start", [None, datetime(2022, 8, 14, 15, 10, tzinfo=UTC)])
def test_before_that_it_is_refused_with_the_time(start: datetime | None) -> None:
    with pytest.raises(MetricError, match="counts everything from 2022-08-14T15:20:00Z on") as refused:
        rewrite(METRIC, CATALOG, start=start)
    assert (refused.value.line, refused.value.column) == (1, 35)


def test_from_then_on_it_answers() -> None:
    assert rewrite(METRIC, CATALOG, start=ADDED).params == [ADDED]


def test_others_are_not_held_back() -> None:
    assert rewrite("SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('API_REQUEST')", CATALOG).params == []
