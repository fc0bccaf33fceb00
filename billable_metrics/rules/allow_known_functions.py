"""Rule: every function is on the allow-list."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.allowed import BY_TIME, FUNCTION_NODES, FUNCTIONS, NODES
from billable_metrics.catalog import nearest
from billable_metrics.places import written
from billable_metrics.rules.find_scans import SCAN_FUNCTION
from billable_metrics.scan import Context

_NO_VALUES = (exp.Distinct, exp.Star, exp.Order, exp.Limit)


def allow_known_functions(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses functions that are not listed, and listed ones in sqlglot's spelling for other databases."""
    for node in tree.find_all(exp.Func):
        if type(node) in NODES and not _is_if_function(node):
            continue
        if isinstance(node, exp.Anonymous) and node.name.lower() == SCAN_FUNCTION:
            if not isinstance(node.parent, exp.Table):
                raise context.refuse("AGGREGATED_EVENTS('…') is a table: it stands after FROM or JOIN", node)
            continue
        if isinstance(node, exp.Anonymous) and node.name.lower() in BY_TIME:
            _check_by_time(node, context)
            continue
        if type(node) not in FUNCTION_NODES or not _is_listed(node, context):
            raise _refused(node, context)
    return tree


def _check_by_time(node: exp.Anonymous, context: Context) -> None:
    name = node.name.upper()
    if len(node.expressions) != 2 or any(isinstance(each, _NO_VALUES) for each in node.expressions):
        raise context.refuse(f"{name} takes a value and a time: {name}(sum_x, timestamp)", node)
    if any(each.name.lower() in BY_TIME for each in node.find_all(exp.Anonymous) if each is not node):
        raise context.refuse(f"{name} is an aggregate and holds no other one; take the inner one in a subquery", node)
    call = node.parent.parent if isinstance(node.parent, exp.Filter) else node.parent
    if isinstance(call, (exp.Window, exp.WithinGroup)):
        raise context.refuse(f"{name} is an aggregate and takes no OVER; use FIRST_VALUE or LAST_VALUE", node)


def _is_if_function(node: exp.Expr) -> bool:
    return isinstance(node, exp.If) and not isinstance(node.parent, exp.Case)


def _is_listed(node: exp.Expr, context: Context) -> bool:
    if node.meta_get("start") is None:  # an operator or a syntax of its own, such as EXTRACT(… FROM …)
        return True
    return _name(node, context) in FUNCTIONS


def _name(node: exp.Expr, context: Context) -> str:
    return written(node, context.sql).strip('"').lower()


def _refused(node: exp.Expr, context: Context) -> Exception:
    name = _name(node, context) if node.meta_get("start") is not None else node.key
    hint = f" Did you mean {close}?" if (close := nearest(name, (*FUNCTIONS, *BY_TIME))) else ""
    return context.refuse(f"the function {name} is not part of metric SQL.{hint} {_allowed()}", node)


def _allowed() -> str:
    return f"Functions there are: {', '.join(sorted((*FUNCTIONS, *BY_TIME)))}"
