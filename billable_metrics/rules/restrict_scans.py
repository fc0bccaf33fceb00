"""Rule: the system's customer and period hold inside every scan, whatever the metric says.

With cells, each scan reads the enclosing cell's customer, time and group values only.
"""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.catalog import CUSTOMER_COLUMN
from billable_metrics.cells import CUSTOMER, END, START, Cells, group_name
from billable_metrics.scan import Context, Scan
from rollup_engine.errors import MetricError


def restrict_scans(tree: exp.Query, context: Context) -> exp.Query:
    """Adds `external_customer_id = …` and `timestamp >= …`, `< …` to each scan, where they are given."""
    if context.cells is not None and not context.cells.together:
        context.edges += context.cells.edges
    for scan in context.scans:
        customer, time = (exp.column(scan.table.columns[name], quoted=True) for name in (CUSTOMER_COLUMN, "timestamp"))
        if context.customer is not None:
            scan.predicates.append(exp.EQ(this=customer, expression=context.parameter(context.customer)))
        if context.start is not None:
            scan.predicates.append(exp.GTE(this=time.copy(), expression=context.parameter(context.start)))
        if context.end is not None:
            scan.predicates.append(exp.LT(this=time.copy(), expression=context.parameter(context.end)))
        if context.cells is not None:
            scan.predicates += _within(scan, context.cells, context)
    return tree


def _within(scan: Scan, cells: Cells, context: Context) -> list[exp.Expr]:
    """The predicates of a cell. Where all cells have the same customer or time, a bound value has said so already."""
    predicates: list[exp.Expr] = []
    if cells.together:
        customers = exp.Any(this=exp.Paren(this=context.parameter(list(cells.customers))))
        return [exp.EQ(this=_own(scan, CUSTOMER_COLUMN), expression=customers)]
    if cells.customers != (context.customer,):
        predicates.append(exp.EQ(this=_own(scan, CUSTOMER_COLUMN), expression=_cell(cells, CUSTOMER)))
    if [context.start, context.end] != cells.edges:
        predicates.append(exp.GTE(this=_own(scan, "timestamp"), expression=_cell(cells, START)))
        predicates.append(exp.LT(this=_own(scan, "timestamp"), expression=_cell(cells, END)))
    for index, column in enumerate(cells.groups):
        if column not in scan.table.group_columns:
            there = ", ".join(scan.table.group_columns[1:]) or "none"
            raise MetricError(f"{scan.table.name!r} has no group column {column!r}; those it has: {there}")
        predicates.append(exp.NullSafeEQ(this=_own(scan, column), expression=_cell(cells, group_name(index))))
    return predicates


def _own(scan: Scan, column: str) -> exp.Column:
    return exp.column(scan.table.columns[column], quoted=True)


def _cell(cells: Cells, name: str) -> exp.Column:
    return exp.column(name, table=cells.alias, quoted=True)
