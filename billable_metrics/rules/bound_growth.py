"""Rule: no value, expression or join of a metric grows beyond a small multiple of what is written.

Postgres cannot be interrupted within one operation, and computes values of up to 1 GB: doubling a text or squaring a
number thirty times over in nested subqueries would hold a processor and gigabytes for minutes past any timeout (on
PostgreSQL 18: looking for 1 MB of text within 4 MB takes over a minute, and ends neither by cancelling nor by
terminating). Subqueries that repeat a column of theirs also make Postgres's planner write the expression out each
time. So sizes are added up here, before anything runs, as if every name stood for the text it means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

from sqlglot import exp

from billable_metrics.rules.check_searches import written_text
from billable_metrics.scan import Context, from_items
from billable_metrics.scopes import clauses, own_nodes

GROWTH_MAX: Final = 256
NODES_MAX: Final = 20_000
PRODUCTS_MAX: Final = 500
TABLES_MAX: Final = 200
UNIT_CHARACTERS: Final = 64
"""So many digits or characters count as one value. A rollup's own columns do too, whatever is in them: a sum has at
most a few dozen digits, a text at most 64 KiB."""

_TOO_BIG: Final = GROWTH_MAX + 1


@dataclass(frozen=True, slots=True)
class Size:
    """`growth`: how many plain values a value can be as long as. `nodes`, `products`: of its expression, written out;
    products take time by the square of the length. `tables`: how many are read for it, written out."""

    growth: int = 1
    nodes: int = 1
    products: int = 0
    tables: int = 0

    def either(self, other: Size) -> Size:
        """The size of two values of which one is taken."""
        return Size(*(max(pair) for pair in zip(self._all(), other._all(), strict=True)))

    def _all(self) -> tuple[int, ...]:
        return self.growth, self.nodes, self.products, self.tables


Names = Mapping[str, Size]


def bound_growth(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses what grows too large, naming the place."""
    _Measuring(context).query(tree, {}, {})
    return tree


class _Measuring:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._scans = {id(scan.node) for scan in context.scans}

    def query(self, query: exp.Query, outer: Names, withs: Names) -> Size:
        """The largest of a query's outputs, and all the tables it reads."""
        own = query.args.get("with_")
        for cte in own.expressions if own is not None else ():
            withs = {**withs, cte.alias: self.query(cte.this, outer, withs)}
        if isinstance(query, exp.SetOperation):
            left, right = (self.query(part, outer, withs) for part in (query.this, query.expression))
            return self._checked(_with_tables(left.either(right), left.tables + right.tables), query)
        if not isinstance(query, exp.Select):
            return self.query(query.this, outer, withs)
        sources = {item.alias_or_name: self._source(item, outer, withs) for item in from_items(query)}
        names = {**outer, **{name: _with_tables(size, 0) for name, size in sources.items()}}
        outputs = [self._value(each, names, withs) for each in query.expressions]
        others = [self._value(clause, names, withs) for clause in clauses(query)]
        tables = sum(each.tables for each in (*sources.values(), *outputs, *others))
        return self._checked(_with_tables(reduce(Size.either, outputs, Size()), tables), query)

    def _source(self, item: exp.Expr, outer: Names, withs: Names) -> Size:
        if id(item) in self._scans:
            return Size(tables=1)
        return withs[item.name] if isinstance(item, exp.Table) else self.query(item.this, outer, withs)

    def _value(self, root: exp.Expr, names: Names, withs: Names) -> Size:
        sizes: dict[int, Size] = {}
        for node in reversed(list(own_nodes(root))):
            if isinstance(node, exp.Query):
                size = self.query(node, names, withs)
            elif isinstance(node, exp.Column):
                everything = reduce(Size.either, names.values(), Size())
                size = names.get(node.table, everything) if node.table else everything
            else:
                size = _combined(node, [sizes[id(child)] for child in node.iter_expressions()], self._context)
            sizes[id(node)] = self._checked(size, node)
        return sizes[id(root)]

    def _checked(self, size: Size, node: exp.Expr) -> Size:
        if size.growth > GROWTH_MAX:
            raise self._context.refuse("a text or number gets too long here", node)
        if size.nodes > NODES_MAX or size.products > PRODUCTS_MAX:
            raise self._context.refuse("with all names written out, this expression gets too long", node)
        if size.tables > TABLES_MAX:
            raise self._context.refuse(f"with all names written out, more than {TABLES_MAX} tables are read", node)
        return size


def _with_tables(size: Size, tables: int) -> Size:
    return Size(size.growth, size.nodes, size.products, tables)


def _combined(node: exp.Expr, parts: list[Size], context: Context) -> Size:
    growth = _GROWTH.get(type(node), _as_the_longest)(node, [part.growth for part in parts], context)
    products = isinstance(node, (exp.Mul, exp.Div, exp.Mod)) + sum(part.products for part in parts)
    return Size(growth, 1 + sum(part.nodes for part in parts), products, sum(part.tables for part in parts))


_Growth = Callable[[exp.Expr, list[int], Context], int]


def _as_the_longest(node: exp.Expr, parts: list[int], context: Context) -> int:
    return max(parts, default=1)


def _as_all_together(node: exp.Expr, parts: list[int], context: Context) -> int:
    return sum(parts)


def _literal(node: exp.Expr, parts: list[int], context: Context) -> int:
    """`1e9999` has ten thousand digits."""
    power = node.name.lower().partition("e")[2].lstrip("+-") if not node.args.get("is_string") else ""
    return max(1, (len(node.name) + (int(power) if power.isdecimal() else 0)) // UNIT_CHARACTERS)


def _parameter(node: exp.Expr, parts: list[int], context: Context) -> int:
    return max(1, len(str(context.params[int(node.this.name) - 1])) // UNIT_CHARACTERS)


def _replace(node: exp.Expr, parts: list[int], context: Context) -> int:
    """Every occurrence may grow from the text looked for to the one put in its place."""
    found, put = written_text(node.expression, context), node.args.get("replacement")
    text = written_text(put.unnest(), context) if put is not None else ""
    if text is None:
        return _TOO_BIG
    return parts[0] * max(1, -(-len(text) // max(1, len(found or ""))))


def _rounded(node: exp.Expr, parts: list[int], context: Context) -> int:
    decimals = node.args.get("decimals")
    if decimals is None:
        return parts[0]
    digits = decimals.this if isinstance(decimals, exp.Neg) else decimals
    return parts[0] + (int(digits.name) // UNIT_CHARACTERS if _is_int(digits) else _TOO_BIG)


def _cast(node: exp.Expr, parts: list[int], context: Context) -> int:
    sizes = [int(size.this.name) for size in node.args["to"].expressions if node.args["to"].this is exp.DType.DECIMAL]
    return max(*parts, *(size // UNIT_CHARACTERS for size in sizes))


def _is_int(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.is_int and len(node.name) < 10


_GROWTH: Final[Mapping[type[exp.Expr], _Growth]] = {
    exp.Mul: _as_all_together,
    exp.Div: _as_all_together,
    exp.DPipe: _as_all_together,
    exp.Concat: _as_all_together,
    exp.Literal: _literal,
    exp.Parameter: _parameter,
    exp.Replace: _replace,
    exp.Round: _rounded,
    exp.Trunc: _rounded,
    exp.Cast: _cast,
}
