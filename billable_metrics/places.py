"""Where in the analyst's text a node of the tree was written, and errors that point there.

sqlglot keeps `start` and `end` (character offsets, inclusive) in the `meta` of names, literals and function calls,
and nothing for operators and clauses: those are placed at their leftmost descendant, or else their parent.
"""

from __future__ import annotations

from sqlglot import exp

from rollup_engine.errors import MetricError


def refuse(message: str, sql: str, node: exp.Expr) -> MetricError:
    """The error to raise for a node: message, line, column and a caret under the place."""
    return refuse_at(message, sql, offset_of(node))


def refuse_at(message: str, sql: str, offset: int | None) -> MetricError:
    """The error to raise for a character offset into the text; None where no place is known."""
    if offset is None:
        return MetricError(message, sql=sql)
    before = sql[:offset]
    return MetricError(message, line=before.count("\n") + 1, column=offset - (before.rfind("\n") + 1) + 1, sql=sql)


def offset_of(node: exp.Expr) -> int | None:
    """Offset of the first character of a node in the text it was parsed from, or None for a node made by a rule."""
    current: exp.Expr | None = node
    while current is not None:
        if isinstance(start := current.meta_get("start"), int):
            return start
        starts = [start for each in current.walk() if isinstance(start := each.meta_get("start"), int)]
        if starts:
            return min(starts)
        current = current.parent
    return None


def written(node: exp.Expr, sql: str) -> str:
    """The node's own text (a name, a literal, a function's name) as the analyst wrote it; made ones as SQL."""
    start, end = node.meta_get("start"), node.meta_get("end")
    if isinstance(start, int) and isinstance(end, int):
        return sql[start : end + 1]
    return node.sql(dialect="postgres", comments=False)
