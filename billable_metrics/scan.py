"""What the rules share while one metric is rewritten: its scans and its parameters.

Owns: the notes taken on the way. Must never touch the tree; that is what rules are for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlglot import exp

from billable_metrics.catalog import Catalog, Table, Tier
from billable_metrics.places import refuse
from billable_metrics.timeline import Range
from rollup_engine.config.naming import column_name
from rollup_engine.errors import MetricError

EVENT_NAME_COLUMN: Final = "event_name"
"""Tells the rollups apart in the long form; a constant in every row of one scan."""


SCAN_META: Final = "scan"
"""Key in a column node's `meta`: the number of the scan in `Context.scans` that it reads."""

COLUMN_META: Final = "public"
"""Key in a column node's `meta`: the public name of the scan's column, whatever the node itself is called by then."""

OUTPUT_META: Final = "output"
"""Key in a column node's `meta`: it names an output of its SELECT, not a column of a table."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a scan reads from one table: a tier, or for None the partials.

    `ranges` of time are half-open, sorted and disjoint. `why` says what kept them out of the tier above, if any.
    """

    tier: Tier | None
    ranges: Sequence[Range]
    why: str = ""


@dataclass(eq=False, slots=True)
class Scan:
    """One place where a metric reads a rollup.

    `alias` is the name the scan has in its SELECT. `long_form` scans are written `FROM events`. `uses` counts where the
    metric reads each public column, `predicates` are the filters to apply before the latest revision is taken, over
    physical column names. `pieces` is what it reads; without any, all of the rollup's partials.
    """

    node: exp.Table
    table: Table
    alias: str
    long_form: bool = False
    uses: Counter[str] = field(default_factory=Counter)
    predicates: list[exp.Expr] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """Public columns, in the order of `*`."""
        return (*self.table.columns, EVENT_NAME_COLUMN) if self.has_event_name else tuple(self.table.columns)

    @property
    def has_event_name(self) -> bool:
        """Whether rows carry the long form's event name."""
        return self.long_form and EVENT_NAME_COLUMN not in self.table.columns

    def column(self, written: str) -> str | None:
        """The public column meant by a written name, or None."""
        if self.has_event_name and column_name(written) == EVENT_NAME_COLUMN:
            return EVENT_NAME_COLUMN
        return self.table.column(written)


@dataclass(slots=True)
class Context:
    """One rewriting: what is asked for, and what the rules have found so far.

    `start` and `end` bound what any scan reads. `cells` (see `billable_metrics.cells`) further restricts every scan to
    a row of a table around the metric. `edges` are the instants at which the system cuts time: `start`, `end` and
    every edge of a cell, so that rows coarser than a window are not read across one. `parameters` are the metric's
    own: name -> (SQL type, value).
    """

    sql: str
    catalog: Catalog
    customer: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    cells: Any = None
    parameters: Mapping[str, tuple[str, object]] = field(default_factory=dict)
    edges: list[datetime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)
    params: list[object] = field(default_factory=list)
    unnamed: int = 0
    """Subqueries in FROM that were given a name so far."""

    def parameter(self, value: object) -> exp.Parameter:
        """A placeholder bound to the value; the same value of the same type is bound once."""
        for number, bound in enumerate(self.params, start=1):
            if type(bound) is type(value) and bound == value:
                return exp.Parameter(this=exp.Literal.number(number))
        self.params.append(value)
        return exp.Parameter(this=exp.Literal.number(len(self.params)))

    def refuse(self, message: str, node: exp.Expr) -> MetricError:
        """The error to raise for a node, pointing at where it was written."""
        return refuse(message, self.sql, node)

    def scans_of(self, select: exp.Select) -> dict[str, Scan]:
        """The scans in a SELECT's own FROM, by alias."""
        items = {id(item) for item in from_items(select)}
        return {scan.alias: scan for scan in self.scans if id(scan.node) in items}


def from_items(select: exp.Select) -> list[exp.Expr]:
    """What a SELECT reads, left to right: the item after FROM and those of its joins."""
    source = select.args.get("from_")
    first: Iterable[exp.Expr] = [source.this] if source else []
    return [*first, *(join.this for join in select.args.get("joins") or ())]
