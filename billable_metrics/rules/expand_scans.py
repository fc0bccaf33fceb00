"""Rule: each scan becomes a subquery with one row per (window, tuple): its latest revision.

The order is the index's (timestamp, tuple_key, revision) read backwards, so that DISTINCT ON needs no sort.
"""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.predicates import conjunction
from billable_metrics.scan import EVENT_NAME_COLUMN, Context, Scan
from rollup_engine.config.naming import TABLE_SUFFIX

_SERIES = ("timestamp", "tuple_key")
_LATEST_FIRST = (*_SERIES, "revision")


def expand_scans(tree: exp.Query, context: Context) -> exp.Query:
    """Replaces the scans. Each gives the columns the metric uses, under their public names."""
    for scan in context.scans:
        alias = exp.TableAlias(this=exp.to_identifier(scan.alias, quoted=True))
        scan.node.replace(exp.Subquery(this=_latest(scan), alias=alias))
    return tree


def _latest(scan: Scan) -> exp.Select:
    columns = [_output(scan, name) for name in scan.columns if scan.uses[name]]
    select = exp.Select(
        distinct=exp.Distinct(on=exp.Tuple(expressions=[_physical(name) for name in _SERIES])),
        expressions=columns or [_output(scan, "timestamp")],
        from_=exp.From(this=exp.to_table(scan.table.base_table, dialect="postgres")),
        order=exp.Order(
            expressions=[exp.Ordered(this=_physical(name), desc=True, nulls_first=True) for name in _LATEST_FIRST]
        ),
    )
    if scan.predicates:
        select.set("where", exp.Where(this=conjunction(scan.predicates)))
    return select


def _output(scan: Scan, name: str) -> exp.Expr:
    if name == EVENT_NAME_COLUMN and scan.has_event_name:
        text = exp.Literal.string(scan.table.name + TABLE_SUFFIX)
        return exp.alias_(exp.cast(text, exp.DType.TEXT), name, quoted=True)
    physical = _physical(scan.table.columns[name])
    return physical if physical.name == name else exp.alias_(physical, name, quoted=True)


def _physical(name: str) -> exp.Column:
    return exp.column(name, quoted=True)
