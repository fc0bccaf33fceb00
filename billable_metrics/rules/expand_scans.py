"""Rule: each scan becomes a subquery with one row per (window, tuple), its latest revision, or per step of a tier.

The order is the index's (timestamp, tuple_key, revision) read backwards, so that DISTINCT ON needs no sort. Each range
of the partials is a query of its own: of several in one query Postgres would sort the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlglot import exp

from billable_metrics.predicates import conjunction
from billable_metrics.scan import EVENT_NAME_COLUMN, Context, Scan
from billable_metrics.timeline import FOREVER_MS, Range, to_datetime
from rollup_engine.config.naming import TABLE_SUFFIX

_SERIES = ("timestamp", "tuple_key")
_LATEST_FIRST = (*_SERIES, "revision")


def expand_scans(tree: exp.Query, context: Context) -> exp.Query:
    """Replaces the scans. Each gives the columns the metric uses, under their public names."""
    for scan in context.scans:
        alias = exp.TableAlias(this=exp.to_identifier(scan.alias, quoted=True))
        read = _read(scan)
        if context.customer is not None:
            # Keeps what stands around the scan out of it: Postgres would test a condition, or compute an output, before
            # it tests whose row it is, and an error would tell what is in other customers' rows.
            read.set("offset", exp.Offset(expression=exp.Literal.number(0)))
        scan.node.replace(exp.Subquery(this=read, alias=alias))
    return tree


def _read(scan: Scan) -> exp.Query:
    parts = list(_parts(scan)) or [_latest(scan)]
    if len(parts) == 1:
        return parts[0]
    whole: exp.Query = parts[0]
    for part in parts[1:]:
        closed = exp.Subquery(this=part) if part.args.get("order") else part
        whole = exp.Union(this=whole, expression=closed, distinct=False)
    return whole


def _parts(scan: Scan) -> Iterator[exp.Select]:
    for piece in scan.pieces:
        if piece.tier is not None:
            yield _select(scan, piece.tier.base_table, _within(piece.ranges))
        else:
            for each in piece.ranges:
                yield _latest(scan, _within([each]))


def _latest(scan: Scan, within: Sequence[exp.Expr] = ()) -> exp.Select:
    select = _select(scan, scan.table.base_table, within)
    select.set("distinct", exp.Distinct(on=exp.Tuple(expressions=[_physical(name) for name in _SERIES])))
    order = [exp.Ordered(this=_physical(name), desc=True, nulls_first=True) for name in _LATEST_FIRST]
    select.set("order", exp.Order(expressions=order))
    return select


def _select(scan: Scan, table: str, within: Sequence[exp.Expr]) -> exp.Select:
    columns = [_output(scan, name) for name in scan.columns if scan.uses[name]]
    select = exp.Select(
        expressions=columns or [_output(scan, "timestamp")],
        from_=exp.From(this=exp.to_table(table, dialect="postgres")),
    )
    if predicates := [*(each.copy() for each in scan.predicates), *within]:
        select.set("where", exp.Where(this=conjunction(predicates)))
    return select


def _within(ranges: Sequence[Range]) -> list[exp.Expr]:
    """Conditions for a time in one of the ranges: first one range around all, which indexes and partitions go by."""
    bounds = list(_bounds((ranges[0][0], ranges[-1][1])))
    if len(ranges) > 1:
        inner = [exp.Paren(this=conjunction(list(_bounds(each)))) for each in ranges]
        bounds.append(exp.Paren(this=exp.or_(*inner, copy=False, wrap=False)))
    return bounds


def _bounds(within: Range) -> Iterator[exp.Expr]:
    start, end = within
    if start > -FOREVER_MS:
        yield exp.GTE(this=_physical("timestamp"), expression=_instant(start))
    if end < FOREVER_MS:
        yield exp.LT(this=_physical("timestamp"), expression=_instant(end))


def _instant(millis: int) -> exp.Expr:
    text = to_datetime(millis).isoformat(timespec="seconds" if millis % 1000 == 0 else "milliseconds")
    return exp.cast(exp.Literal.string(text), exp.DType.TIMESTAMPTZ)


def _output(scan: Scan, name: str) -> exp.Expr:
    if name == EVENT_NAME_COLUMN and scan.has_event_name:
        text = exp.Literal.string(scan.table.name + TABLE_SUFFIX)
        return exp.alias_(exp.cast(text, exp.DType.TEXT), name, quoted=True)
    physical = _physical(scan.table.columns[name])
    return physical if physical.name == name else exp.alias_(physical, name, quoted=True)


def _physical(name: str) -> exp.Column:
    return exp.column(name, quoted=True)
