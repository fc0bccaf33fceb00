"""Whether a query gives the same answer over coarser rows: those that hold the totals of many windows at once.

Owns: the proof. Must never let through what it does not know: every use of a scan's columns has to be one of
* steady: the same for all windows of one step and tuple (grouping columns, whole hours and days, and comparisons of
  the time with constants, which become edges that no coarse row may lie across), anywhere; or
* a total that adds up: SUM of a sum, MIN of a least, MAX of a greatest value, with steady conditions around it.
A coarse row is there exactly where at least one window is, so what does not count rows cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlglot import exp

from billable_metrics.catalog import TotalKind
from billable_metrics.instants import grain_ms, instant_us, millis_us, unit_of
from billable_metrics.scan import COLUMN_META, OUTPUT_META, SCAN_META, Scan, from_items
from billable_metrics.scopes import clauses, own_nodes
from billable_metrics.timeline import ALWAYS, Range
from billable_metrics.zones import KNOWN_MS, has_whole_hours, is_utc

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_DAYS = ("DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
_TRUNCATED: Final = dict.fromkeys(_DAYS, DAY_MS) | {"HOUR": HOUR_MS}
_EXTRACTED: Final = _TRUNCATED | dict.fromkeys(("DOW", "ISODOW", "DOY", "ISOYEAR"), DAY_MS)
_FLIPPED: Final[dict[type[exp.Expr], type[exp.Expr]]] = {
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
}
_TIMES_OF: Final = {"timestamp": "time", "timestamp_millis": "millis"}
_TIMES: Final = frozenset(_TIMES_OF.values())
_EXTREMES: Final[dict[type[exp.Expr], TotalKind]] = {exp.Min: "min", exp.Max: "max"}


class Depends(Exception):
    """The query depends on single windows; the text says how."""


@dataclass(slots=True)
class Coarse:
    """What coarse rows have to keep to: steps that divide `step_ms`, no edge inside one, and `within` where it matters.

    `edges` are instants in milliseconds, on window starts; `span` is what the query's own conditions leave of time.
    """

    scan: Scan
    number: int
    params: Sequence[object]
    step_ms: int = DAY_MS
    edges: set[int] = field(default_factory=set)
    span: Range = ALWAYS
    within: Range = ALWAYS
    proven: set[int] = field(default_factory=set)

    def check(self, tree: exp.Expr) -> None:
        """Raises Depends where the answer over coarse rows could be another one."""
        select = self.scan.node.parent_select
        if self.scan.long_form or not isinstance(select, exp.Select):
            raise Depends("the long form reads partials")
        if len(from_items(select)) > 1:
            raise Depends("it is joined")
        parts = [*select.expressions, *clauses(select)]
        nodes = [node for part in parts for node in own_nodes(part)]
        if not select.args.get("group") and not any(_is_aggregate(node) for node in nodes):
            distinct = select.args.get("distinct")
            if distinct is None or distinct.args.get("on") or any(isinstance(node, exp.Window) for node in nodes):
                raise Depends("its windows are listed one by one")
        for part in parts:
            self._steady(part)
        for predicate in self.scan.predicates:
            if any(self._is_own(column) for column in predicate.find_all(exp.Column)):
                self._steady(predicate)
                self._narrow(predicate)
        for column in tree.find_all(exp.Column):
            if self._is_own(column) and id(column) not in self.proven:
                raise Depends("a subquery reads each of its windows")

    def _is_own(self, node: exp.Expr) -> bool:
        return isinstance(node, exp.Column) and node.meta_get(SCAN_META) == self.number

    def _kind(self, column: exp.Expr) -> str:
        """`time`, `millis`, `group`, or the kind of a total; empty for another thing than a column of this scan."""
        if not self._is_own(column):
            return ""
        name = column.meta_get(COLUMN_META)
        if name in self.scan.table.group_columns:
            return "group"
        return _TIMES_OF.get(name, "") or self.scan.table.totals.get(name, "")

    def _steady(self, node: exp.Expr) -> None:
        if isinstance(node, exp.Query):
            return  # a constant here; should it read this scan's columns, then those are never proven
        if isinstance(node, exp.Column):
            self._steady_column(node)
        elif _is_aggregate(node):
            self._aggregate(node)
        elif isinstance(node, exp.Star):
            raise Depends("* lists its windows")
        elif not (self._is_comparison(node) or self._is_truncated(node)):
            for child in node.iter_expressions():
                if not (isinstance(child, exp.Star) and isinstance(node, exp.Count)):  # COUNT(*) OVER (…): of groups
                    self._steady(child)

    def _steady_column(self, column: exp.Column) -> None:
        if column.meta_get(OUTPUT_META):
            return
        if not self._is_own(column):
            raise Depends("it refers to the query around it")
        if self._kind(column) != "group":
            raise Depends(f"{column.meta_get(COLUMN_META)} is read of each window")
        self.proven.add(id(column))

    def _aggregate(self, node: exp.Expr) -> None:
        if isinstance(node, exp.Filter):
            self._steady(node.expression.this)
            node = node.this
        if isinstance(node, exp.Sum):
            self._sum(node.this)
        elif isinstance(node, (exp.Min, exp.Max)) and not node.expressions:
            self._extreme(node.this, _EXTREMES[type(node)])
        elif isinstance(node, (exp.LogicalAnd, exp.LogicalOr)) or _counts_distinct(node):
            for child in node.iter_expressions():
                self._steady(child)
        else:
            raise Depends(f"{_text(node)} depends on each window")

    def _sum(self, node: exp.Expr) -> None:
        node = node.unnest()
        if self._kind(node) == "sum":
            self.proven.add(id(node))
        elif isinstance(node, exp.Case):
            self._case(node)
            for value in _values(node):
                self._sum(value)
        elif _adds_up_inside(node):
            self._sum(node.this)
        elif not (_is_zero(node) or isinstance(node, exp.Null)):
            raise Depends(f"SUM({_text(node)}) depends on each window")

    def _extreme(self, node: exp.Expr, kind: TotalKind) -> None:
        node = node.unnest()
        if self._kind(node) == kind:
            self.proven.add(id(node))
        elif self._kind(node) not in ("", "group"):
            raise Depends(f"{kind.upper()}({_text(node)}) depends on each window")
        elif isinstance(node, exp.Case):
            self._case(node)
            for value in _values(node):
                self._extreme(value, kind)
        else:
            self._steady(node)

    def _case(self, node: exp.Case) -> None:
        for condition in (node.this, *(branch.this for branch in node.args["ifs"])):
            if condition is not None:
                self._steady(condition)

    def _is_comparison(self, node: exp.Expr) -> bool:
        """Takes a comparison of the time with constants for what it is: an edge."""
        bounds = list(self._bounds(node))
        for column, kind, constant in bounds:
            edge = self._edge(column, kind, constant)
            if edge is not None:
                self.edges.add(edge)
            elif (
                self._kind(column) == "time" and kind in (exp.GTE, exp.LT) and (grain := grain_ms(constant)) is not None
            ):
                self.step_ms = min(self.step_ms, grain)
            else:
                raise Depends("the time is compared with something that is not a plain constant")
            self.proven.add(id(column))
        return bool(bounds)

    def _bounds(self, node: exp.Expr) -> Iterator[tuple[exp.Expr, type[exp.Expr], exp.Expr]]:
        """The column, the comparison with the column on its left, and the constant."""
        if isinstance(node, exp.Between) and self._kind(node.this) in _TIMES:
            yield node.this, exp.GTE, node.args["low"]
            yield node.this, exp.LTE, node.args["high"]
        elif type(node) in _FLIPPED:
            if self._kind(node.this) in _TIMES:
                yield node.this, type(node), node.expression
            elif self._kind(node.expression) in _TIMES:
                yield node.expression, _FLIPPED[type(node)], node.this

    def _edge(self, column: exp.Expr, kind: type[exp.Expr], constant: exp.Expr) -> int | None:
        """The first window start at which the comparison gives another answer, in milliseconds."""
        micros = instant_us(constant, self.params) if self._kind(column) == "time" else millis_us(constant)
        if micros is None:
            return None
        window_us = self.scan.table.window_ms * 1000
        if kind in (exp.GT, exp.LTE):
            micros += 1  # windows start at whole milliseconds, and time has whole microseconds
        return -(-micros // window_us) * self.scan.table.window_ms

    def _narrow(self, predicate: exp.Expr) -> None:
        start, end = self.span
        for column, kind, constant in self._bounds(predicate.unnest()):
            edge = self._edge(column, kind, constant)
            if edge is not None:
                start, end = (max(start, edge), end) if kind in (exp.GT, exp.GTE) else (start, min(end, edge))
        self.span = (start, end)

    def _is_truncated(self, node: exp.Expr) -> bool:
        """Takes date_trunc, extract and a cast to date for what they are: the same throughout a step."""
        if isinstance(node, exp.TimestampTrunc):
            operand, grain = node.this, _TRUNCATED.get(unit_of(node))
        elif isinstance(node, exp.Extract):
            operand, grain = node.expression, _EXTRACTED.get(unit_of(node))
        elif isinstance(node, exp.Cast) and node.to.this is exp.DType.DATE:
            operand, grain = node.this, DAY_MS
        else:
            return False
        zone = node.args.get("zone")
        operand = operand.unnest()
        if isinstance(operand, exp.AtTimeZone) and zone is None:
            operand, zone = operand.this.unnest(), operand.args["zone"]
        if self._kind(operand) != "time":
            return False
        if grain is None:
            raise Depends("its unit of time is shorter than an hour")
        if zone is not None:
            grain = self._local(zone, grain)
        self.step_ms = min(self.step_ms, grain)
        self.proven.add(id(operand))
        return True

    def _local(self, zone: exp.Expr, grain: int) -> int:
        if not isinstance(zone, exp.Literal) or not zone.is_string:
            raise Depends("its time zone is not a plain constant")
        if is_utc(zone.name):
            return grain
        if not has_whole_hours(zone.name):
            raise Depends(f"hours in {zone.name} are not whole hours of UTC")
        self.within = KNOWN_MS
        return HOUR_MS


def _is_aggregate(node: exp.Expr) -> bool:
    """Whether the node is a whole aggregate, its FILTER included, and not a window function."""
    if not isinstance(node, (exp.AggFunc, exp.Filter, exp.WithinGroup)):
        return False
    return not (isinstance(node.parent, (exp.Window, exp.Filter, exp.WithinGroup)) and node.arg_key == "this")


def _counts_distinct(node: exp.Expr) -> bool:
    return isinstance(node, exp.Count) and isinstance(node.this, exp.Distinct)


def _adds_up_inside(node: exp.Expr) -> bool:
    """COALESCE(…, 0) and a cast to numeric without a scale: on the parts or on their sum, it is the same sum."""
    if isinstance(node, exp.Coalesce):
        return len(node.expressions) == 1 and _is_zero(node.expressions[0])
    return isinstance(node, exp.Cast) and node.to.this is exp.DType.DECIMAL and not node.to.expressions


def _values(case: exp.Case) -> Iterator[exp.Expr]:
    for branch in case.args["ifs"]:
        yield branch.args["true"]
    if (default := case.args.get("default")) is not None:
        yield default


def _is_zero(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.is_int and int(node.name) == 0


def _text(node: exp.Expr) -> str:
    """The node for a message: columns without the names of their tables."""
    shown = node.copy()
    for column in shown.find_all(exp.Column):
        column.set("table", None)
    text = shown.sql(dialect="postgres", comments=False).replace('"', "")
    return text if len(text) <= 60 else f"{text[:57]}..."
