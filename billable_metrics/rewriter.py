"""Metric SQL in, one safe SELECT over the partial rollups out.

Owns: the order of steps (read, apply each rule, print). Must never paste a value into SQL: the customer, the period
and the metric's own parameters are bound, and all text printed comes from a tree whose every node passed the
allow-lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ErrorLevel

from billable_metrics.catalog import Catalog
from billable_metrics.parse import parse_statement
from billable_metrics.rules import RULES
from billable_metrics.scan import Context
from rollup_engine.errors import MetricError


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A statement for Postgres, and the values of its parameters `$1`, `$2`, …

    `notes`: for each scan one line, which tables it reads and why.
    """

    sql: str
    params: list[object]
    notes: list[str] = field(default_factory=list)


def rewrite(
    sql: str,
    catalog: Catalog,
    *,
    customer: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    cells: Any = None,
    parameters: Mapping[str, tuple[str, object]] | None = None,
) -> Rewritten:
    """The metric as a statement that counts each window once, at its latest partial.

    `customer`, `start` (inclusive) and `end` (exclusive; both aware) restrict every scan in it to that customer and
    to windows that start in the period. With `cells`, which restrict each scan further, `start` and `end` are the
    earliest start and the latest end of a cell. `parameters`, name -> (SQL type, value), is what `:name` in the
    metric stands for. Raises MetricError, which names the place, for what is not metric SQL.
    """
    _check_period(start, end)
    parameters = parameters or {}
    tree = parse_statement(sql, parameters)
    context = Context(
        sql=sql, catalog=catalog, customer=customer, start=start, end=end, cells=cells, parameters=parameters
    )
    context.edges += [edge for edge in (start, end) if edge is not None]
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
    return Rewritten(sql=text, params=context.params, notes=context.notes)


def _check_period(start: datetime | None, end: datetime | None) -> None:
    for name, edge in (("start", start), ("end", end)):
        if edge is not None and edge.tzinfo is None:
            raise MetricError(f"the period's {name} {edge.isoformat()} has no time zone; give it an offset")
    if start is not None and end is not None and start >= end:
        raise MetricError(f"the period's start {start.isoformat()} is not before its end {end.isoformat()}")
