"""Which table a column name means: PostgreSQL's rules of scope, over names that match without regard to case.

Owns: sources, levels and the search through them. Must never change the tree. Names are as `normalize_names` leaves
them. Rules: PostgreSQL manual, "SELECT", sections GROUP BY, ORDER BY and LATERAL (which metric SQL does not have: a
subquery in FROM sees the outer query's tables, never its neighbours').
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from billable_metrics.places import written
from billable_metrics.scan import Scan
from rollup_engine.config.naming import column_name

Outputs = tuple[str | None, ...]
"""A query's column names, left to right; None for one without a name of its own."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something a SELECT reads: its name there and its columns. `scan` is None for subqueries and WITH."""

    name: str
    columns: Outputs
    scan: Scan | None = None

    def find(self, name: str) -> str | None:
        """The column meant by a name, or None. For derived columns an exact match goes before one without case."""
        if self.scan is not None:
            return self.scan.column(name)
        if name in self.columns:
            return name
        like = {each for each in self.columns if each is not None and column_name(each) == column_name(name)}
        return like.pop() if len(like) == 1 else None


@dataclass(frozen=True, slots=True)
class Scope:
    """One SELECT's sources, and the SELECT around it. `merged`: columns its joins join USING -> the sources joined."""

    sources: Sequence[Source]
    outer: Scope | None = None
    merged: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def levels(self) -> Iterator[Scope]:
        """This scope and those around it, from the inside out."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def source(self, name: str) -> Source | None:
        """The nearest source of that name."""
        return next((each for scope in self.levels() for each in scope.sources if each.name == name), None)

    def matches(self, name: str) -> list[tuple[Source, str]]:
        """The sources that have the column, and its name there: those of the nearest level that has any."""
        for scope in self.levels():
            found = [(source, column) for source in scope.sources if (column := source.find(name)) is not None]
            if found:
                return found
        return []


def own_nodes(root: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes below a clause, root included, without those inside nested queries; of these, only the query itself."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, exp.Query):
            stack += reversed(list(node.iter_expressions()))


def renamed(columns: Outputs, alias: exp.Expr | None) -> Outputs:
    """The names after `AS t(a, b)`, which renames from the left."""
    names = [each.name for each in alias.args.get("columns") or ()] if alias is not None else []
    return (*names, *columns[len(names) :])


def function_name(projection: exp.Expr, sql: str) -> str | None:
    """The name Postgres gives to an output that is a function call: the function's, as the analyst wrote it."""
    call = projection
    while isinstance(call, (exp.Paren, exp.Cast, exp.Window, exp.Filter, exp.WithinGroup)):
        call = call.this
    is_call = isinstance(call, exp.Func) and call.meta_get("start") is not None
    return written(call, sql).strip('"').lower() if is_call else None


def clauses(select: exp.Select) -> Iterator[exp.Expr]:
    """All of a SELECT that holds expressions, but for its outputs: ON of its joins too."""
    for name in ("distinct", "where", "group", "having", "order", "limit", "offset"):
        if (clause := select.args.get(name)) is not None:
            yield clause
    yield from select.args.get("windows") or ()
    for join in select.args.get("joins") or ():
        if (condition := join.args.get("on")) is not None:
            yield condition
