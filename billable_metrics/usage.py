"""Usage: one catalogue metric per customer, bucket of time and group, as one statement.

Owns: requests, the statement around the metric, pages and the form of the answer. Must never add anything up itself:
each value is the metric evaluated for exactly its cell.

    plan = plan_usage(metric, request, catalog)             # everything that can be refused without the database
    usage = plan.read(await runner.run(plan.statement, catalog, caller=caller))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, cast

import asyncpg

from billable_metrics.catalog import Catalog, Table, nearest
from billable_metrics.cells import Cells, free_alias
from billable_metrics.execute import MetricRunner, Result
from billable_metrics.metric import Metric, tables_read
from billable_metrics.parameters import Value, bound, checked_values, parse_value
from billable_metrics.periods import Granularity, Period, Snap, Windows, buckets, checked_period, find_zone
from billable_metrics.rewriter import Rewritten, rewrite
from billable_metrics.usage_grouped import Grouped, bucket_of, grouped, key_of
from billable_metrics.usage_statement import Position, grouped_statement, statement
from rollup_engine.config.naming import column_name
from rollup_engine.errors import MetricError

CUSTOMERS_MAX: Final = 100
CELLS_MAX: Final = 20_000
PAGE_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """What is asked for. Periods are half-open. `parameters` are values as `parse_values` gives them.

    `after` is the position of the last row of the page before; `limit` the number of rows on a page. `fill_zero` gives
    buckets without usage too, as zero.
    """

    customers: tuple[str, ...]
    start: datetime
    end: datetime
    granularity: Granularity = "none"
    timezone: str = "UTC"
    group_by: tuple[str, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    snap: Snap | None = None
    fill_zero: bool = False
    limit: int = PAGE_MAX
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One customer's value in one bucket. `group`: column -> value, in the order asked for."""

    external_customer_id: str
    start: datetime
    end: datetime
    group: Mapping[str, str | None]
    value: int | Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """One page, ordered by customer, group values (byte by byte, missing ones last) and time.

    `period` is what was evaluated: the one asked for, or what snapping made of it. `next` is the position to go on
    after, None on the last page.
    """

    metric: Metric
    period: Period
    group_by: tuple[str, ...]
    rows: tuple[UsageRow, ...]
    next: Position | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UsagePlan:
    """A checked request. `statement` makes its SQL, `read` its answer from what that SQL gave."""

    metric: Metric
    request: UsageRequest
    cells: Cells
    period: Period
    tables: tuple[Table, ...]
    grouped: Grouped | None

    def statement(self, catalog: Catalog) -> Rewritten:
        """The SQL of one page. `catalog` is the one planned with, and may have tiers besides."""
        metric, request, cells = self.metric, self.request, self.cells
        if self.grouped is not None:
            return self._grouped_statement(self.grouped, catalog)
        found_groups = None
        if cells.groups:
            everywhere = Cells(cells.alias, cells.customers, (self.period,))
            found_groups = self._rewrite(_groups_sql(self.tables, cells.groups), catalog, everywhere)
        values = bound(metric.parameters, request.parameters)
        return statement(
            self._rewrite(metric.sql, catalog, cells, values),
            cells,
            found_groups,
            after=request.after,
            rows_max=request.limit + 1,
            only_used=not request.fill_zero,
        )

    def _grouped_statement(self, grouped: Grouped, catalog: Catalog) -> Rewritten:
        after, cells = self.request.after, self.cells
        values = bound(self.metric.parameters, self.request.parameters)
        return grouped_statement(
            self._rewrite(grouped.sql, catalog, replace(cells, together=True), values),
            len(cells.groups),
            after=after,
            key=None if after is None else key_of(after.start, cells.buckets, grouped.key_type),
            key_type=grouped.key_type,
            rows_max=self.request.limit + 1,
        )

    def read(self, result: Result) -> Usage:
        """The answer. Raises MetricError where the metric gave something else than a number."""
        rows = [self._row(row) for row in result.rows[: self.request.limit]]
        more = len(result.rows) > self.request.limit
        position = None
        if more:
            last = rows[-1]
            position = Position(last.external_customer_id, tuple(last.group.values()), last.start)
        return Usage(self.metric, self.period, self.cells.groups, tuple(rows), position, tuple(result.notes))

    def _rewrite(
        self, sql: str, catalog: Catalog, cells: Cells, parameters: Mapping[str, tuple[str, object]] | None = None
    ) -> Rewritten:
        return rewrite(
            sql,
            catalog,
            customer=cells.customers[0] if len(cells.customers) == 1 else None,
            start=self.period.start,
            end=self.period.end,
            cells=cells,
            parameters=parameters,
        )

    def _row(self, row: tuple[object, ...]) -> UsageRow:
        if self.grouped is not None:
            bucket = bucket_of(row[1], self.cells.buckets)
            row = (row[0], bucket.start, bucket.end, *row[2:])
        customer, start, end, *groups, value = row
        if value is None:
            value = 0
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not Decimal(value).is_finite():
            raise MetricError(
                f"the metric {self.metric.name!r} gives {str(value)[:60]!r} for {customer!r}, and a metric is a number;"
                " change its SELECT"
            )
        assert isinstance(customer, str)
        assert isinstance(start, datetime)
        assert isinstance(end, datetime)
        group = dict(zip(self.cells.groups, groups, strict=True))
        return UsageRow(customer, start, end, cast(Mapping[str, str | None], group), value)


def plan_usage(metric: Metric, request: UsageRequest, catalog: Catalog) -> UsagePlan:
    """Raises MetricError for all that can be refused without the database, saying what to ask for instead."""
    tables = tables_read(metric, catalog)
    windows = Windows(tables)
    period = checked_period(request.start, request.end, windows, request.snap)
    cut = buckets(period, request.granularity, find_zone(request.timezone), windows)
    customers = _customers(request.customers)
    if len(customers) * len(cut) > CELLS_MAX:
        raise MetricError(
            f"{len(customers)} customers times {len(cut)} buckets are more than {CELLS_MAX}; ask for fewer customers,"
            " a shorter period or a coarser granularity"
        )
    if not 1 <= request.limit <= PAGE_MAX:
        raise MetricError(f"a page has 1 to {PAGE_MAX} rows, not {request.limit}")
    groups = _groups(request.group_by, tables)
    if request.after is not None and not _is_of(request.after, groups, cut):
        raise MetricError("the page to go on after is one of another request; ask for the first page again")
    request = replace(request, parameters=checked_values(metric.parameters, request.parameters))
    # Not a column's name either: in GROUP BY a column goes before an output of the same name.
    names = [column for table in tables for column in table.columns]
    cells = Cells(free_alias(" ".join([metric.sql, *names])), customers, cut, groups)
    plain = None
    if not request.fill_zero:
        plain = grouped(metric.sql, metric.parameters, groups, cut, windows.step, cells.alias)
    return UsagePlan(metric, request, cells, period, tables, plain)


async def usage(
    runner: MetricRunner, catalog: Catalog, metric: Metric, request: UsageRequest, *, caller: str | None = None
) -> Usage:
    """One page of a metric's usage; `caller` as in `MetricRunner.run`. Raises MetricError and DatabaseUnavailable."""
    plan = plan_usage(metric, request, catalog)
    try:
        result = await runner.run(plan.statement, catalog, caller=caller)
    except MetricError as error:
        if isinstance(error.__cause__, asyncpg.CardinalityViolationError):
            raise MetricError(
                f"the metric {metric.name!r} gives several rows where one number is wanted; aggregate them"
            ) from error
        raise
    return plan.read(result)


def _customers(asked: tuple[str, ...]) -> tuple[str, ...]:
    customers = tuple(dict.fromkeys(asked))
    if not customers:
        raise MetricError("no customer is named; give at least one external_customer_id")
    if len(customers) > CUSTOMERS_MAX:
        raise MetricError(f"usage is of at most {CUSTOMERS_MAX} customers at once, not {len(customers)}")
    for customer in customers:
        parse_value("text", customer, "external_customer_id")
    return customers


def _is_of(position: Position, groups: tuple[str, ...], cut: Sequence[Period]) -> bool:
    return len(position.group) == len(groups) and any(bucket.start == position.start for bucket in cut)


def _groups(asked: tuple[str, ...], tables: Sequence[Table]) -> tuple[str, ...]:
    """The public group columns meant. Every rollup that the metric reads has to have them."""
    first, *others = tables
    there = [name for name in first.group_columns[1:] if all(name in table.group_columns for table in others)]
    groups: list[str] = []
    for name in asked:
        column = first.column(name)
        if column is None or column not in there:
            of = " and ".join(repr(table.name) for table in tables)
            close = nearest(name, there)
            hint = f"did you mean {close!r}?" if close else f"those it has: {', '.join(there) or 'none'}"
            raise MetricError(f"group_by: {name!r} is no group column of {of}; {hint}")
        if column in groups:
            raise MetricError(f"group_by: {column!r} is named twice; take one out")
        groups.append(column)
    return tuple(groups)


def _groups_sql(tables: Sequence[Table], groups: Sequence[str]) -> str:
    """The group values that the rollups hold, as metric SQL: it reads the same tiers as the metric, and as safely."""
    names = ", ".join(f'"{group}"' for group in groups)
    scans = [f"AGGREGATED_EVENTS('{column_name(table.name)}')" for table in tables]
    return "\nUNION\n".join(f"SELECT DISTINCT {names} FROM {scan}" for scan in scans)  # noqa: S608  # names of ours
