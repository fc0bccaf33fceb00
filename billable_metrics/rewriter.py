"""Metric SQL in, one safe SELECT over the partial rollups out.

Owns: the order of steps (read, apply each rule, print). Must never paste a value into SQL: the customer and the
period are bound parameters, and all text printed comes from a tree whose every node passed the allow-lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ErrorLevel

from billable_metrics.catalog import Catalog
from billable_metrics.parse import parse_statement
from billable_metrics.rules import RULES
from billable_metrics.scan import Context
from rollup_engine.errors import MetricError


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A statement for Postgres, and the values of its parameters `$1`, `$2`, …"""

    sql: str
    params: list[object]


def rewrite(
    sql: str,
    catalog: Catalog,
    *,
    customer: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Rewritten:
    """The metric as a statement that counts each window once, at its latest partial.

    `customer`, `start` (inclusive) and `end` (exclusive; both aware) restrict every scan in it to that customer and
    to windows that start in the period. Raises MetricError, which names the place, for what is not metric SQL.
    """
    _check_period(start, end)
    tree = parse_statement(sql)
    context = Context(sql=sql, catalog=catalog, customer=customer, start=start, end=end)
    try:
        for rule in RULES:
            tree = rule(tree, context)
        # Quoting every name keeps one that is also a keyword (user, session_user) from meaning the keyword. Where text
        # holds the mark that sqlglot puts in place of its line breaks, laying the SQL out would change that text.
        text = tree.sql(
            dialect=Postgres(),
            identify=True,
            pretty=Postgres.Generator.SENTINEL_LINE_BREAK not in sql,
            comments=False,
            unsupported_level=ErrorLevel.RAISE,
        )
    except RecursionError as error:
        raise MetricError("the metric is nested too deeply; take parts of it out into WITH", sql=sql) from error
    return Rewritten(sql=text, params=context.params)


def _check_period(start: datetime | None, end: datetime | None) -> None:
    for name, edge in (("start", start), ("end", end)):
        if edge is not None and edge.tzinfo is None:
            raise MetricError(f"the period's {name} {edge.isoformat()} has no time zone; give it an offset")
    if start is not None and end is not None and start >= end:
        raise MetricError(f"the period's start {start.isoformat()} is not before its end {end.isoformat()}")
