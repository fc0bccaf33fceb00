"""A catalogue metric, and what it reads.

Owns: the metric's parts as other modules see them. Must never know about YAML, nor run anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from billable_metrics.catalog import Catalog, Table
from billable_metrics.parameters import Parameter, bound, sample_values
from billable_metrics.parse import parse_statement
from billable_metrics.rules import RULES
from billable_metrics.rules.find_scans import find_scans
from billable_metrics.scan import Context

_CLOCK: Final = re.compile(r"\b(now|current_\w+)\b", re.IGNORECASE)
_UNTIL_SCANS: Final = RULES[: RULES.index(find_scans) + 1]


@dataclass(frozen=True, slots=True)
class SqlPlace:
    """Where a metric's SQL stands in its file: the line of its first line, and how far its lines are indented.

    `indent` None: the file breaks its lines elsewhere, so that only the first line's place is known.
    """

    line: int
    indent: int | None

    def in_file(self, line: int | None, column: int | None) -> tuple[int, int | None]:
        """Line and column in the file of a place in the SQL; both count from 1."""
        if line is None or column is None or self.indent is None:
            return self.line, None
        return self.line + line - 1, column + self.indent


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue: SQL that gives one number for a customer and a period, in `unit`.

    `file` and `line` say where it is declared.
    """

    name: str
    description: str
    unit: str
    sql: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    file: str = ""
    line: int = 1
    sql_place: SqlPlace = SqlPlace(1, None)

    @property
    def reads_clock(self) -> bool:
        """Whether its value may change although no rollup does. Errs towards yes."""
        return _CLOCK.search(self.sql) is not None


Metrics: TypeAlias = Mapping[str, Metric]
"""By name, in the order of names."""


def tables_read(metric: Metric, catalog: Catalog) -> tuple[Table, ...]:
    """The rollups that the metric reads, each once, in the order of its text. Raises MetricError for unknown ones."""
    values = bound(metric.parameters, sample_values(metric.parameters))
    tree = parse_statement(metric.sql, values)
    context = Context(sql=metric.sql, catalog=catalog, parameters=values)
    for rule in _UNTIL_SCANS:
        tree = rule(tree, context)
    return tuple({scan.table.name: scan.table for scan in context.scans}.values())
