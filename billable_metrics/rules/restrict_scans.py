"""Rule: the system's customer and period hold inside every scan, whatever the metric says."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.catalog import CUSTOMER_COLUMN
from billable_metrics.scan import Context


def restrict_scans(tree: exp.Query, context: Context) -> exp.Query:
    """Adds `external_customer_id = $n` and `timestamp >= $n`, `< $n` to each scan, where they are given."""
    for scan in context.scans:
        customer, time = (exp.column(scan.table.columns[name], quoted=True) for name in (CUSTOMER_COLUMN, "timestamp"))
        if context.customer is not None:
            scan.predicates.append(exp.EQ(this=customer, expression=context.parameter(context.customer)))
        if context.start is not None:
            scan.predicates.append(exp.GTE(this=time.copy(), expression=context.parameter(context.start)))
        if context.end is not None:
            scan.predicates.append(exp.LT(this=time.copy(), expression=context.parameter(context.end)))
    return tree
