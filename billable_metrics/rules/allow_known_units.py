"""Rule: units of time and intervals are on the allow-list."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.allowed import INTERVAL_TEXT, UNITS
from billable_metrics.places import written
from billable_metrics.scan import Context


def allow_known_units(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses any other bare word, and intervals that sqlglot would print differently from how it read them."""
    for node in tree.find_all(exp.Var, exp.Interval):
        if isinstance(node, exp.Interval):
            _check_interval(node, context)
        elif isinstance(node.parent, (exp.TimestampTrunc, exp.Extract)):
            if node.name.upper() not in UNITS:
                units = ", ".join(sorted(UNITS)).lower()
                raise context.refuse(f"{node.name!r} is no unit of time; those there are: {units}", node)
        elif not isinstance(node.parent, exp.Interval):
            raise context.refuse(f"{node.name} is not part of metric SQL", node)
    for node in tree.find_all(exp.TimestampTrunc, exp.Extract):
        unit = node.args.get("unit") if isinstance(node, exp.TimestampTrunc) else node.this
        if not isinstance(unit, exp.Var):
            raise context.refuse("the unit of time is a plain word, such as 'day'", node)
    return tree


def _check_interval(node: exp.Interval, context: Context) -> None:
    amount = node.this
    text = written(amount, context.sql)[1:-1] if isinstance(amount, exp.Literal) and amount.is_string else ""
    if not INTERVAL_TEXT.fullmatch(text):
        raise context.refuse("an interval is written as INTERVAL '1 day' (seconds to years)", node)
