"""The shape of a rollup's table, as every stage and the sink see it."""

from typing import NamedTuple

from rollup_engine.config.model import Rollup


class Column(NamedTuple):
    """An aggregate column of a rollup's table."""

    kind: str  # sum, min or max
    name: str


class Schema(NamedTuple):
    """What a rollup's table holds besides its fixed columns: everything ever declared for it."""

    table: str
    groups: tuple[str, ...]  # without the customer
    aggregates: tuple[Column, ...]

    @classmethod
    def of(cls, rollup: Rollup) -> "Schema":
        groups = tuple(column.column for column in rollup.group_by)
        return cls(rollup.table, groups, tuple(Column(a.kind, a.column) for a in rollup.aggregates))

    @property
    def tuple_columns(self) -> tuple[str, ...]:
        return ("external_customer_id", *self.groups)
