"""Conditions as lists of conjuncts: taking an AND apart and putting it together again."""

from __future__ import annotations

from sqlglot import exp


def conjuncts(condition: exp.Expr) -> list[exp.Expr]:
    """The conditions that all have to hold, left to right."""
    parts: list[exp.Expr] = []
    stack = [condition]
    while stack:
        part = stack.pop()
        inner = part.unnest()
        if isinstance(inner, exp.And):
            stack += (inner.expression, inner.this)
        else:
            parts.append(part)
    return parts


def conjunction(parts: list[exp.Expr]) -> exp.Expr:
    """The parts joined by AND; TRUE for none. An OR among them keeps to itself: it binds less tightly than AND."""
    closed = [exp.Paren(this=part) if isinstance(part, exp.Or) else part for part in parts]
    if not closed:
        return exp.true()
    whole = closed[0]
    for part in closed[1:]:
        whole = exp.And(this=whole, expression=part)
    return whole


def replace_conjuncts(where: exp.Expr, parts: list[exp.Expr]) -> None:
    """Leaves a WHERE with these parts of its condition; without any, takes the WHERE away."""
    if parts:
        where.set("this", conjunction([part.pop() for part in parts]))
    else:
        where.pop()
