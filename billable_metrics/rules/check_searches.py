"""Rule: what is looked for in a text is short, whole, and written out.

Looking for a long text in another takes time by the product of both lengths, and Postgres cannot be interrupted in it.
A substring from a text, instead of from a number, would be a regular expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlglot import exp

from billable_metrics.scan import Context

NEEDLE_CHARACTERS_MAX: Final = 256

_NEEDLES: Final[Mapping[type[exp.Expr], str]] = {
    exp.Like: "expression",
    exp.ILike: "expression",
    exp.Replace: "expression",
    exp.SplitPart: "delimiter",
    exp.StrPosition: "substr",
    exp.Trim: "expression",
}


def check_searches(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses other texts to look for, and patterns that can fail; makes the places of substrings numbers."""
    for node in list(tree.walk()):
        _check_needle(node, context)
        if isinstance(node, exp.Substring):
            for name in ("start", "length"):
                _make_number(node, name)
    return tree


def _make_number(node: exp.Expr, name: str) -> None:
    value = node.args.get(name)
    if value is not None and not (isinstance(value, exp.Literal) and value.is_int):
        node.set(name, exp.cast(value.copy(), exp.DType.INT))


def _check_needle(node: exp.Expr, context: Context) -> None:
    needle = node.args.get(_NEEDLES.get(type(node), ""))
    if needle is None:
        return
    text = written_text(needle.unnest(), context)
    if text is None or len(text) > NEEDLE_CHARACTERS_MAX:
        raise context.refuse(
            f"the text to look for is written out, in at most {NEEDLE_CHARACTERS_MAX} characters", node
        )
    if isinstance(node, (exp.Like, exp.ILike)):
        _check_pattern(text, node, context)


def _check_pattern(pattern: str, node: exp.Expr, context: Context) -> None:
    """Postgres finds a pattern broken only where a value fits up to its end. It also tries patterns on the table's
    statistics, so that this error would tell which values other customers have."""
    escape = "\\"
    if isinstance(node.parent, exp.Escape):
        sign = node.parent.expression
        if not (isinstance(sign, exp.Literal) and sign.is_string and len(sign.name) <= 1):
            raise context.refuse("ESCAPE is followed by one character in quotation marks", node.parent)
        escape = sign.name
    whole = pattern.replace(escape * 2, "") if escape else ""
    if escape and whole.endswith(escape):
        raise context.refuse("the pattern ends in its escape character, which needs one after it", node)


def written_text(node: exp.Expr, context: Context) -> str | None:
    """The text of a literal or a bound parameter; None for anything else."""
    if isinstance(node, exp.Cast) and node.args["to"].this is exp.DType.TEXT:  # other types may cut it
        node = node.this
    if isinstance(node, exp.Parameter):
        return str(context.params[int(node.this.name) - 1])
    return node.name if isinstance(node, exp.Literal) else None
