"""What metric SQL may read: one table per rollup, with the columns an analyst sees.

Owns: the public names and how written names are matched to them. Must never know about SQL text, nor list a column
that is not meant for analysts (revision, tuple key, idempotency key): what is not here cannot be queried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Final, Literal

from rollup_engine.config.model import Config, Rollup
from rollup_engine.config.naming import TABLE_SUFFIX, column_name

SCHEMA: Final = "rollups"

TIME_COLUMNS: Final = ("timestamp", "timestamp_millis")
"""Two forms of the window's start."""

CUSTOMER_COLUMN: Final = "external_customer_id"
COUNT_COLUMN: Final = "aggregated_count"

COLUMN_ALIASES: Final[Mapping[str, str]] = {"count": COUNT_COLUMN}
"""Further names of public columns. `*` does not give them."""

LatestBy = Literal["MAX", "MIN"]
TotalKind = Literal["sum", "min", "max"]
TierName = Literal["day", "hour"]


@dataclass(frozen=True, slots=True)
class Tier:
    """A table of the same columns with one row per step and tuple: the exact totals of the step's windows.

    `base_table` is quoted and schema-qualified; `timestamp` in it is the step's start in UTC. `stale`: half-open,
    sorted, disjoint ranges of whole steps in which it may be wrong; there the rollup's own partials are to be read.
    """

    name: TierName
    base_table: str
    step_ms: int
    stale: tuple[tuple[datetime, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One rollup as metric SQL sees it.

    `base_table` is quoted and schema-qualified. `columns` maps public names to physical ones, in the order of `*`.
    `group_columns` are the public grouping columns, the customer first. `latest_by` says for each totalled column
    which aggregate picks the newest of a window's partials where totals only move one way, `totals` how windows add up
    in it. `complete_from`: windows
    before it lack what came before the rollup was added; None where it was there from the first event on. `tiers`:
    coarser tables of the same totals, the coarsest first.
    """

    name: str
    base_table: str
    columns: Mapping[str, str]
    window_ms: int
    group_columns: tuple[str, ...] = ()
    latest_by: Mapping[str, LatestBy] = field(default_factory=dict)
    totals: Mapping[str, TotalKind] = field(default_factory=dict)
    complete_from: datetime | None = None
    tiers: tuple[Tier, ...] = ()

    @property
    def series_columns(self) -> frozenset[str]:
        """Columns alike in all partials of a (window, tuple): filters on them commute with taking the latest."""
        return frozenset((*TIME_COLUMNS, *self.group_columns))

    def column(self, written: str) -> str | None:
        """The public column meant by a written name (any case, `data.clusterId` or `data_clusterid`), or None."""
        name = column_name(written)
        name = COLUMN_ALIASES.get(name, name)
        return name if name in self.columns else None


class Catalog:
    """All tables, found by rollup name without regard to case."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self.tables = tuple(tables)
        self._by_name = {column_name(table.name): table for table in self.tables}
        self._by_name |= {table.name.lower(): table for table in self.tables}

    def table(self, written: str) -> Table | None:
        """The table of a rollup name, or None."""
        return self._by_name.get(written.lower()) or self._by_name.get(column_name(written))

    def partials_table(self, written: str) -> Table | None:
        """The table that the long form's event name means (`API_REQUEST_aggregated`), or None."""
        name = written.lower()
        return self.table(name.removesuffix(TABLE_SUFFIX)) if name.endswith(TABLE_SUFFIX) else None

    def with_tiers(self, tiers: Mapping[str, tuple[Tier, ...]]) -> Catalog:
        """The same tables with these tiers, by rollup name (`Table.name`); a table that is not named has none."""
        return Catalog(replace(table, tiers=tiers.get(table.name, ())) for table in self.tables)

    def nearest(self, written: str) -> str | None:
        """The rollup name most like the written one, or None if none is."""
        return nearest(written, (table.name for table in self.tables))


def nearest(written: str, names: Iterable[str]) -> str | None:
    """The name most like the written one without regard to case, or None if none is like it."""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(written.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def catalog_from_config(config: Config, complete_from: Mapping[str, datetime] | None = None) -> Catalog:
    """The tables of every rollup of every event type; `complete_from` by table, for those that were added later."""
    since = complete_from or {}
    return Catalog(_table(rollup, since.get(rollup.table)) for rollup in config.rollups)


def _table(rollup: Rollup, complete_from: datetime | None) -> Table:
    groups = tuple(group.column for group in rollup.group_by)
    columns = {name: name for name in (*TIME_COLUMNS, CUSTOMER_COLUMN, *groups)}
    columns[COUNT_COLUMN] = "count"
    columns |= {aggregate.column: aggregate.column for aggregate in rollup.aggregates}
    latest_by: dict[str, LatestBy] = {COUNT_COLUMN: "MAX"}
    latest_by |= {each.column: "MIN" if each.kind == "min" else "MAX" for each in rollup.aggregates}
    totals: dict[str, TotalKind] = {COUNT_COLUMN: "sum"}
    totals |= {each.column: each.kind for each in rollup.aggregates}
    return Table(
        name=rollup.name,
        base_table=f'{SCHEMA}."{rollup.table_name}"',
        columns=columns,
        window_ms=rollup.window_ms,
        group_columns=(CUSTOMER_COLUMN, *groups),
        latest_by=latest_by,
        totals=totals,
        complete_from=complete_from,
    )
