"""Rule: EARLIEST_BY(value, time) and LATEST_BY(value, time) become the first element of an ordered array_agg.

They mean what they mean in Orb: the value in the row of the least or greatest time. Rows without a time do not count;
of several rows at that time the greatest value is taken, so that the answer is always the same one.
"""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.allowed import BY_TIME
from billable_metrics.scan import Context


def expand_by_time(tree: exp.Query, context: Context) -> exp.Query:
    """Replaces both functions. The output's name stays that of the function."""
    for call in [node for node in tree.find_all(exp.Anonymous) if node.name.lower() in BY_TIME]:
        name = call.name.lower()
        value, time = (each.copy() for each in call.expressions)
        has_time: exp.Expr = exp.Not(this=exp.Is(this=_closed(time), expression=exp.Null()))
        ordered = exp.Order(
            this=value,
            expressions=[
                exp.Ordered(this=time, desc=name == "latest_by", nulls_first=name == "latest_by"),
                exp.Ordered(this=value.copy(), desc=True, nulls_first=False),
            ],
        )
        whole: exp.Expr = call
        if isinstance(call.parent, exp.Filter):
            whole = call.parent
            has_time = exp.And(this=has_time, expression=_closed(whole.expression.this))
        values = exp.Filter(this=exp.ArrayAgg(this=ordered), expression=exp.Where(this=has_time))
        # sqlglot counts elements from 0 and prints them as Postgres does, from 1.
        first = exp.Bracket(this=exp.Paren(this=values), expressions=[exp.Literal.number(0)])
        output = _output(whole)
        whole.replace(first)
        if output is not None:
            target = first if output is whole else output
            target.replace(exp.alias_(target.copy(), name, quoted=True))
    return tree


def _closed(part: exp.Expr) -> exp.Expr:
    return part.copy() if isinstance(part, exp.Column) else exp.Paren(this=part.copy())


def _output(call: exp.Expr) -> exp.Expr | None:
    """The SELECT's output that the call, perhaps in a cast or parentheses, is; None if it is only part of one."""
    output = call
    while isinstance(output.parent, (exp.Cast, exp.Paren)):
        output = output.parent
    return output if isinstance(output.parent, exp.Select) and output.arg_key == "expressions" else None
