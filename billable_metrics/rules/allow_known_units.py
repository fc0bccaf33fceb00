"""Rule: units of time and intervals are on the allow-list."""

from __future__ import annotations

import re

from sqlglot import exp

from billable_metrics.allowed import UNITS
from billable_metrics.places import refuse_at
from billable_metrics.scan import Context
from rollup_engine.errors import MetricError


def allow_known_units(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses any other bare word: those are printed as they are."""
    for word in tree.find_all(exp.Var):
        name = word.name.upper()
        if not isinstance(word.parent, (exp.TimestampTrunc, exp.Extract, exp.Interval)):
            raise context.refuse(f"{word.name} is not part of metric SQL", word)
        if (name.removesuffix("S") if isinstance(word.parent, exp.Interval) else name) not in UNITS:
            raise _unknown_unit(word.name.lower(), context)
    for interval in tree.find_all(exp.Interval):
        amount, unit = interval.this, interval.args.get("unit")
        if not (isinstance(amount, exp.Literal) and amount.is_string and isinstance(unit, (exp.Var, type(None)))):
            raise context.refuse("an interval is written as INTERVAL '1 day' (seconds to years)", interval)
    for call in tree.find_all(exp.TimestampTrunc, exp.Extract):
        unit = call.args.get("unit") if isinstance(call, exp.TimestampTrunc) else call.this
        if not isinstance(unit, exp.Var):
            raise context.refuse("the unit of time is a plain word, such as 'day'", call)
    return tree


def _unknown_unit(name: str, context: Context) -> MetricError:
    """sqlglot keeps no place for units, so the word is looked up in the text."""
    found = re.search(rf"\b{re.escape(name)}", context.sql, re.IGNORECASE)
    units = ", ".join(sorted(UNITS)).lower()
    message = f"{name!r} is no unit of time; those there are: {units}"
    return refuse_at(message, context.sql, found.start() if found else None)
