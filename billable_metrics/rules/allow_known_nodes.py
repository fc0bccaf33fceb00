"""Rule: every node, and every argument of a clause, is on the allow-list."""

from __future__ import annotations

import re
from typing import Final

from sqlglot import exp

from billable_metrics.allowed import JOIN_KINDS, JOIN_SIDES, NODES
from billable_metrics.places import written
from billable_metrics.scan import Context

IDENTIFIER_BYTES_MAX: Final = 63
"""Postgres cuts longer names, so that two different ones could become the same."""

_AROUND_QUERIES = (exp.Subquery, exp.CTE, exp.SetOperation, exp.Exists, type(None))
_KEYWORDS = re.compile(r"[A-Za-z]+( [A-Za-z]+)*")

_NAMED: Final[dict[str, str]] = {
    "into": "SELECT INTO",
    "locks": "a locking clause (FOR UPDATE, FOR SHARE)",
    "recursive": "WITH RECURSIVE",
    "db": "a schema-qualified table",
    "catalog": "a schema-qualified table",
    "sample": "TABLESAMPLE",
    "ordinality": "WITH ORDINALITY",
    "only": "ONLY",
    "method": "a NATURAL or ASOF join (name the columns with ON or USING)",
    "laterals": "LATERAL",
    "grouping_sets": "GROUPING SETS",
    "cube": "CUBE",
    "rollup": "ROLLUP",
    "placeholder": "a parameter",
    "parameter": "a parameter",
    "lock": "a locking clause (FOR UPDATE, FOR SHARE)",
    "values": "VALUES",
    "bracket": "an array subscript",
    "dot": "a schema-qualified function or a field of a row",
}


def allow_known_nodes(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses node classes and arguments that are not listed; functions are left to their own rule."""
    for node in tree.walk():
        if node.error_messages():
            raise context.refuse("something is missing, or is too much, here", node)
        allowed = NODES.get(type(node))
        if allowed is None:
            if isinstance(node, exp.Func):
                continue
            raise context.refuse(f"{_what(node.key)} is not part of metric SQL", node)
        for name, value in node.args.items():
            if name not in allowed and value not in (None, False, []):
                raise context.refuse(f"{_what(name)} is not part of metric SQL", node)
        _check_texts(node, context)
        _check_place(node, context)
    return tree


def _what(key: str) -> str:
    return _NAMED.get(key, key.rstrip("_").replace("_", " ").upper())


def _check_place(node: exp.Expr, context: Context) -> None:
    """sqlglot reads more than PostgreSQL's grammar has: a query stands in parentheses, and only tables after FROM."""
    if isinstance(node, (exp.From, exp.Join)) and not isinstance(node.this, (exp.Table, exp.Subquery)):
        raise context.refuse("a table or a subquery in parentheses stands after FROM and JOIN", node)
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
        raise context.refuse("joins in parentheses are not part of metric SQL; write them without", node)
    if isinstance(node, (exp.Subquery, exp.CTE, exp.SetOperation)):
        parts = (node.this, node.expression) if isinstance(node, exp.SetOperation) else (node.this,)
        if not all(isinstance(part, exp.Query) for part in parts):
            raise context.refuse("a SELECT is missing here", node)
    if isinstance(node, (exp.Select, exp.SetOperation)) and not isinstance(node.parent, _AROUND_QUERIES):
        raise context.refuse("a query inside another one stands in parentheses", node)
    if isinstance(node, exp.Select) and not node.expressions:
        raise context.refuse("the SELECT names no output", node)
    if isinstance(node, exp.Select) and node.args.get("joins") and not node.args.get("from_"):
        raise context.refuse("a JOIN needs a FROM before it", node)


def _check_texts(node: exp.Expr, context: Context) -> None:
    """sqlglot keeps some keywords as bare text and prints them as they are: only words pass, and only known joins."""
    if isinstance(node, exp.Identifier):
        if not 1 <= len(node.name.encode()) <= IDENTIFIER_BYTES_MAX:
            raise context.refuse(f"a name has 1 to {IDENTIFIER_BYTES_MAX} bytes", node)
        return
    if isinstance(node, (exp.Literal, exp.Placeholder)):  # a parameter of the metric: the parser knows its name
        return
    for value in node.args.values():
        if isinstance(value, str) and not _KEYWORDS.fullmatch(value):
            raise context.refuse(f"{written(node, context.sql)} is not part of metric SQL", node)
    if isinstance(node, exp.Join) and not (node.side in JOIN_SIDES and node.kind in JOIN_KINDS):
        raise context.refuse(f"a {node.side or node.kind} join is not part of metric SQL", node)
