"""Whether catalogue metrics can be evaluated: their SQL is metric SQL over these rollups and gives one number.

Owns: those checks, and where in the YAML file a place of the SQL is. Must never need a database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sqlglot import exp

from billable_metrics.catalog import Catalog
from billable_metrics.metric import Metric, Metrics
from billable_metrics.parameters import bound, sample_values
from billable_metrics.parse import parse_statement
from billable_metrics.places import refuse
from billable_metrics.rewriter import rewrite
from billable_metrics.scan import from_items
from billable_metrics.scopes import own_nodes
from rollup_engine.errors import MetricError, Problem

_BY_TIME: Final = frozenset({"earliest_by", "latest_by"})


def check_metrics(metrics: Metrics, catalog: Catalog) -> list[Problem]:
    """Every metric that cannot be evaluated over the catalog's rollups, each with its place in its file."""
    return [problem for metric in metrics.values() for problem in _problems(metric, catalog)]


def _problems(metric: Metric, catalog: Catalog) -> Iterator[Problem]:
    values = bound(metric.parameters, sample_values(metric.parameters))
    try:
        tree = parse_statement(metric.sql, values)
        used = {node.name for node in tree.find_all(exp.Placeholder)}
        rewrite(metric.sql, catalog, customer="", parameters=values)
        _check_one_number(tree, metric.sql)
    except MetricError as error:
        line, column = metric.sql_place.in_file(error.line, error.column)
        yield Problem(metric.file, line, column, error.message.rstrip("."))
        return
    for name in metric.parameters.keys() - used:
        yield Problem(metric.file, metric.line, None, f"the parameter '{name}' is not used", f"Write :{name} in 'sql'.")


def _check_one_number(tree: exp.Query, sql: str) -> None:
    while isinstance(tree, exp.Subquery):
        tree = tree.this
    if not isinstance(tree, exp.Select):
        raise refuse("a metric gives one number; this joins the rows of several SELECTs", sql, tree)
    first, *others = tree.expressions
    if others:
        raise refuse("a metric gives one number, and this is a second column", sql, others[0])
    if isinstance(first.unalias(), (exp.Star, exp.Column)) and first.unalias().find(exp.Star):
        raise refuse("a metric gives one number; write SUM(…), COUNT(*) or the like in place of *", sql, first)
    if (group := tree.args.get("group")) is not None:
        raise refuse(
            "a metric gives one number, and GROUP BY gives one a group; group inside a subquery, or ask for usage by"
            " group_by",
            sql,
            group,
        )
    if not _gives_one_row(tree, {}):
        raise refuse(
            "a metric gives one number, and this gives one a row; aggregate it, as SUM(…) does, or take one row with"
            " ORDER BY … LIMIT 1",
            sql,
            first,
        )


def _gives_one_row(query: exp.Expr, withs: Mapping[str, exp.Expr]) -> bool:
    """Whether a query can be seen to give at most one row. `withs`: what names in its FROM stand for."""
    if isinstance(query, exp.Subquery):
        return _gives_one_row(query.this, withs)
    if not isinstance(query, exp.Select):
        return False
    own = query.args.get("with_")
    withs = {**withs, **{cte.alias.lower(): cte.this for cte in (own.expressions if own is not None else ())}}
    if _is_one(query.args.get("limit")):
        return True
    if query.args.get("group") is not None:
        return False
    if any(map(_has_aggregate, query.expressions)):
        return True
    return all(_gives_one_row(withs.get(item.name.lower(), item), _others(withs, item)) for item in from_items(query))


def _others(withs: Mapping[str, exp.Expr], item: exp.Expr) -> Mapping[str, exp.Expr]:
    """A name in what it stands for means something else."""
    return {name: query for name, query in withs.items() if name != item.name.lower()}


def _has_aggregate(projection: exp.Expr) -> bool:
    return any(_is_aggregate(node) and not _is_windowed(node) for node in own_nodes(projection))


def _is_aggregate(node: exp.Expr) -> bool:
    by_time = isinstance(node, exp.Anonymous) and node.name.lower() in _BY_TIME
    return by_time or isinstance(node, exp.AggFunc)


def _is_windowed(node: exp.Expr) -> bool:
    parent = node.parent
    while isinstance(parent, (exp.Filter, exp.WithinGroup)):
        parent = parent.parent
    return isinstance(parent, exp.Window) and parent.this is not None and node in parent.this.walk()


def _is_one(limit: exp.Expr | None) -> bool:
    return limit is not None and isinstance(limit.expression, exp.Literal) and limit.expression.name == "1"
