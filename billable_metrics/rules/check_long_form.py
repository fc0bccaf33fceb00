"""Rule: `FROM events` is one group per window and tuple, and takes of each the latest partial.

The long form spells out by hand what AGGREGATED_EVENTS does. Grouping by less would add up, or lose, whole tuples
without a word; another aggregate than the latest would count a window once for every partial.
"""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from billable_metrics.catalog import CUSTOMER_COLUMN, TIME_COLUMNS
from billable_metrics.predicates import conjuncts
from billable_metrics.scan import EVENT_NAME_COLUMN, Context, Scan
from billable_metrics.scopes import own_nodes

_WRITTEN: Final[dict[type[exp.Expr], str]] = {exp.Max: "MAX", exp.Min: "MIN"}


def check_long_form(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses a long form that leaves a grouping column open, naming those, or aggregates otherwise than by latest."""
    for scan in context.scans:
        if scan.long_form:
            select = scan.node.parent_select
            assert isinstance(select, exp.Select), select
            _check_table(scan, context)
            _check_grouping(scan, select, context)
            _check_aggregates(scan, select, context)
    return tree


def _check_table(scan: Scan, context: Context) -> None:
    if not scan.has_event_name:
        raise context.refuse(
            f"{scan.table.name!r} has its own column {EVENT_NAME_COLUMN}; use AGGREGATED_EVENTS('{scan.table.name}')",
            scan.node,
        )


def _check_grouping(scan: Scan, select: exp.Select, context: Context) -> None:
    settled = _fixed(scan, select) | _grouped(scan, select)
    if context.customer is not None or context.cells is not None:
        settled.add(CUSTOMER_COLUMN)
    missing = [column for column in scan.table.group_columns if column not in settled]
    if not settled.intersection(TIME_COLUMNS):
        missing.insert(0, TIME_COLUMNS[-1])
    if missing:
        raise context.refuse(
            f"{', '.join(missing)} missing: FROM events has one total per window and tuple, so group by every "
            "grouping column, or fix it with = in WHERE",
            scan.node,
        )


def _fixed(scan: Scan, select: exp.Select) -> set[str]:
    where = select.args.get("where")
    fixed = set()
    for part in conjuncts(where.this) if where is not None else []:
        condition = part.unnest()
        if not isinstance(condition, (exp.EQ, exp.Is)) or condition.args.get("negate"):
            continue
        left, right = condition.this, condition.expression
        if isinstance(right, exp.Column):
            left, right = right, left
        constant = isinstance(right, exp.Null) if isinstance(condition, exp.Is) else _is_constant(right)
        if constant and _is_of(scan, left):
            fixed.add(left.name)
    return fixed


def _is_constant(node: exp.Expr) -> bool:
    return isinstance(node.this if isinstance(node, exp.Cast) else node, (exp.Literal, exp.Parameter))


def _grouped(scan: Scan, select: exp.Select) -> set[str]:
    group = select.args.get("group")
    grouped = set()
    for item in group.expressions if group is not None else ():
        expression = item.unnest()
        if isinstance(expression, exp.Literal) and expression.is_int:
            position = int(expression.name)
            expression = select.expressions[position - 1] if 1 <= position <= len(select.expressions) else expression
        elif isinstance(expression, exp.Column) and not expression.table:
            names = {output.alias_or_name: output for output in select.expressions}
            expression = names.get(expression.name, expression)
        expression = expression.unalias()
        if _is_of(scan, expression):
            grouped.add(expression.name)
    return grouped


def _check_aggregates(scan: Scan, select: exp.Select, context: Context) -> None:
    clauses = [*select.expressions, *(select.args[name] for name in ("having", "order") if select.args.get(name))]
    for node in (node for clause in clauses for node in own_nodes(clause)):
        if not isinstance(node, exp.AggFunc) or _is_windowed(node):
            continue
        columns = {column.name for column in node.find_all(exp.Column) if _is_of(scan, column)}
        totals = {column: scan.table.latest_by[column] for column in columns if column in scan.table.latest_by}
        right: set[str] = {*totals.values()} or {*_WRITTEN.values()}
        if _WRITTEN.get(type(node)) not in right:
            raise context.refuse(
                f"FROM events holds several partials of a window: take the latest with {' or '.join(sorted(right))} "
                f"and add up outside, or use AGGREGATED_EVENTS('{scan.table.name}')",
                node,
            )


def _is_windowed(node: exp.Expr) -> bool:
    """A window function runs over the groups, so it may add them up."""
    parent = node.parent
    while isinstance(parent, (exp.Filter, exp.WithinGroup)):
        parent = parent.parent
    return isinstance(parent, exp.Window)


def _is_of(scan: Scan, node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and node.table == scan.alias
