"""Rule: casts go to exact, built-in types only."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.allowed import FLOATS, TYPES
from billable_metrics.scan import Context


def allow_known_types(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses other types: some look things up in the catalogue (regclass), others are not exact (double precision)."""
    for cast in tree.find_all(exp.Cast):
        kind = cast.args["to"]
        if not isinstance(kind, exp.DataType) or kind.this not in TYPES:
            text = kind.sql(dialect="postgres", comments=False).lower()
            exact = isinstance(kind, exp.DataType) and kind.this in FLOATS
            hint = "sums stay exact with numeric" if exact else f"types there are: {', '.join(_names())}"
            raise context.refuse(f"the type {text} is not part of metric SQL; {hint}", cast)
        for size in kind.expressions:
            if not (isinstance(size, exp.DataTypeParam) and size.this.is_int):
                raise context.refuse("the size of a type is a whole number", cast)
    return tree


def _names() -> list[str]:
    return sorted("numeric" if each is exp.DType.DECIMAL else each.value.lower() for each in TYPES)
