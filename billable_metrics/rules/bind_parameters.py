"""Rule: the metric's own parameters become bound ones, of their type."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from billable_metrics.scan import Context

_TYPES: Final = {
    "text": exp.DType.TEXT,
    "numeric": exp.DType.DECIMAL,
    "boolean": exp.DType.BOOLEAN,
    "timestamptz": exp.DType.TIMESTAMPTZ,
}


def bind_parameters(tree: exp.Query, context: Context) -> exp.Query:
    """Replaces each `:name` by `CAST($n AS type)`. The parser has let through known names only."""
    for node in list(tree.find_all(exp.Placeholder)):
        if node.arg_key in ("alias", "using") or isinstance(node.parent, exp.TableAlias):
            raise context.refuse("a parameter is a value; it cannot name a column or table", node)
        sql_type, value = context.parameters[node.name]
        node.replace(exp.cast(context.parameter(value), _TYPES[sql_type.lower()]))
    return tree
