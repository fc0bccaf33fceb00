"""Rule: conditions that hold for all partials of a series or for none are applied before the latest one is taken.

Postgres itself pushes conditions into a DISTINCT ON for its own columns only (time, tuple key), so a condition on the
customer or a grouping column would otherwise be tested after every series was read. Conditions on totals stay where
they are: an older partial may satisfy what the latest does not.

A condition that can fail stays behind too where the system has added a customer: Postgres tests conditions in an order
of its own, and its error would tell of rows that are not the customer's.
"""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from billable_metrics.predicates import conjunction, conjuncts, replace_conjuncts
from billable_metrics.scan import Context, Scan, from_items

_SIMPLE: Final = frozenset(
    {
        *(exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Interval, exp.Var, exp.Paren),
        *(exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ),
        *(exp.NullSafeNEQ, exp.Is, exp.Like, exp.ILike, exp.Escape, exp.Between, exp.In, exp.Neg, exp.Add, exp.Sub),
        *(exp.Cast, exp.DataType, exp.DataTypeParam, exp.AtTimeZone, exp.TimestampTrunc, exp.Extract),
        *(exp.Parameter, exp.CurrentDate, exp.CurrentTimestamp, exp.UnixToTime, exp.Lower, exp.Upper),
    }
)
_CAN_FAIL: Final = (exp.Add, exp.Sub, exp.Neg, exp.AtTimeZone, exp.UnixToTime)
"""On a column: out of range, or no time zone of that name."""


def push_down_predicates(tree: exp.Query, context: Context) -> exp.Query:
    """Moves conjuncts of WHERE, and of ON about the joined table, into the one scan they are about."""
    for select in tree.find_all(exp.Select):
        scans = context.scans_of(select)
        where = select.args.get("where")
        if not scans:
            continue
        if where is not None:
            nullable = _nullable(select)
            certain = {alias: scan for alias, scan in scans.items() if id(scan.node) not in nullable}
            replace_conjuncts(where, _push(where.this, certain, context))
        for join in select.args.get("joins") or ():
            joined = {alias: scan for alias, scan in scans.items() if scan.node is join.this}
            if join.side in ("", "LEFT") and join.args.get("on") is not None:
                join.set("on", conjunction([part.pop() for part in _push(join.args["on"], joined, context)]))
    return tree


def _push(condition: exp.Expr, scans: dict[str, Scan], context: Context) -> list[exp.Expr]:
    """Gives each conjunct that fits to its scan; returns the others."""
    others = []
    for part in conjuncts(condition):
        scan = _target(part, scans)
        if scan is None or (context.customer is not None and _can_tell(part)):
            others.append(part)
        else:
            scan.predicates.append(_over_base_table(part, scan))
    return others


def _target(part: exp.Expr, scans: dict[str, Scan]) -> Scan | None:
    if any(type(node) not in _SIMPLE for node in part.walk()):
        return None
    if any(cast.find(exp.Column) for cast in part.find_all(exp.Cast)):
        return None  # a cast can fail on a value that a neighbouring condition was meant to keep away from it
    columns = list(part.find_all(exp.Column))
    tables = {column.table for column in columns}
    scan = scans.get(tables.pop()) if len(tables) == 1 else None
    fits = scan is not None and all(column.name in scan.table.series_columns for column in columns)
    return scan if fits else None


def _can_tell(part: exp.Expr) -> bool:
    """Whether a simple condition may raise an error for some value of its columns, or for some values to compare."""
    if any(node.find(exp.Column) for node in part.find_all(*_CAN_FAIL)) or part.find(exp.Escape):
        return True
    if any(
        not isinstance(node.args.get("zone"), (exp.Literal, type(None))) for node in part.find_all(exp.TimestampTrunc)
    ):
        return True
    patterns = [like.expression for like in part.find_all(exp.Like, exp.ILike)]
    return any("\\" in each.sql() or each.find(exp.Column, exp.Parameter) for each in patterns)


def _over_base_table(part: exp.Expr, scan: Scan) -> exp.Expr:
    moved = part.copy()
    for column in moved.find_all(exp.Column):
        scan.uses[column.name] -= 1
        column.set("table", None)
        column.this.set("this", scan.table.columns[column.name])
    return moved


def _nullable(select: exp.Select) -> set[int]:
    """Items that an outer join fills with nulls: a condition in WHERE sees those rows, one in the scan would not."""
    items = from_items(select)
    nullable: set[int] = set()
    for index, join in enumerate(select.args.get("joins") or (), start=1):
        if join.side in ("LEFT", "FULL"):
            nullable.add(id(items[index]))
        if join.side in ("RIGHT", "FULL"):
            nullable |= {id(item) for item in items[:index]}
    return nullable
