"""Rule: a pushed comparison of timestamp_millis becomes one of timestamp, which the index and partitions are by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlglot import exp

from billable_metrics.scan import COLUMN_META, Context

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARISONS: Final = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between)


def restate_millis(tree: exp.Query, context: Context) -> exp.Query:
    """Restates the comparisons among the scans' predicates. Both columns are the window's start, so nothing changes."""
    for scan in context.scans:
        names = scan.table.columns["timestamp"], scan.table.columns["timestamp_millis"]
        scan.predicates = [_restated(predicate, *names) for predicate in scan.predicates]
    return tree


def _restated(predicate: exp.Expr, timestamp: str, millis: str) -> exp.Expr:
    for node in list(predicate.find_all(*_COMPARISONS)):
        operands = [value for value in node.args.values() if isinstance(value, exp.Expr)]
        columns = [each for each in operands if isinstance(each, exp.Column) and each.name == millis]
        numbers = [each for each in operands if each not in columns]
        instants = [_instant(each) for each in numbers]
        if len(columns) != 1 or not all(instants):
            continue
        columns[0].this.set("this", timestamp)
        columns[0].meta[COLUMN_META] = "timestamp"
        for number, instant in zip(numbers, instants, strict=True):
            number.replace(exp.cast(exp.Literal.string(instant), exp.DType.TIMESTAMPTZ))
    return predicate


def _instant(number: exp.Expr) -> str | None:
    if not isinstance(number, exp.Literal) or not number.is_int:
        return None
    try:
        return (_EPOCH + timedelta(milliseconds=int(number.name))).isoformat(timespec="milliseconds")
    except OverflowError:
        return None  # beyond the years a datetime has: compared as it is
