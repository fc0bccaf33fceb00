"""The one statement that evaluates a metric in every cell, page by page.

Owns: its text, its order and its parameters. Must never put a value into the text: values are bound, and names are
this module's own.

Cells are customers × groups × buckets, in the order of the answer, so that a page evaluates no more cells than it
shows and those without usage between them. The metric stands in each cell as a scalar subquery: that it gives one
value is Postgres's own check. OFFSET 0 keeps Postgres from evaluating it twice, for the value and for `IS NOT NULL`.
A metric that `usage_grouped` could group is one query over all cells instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from billable_metrics.cells import CUSTOMER, END, START, Cells, group_name
from billable_metrics.rewriter import Rewritten

KEY: Final = "key"
VALUE: Final = "value"

_PARAMETER: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\d+)")


@dataclass(frozen=True, slots=True)
class Position:
    """A row's place in the order of the answer."""

    customer: str
    group: tuple[str | None, ...]
    start: datetime


class Parameters:
    """The statement's parameters, in order."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object, sql_type: str) -> str:
        """A typed placeholder for the value."""
        self.values.append(value)
        return f"${len(self.values)}::{sql_type}"

    def embed(self, rewritten: Rewritten) -> str:
        """A rewritten query's text, its placeholders moved behind those there are."""
        shift = len(self.values)
        self.values += rewritten.params

        def moved(found: re.Match[str]) -> str:
            return found[0] if found[1] is None else f"${int(found[1]) + shift}"

        return _PARAMETER.sub(moved, rewritten.sql)


def statement(
    metric: Rewritten,
    cells: Cells,
    found_groups: Rewritten | None,
    *,
    after: Position | None,
    rows_max: int,
    only_used: bool,
) -> Rewritten:
    """The rows (customer, start, end, groups…, value) after a position, in order, at most `rows_max`.

    `found_groups` gives the group values of the enclosing row's customer; None where the cells have no groups.
    `only_used` leaves out the cells whose value is NULL.
    """
    parameters = Parameters()
    groups = [group_name(index) for index in range(len(cells.groups))]
    sources = [
        f'unnest({parameters.add(list(cells.customers), "text[]")}) AS "{cells.alias}"("{CUSTOMER}")',
    ]
    if found_groups is not None:
        names = ", ".join(_quoted(groups))
        sources.append(f"LATERAL (\n{parameters.embed(found_groups)}\n) AS found({names})")
    starts = parameters.add([bucket.start for bucket in cells.buckets], "timestamptz[]")
    ends = parameters.add([bucket.end for bucket in cells.buckets], "timestamptz[]")
    sources.append(f'unnest({starts}, {ends}) AS bucket("{START}", "{END}")')
    order = _order(groups, START)
    columns = ", ".join(_quoted([CUSTOMER, START, END, *groups]))
    lines = [
        f'SELECT {columns}, "{VALUE}"',
        f"FROM (SELECT {columns}",
        "FROM " + "\nCROSS JOIN ".join(sources),
        *(
            [f"WHERE {_behind(after, groups, parameters, START, after.start, 'timestamptz')}"]
            if after is not None
            else []
        ),
        f'ORDER BY {order}) AS "{cells.alias}"',
        f'CROSS JOIN LATERAL (SELECT (\n{parameters.embed(metric)}\n) AS "{VALUE}" OFFSET 0) AS evaluated',
        *([f'WHERE "{VALUE}" IS NOT NULL'] if only_used else []),
        f"ORDER BY {order}",
        f"LIMIT {parameters.add(rows_max, 'bigint')}",
    ]
    return replace(metric, sql="\n".join(lines), params=parameters.values)


def grouped_statement(
    metric: Rewritten, groups_count: int, *, after: Position | None, key: object, key_type: str, rows_max: int
) -> Rewritten:
    """The rows (customer, key, groups…, value) of a metric that gives (customer, groups…, key, value), likewise.

    `key` is that of the position's bucket.
    """
    parameters = Parameters()
    groups = [group_name(index) for index in range(groups_count)]
    lines = [
        f"SELECT {', '.join(_quoted([CUSTOMER, KEY, *groups, VALUE]))}",
        f"FROM (\n{parameters.embed(metric)}\n) AS evaluated({', '.join(_quoted([CUSTOMER, *groups, KEY, VALUE]))})",
        f'WHERE "{VALUE}" IS NOT NULL',
        *([f"AND {_behind(after, groups, parameters, KEY, key, key_type)}"] if after is not None else []),
        f"ORDER BY {_order(groups, KEY)}",
        f"LIMIT {parameters.add(rows_max, 'bigint')}",
    ]
    return replace(metric, sql="\n".join(lines), params=parameters.values)


def _order(groups: Sequence[str], time: str) -> str:
    return ", ".join([f'"{CUSTOMER}" COLLATE "C"', *(f'"{name}" COLLATE "C"' for name in groups), f'"{time}"'])


def _behind(
    after: Position, groups: Sequence[str], parameters: Parameters, time: str, moment: object, time_type: str
) -> str:
    """Rows behind a position. NULL stands last, as ORDER BY has it, and a row comparison needs a value in its place."""
    names = [f'"{CUSTOMER}" COLLATE "C"']
    values = [parameters.add(after.customer, "text")]
    for name, value in zip(groups, after.group, strict=True):
        names += [f'"{name}" IS NULL', f"""COALESCE("{name}", '') COLLATE "C\""""]
        values += [parameters.add(value is None, "boolean"), parameters.add(value or "", "text")]
    names.append(f'"{time}"')
    values.append(parameters.add(moment, time_type))
    return f"({', '.join(names)}) > ({', '.join(values)})"


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'"{name}"' for name in names]
