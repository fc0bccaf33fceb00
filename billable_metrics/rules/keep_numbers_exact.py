"""Rule: rounding works on numeric. Postgres would round a bigint as double precision, exact to 15 digits only."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from billable_metrics.scan import Context

_ROUNDING: Final = (exp.Ceil, exp.Floor, exp.Round, exp.Sign, exp.Trunc)


def keep_numbers_exact(tree: exp.Query, context: Context) -> exp.Query:
    """Casts what ceil, floor, round, sign and trunc are given to numeric."""
    for node in list(tree.find_all(*_ROUNDING)):
        if not isinstance(node.this, exp.Cast):
            node.set("this", exp.cast(node.this.copy(), exp.DType.DECIMAL))
    return tree
