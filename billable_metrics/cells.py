"""The cells of a usage request: for which customer, time and group the metric inside is evaluated.

Owns: the names that the metric's scans are restricted by, and the bound that holds for all cells together. Must never
know how the enclosing statement makes the cells, nor what the metric says.

A metric with cells stands inside a statement that reads one row per cell, under a name that the metric's own text does
not hold, so that no name in the metric can mean, or hide, that row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from billable_metrics.periods import Period

CUSTOMER: Final = "customer"
START: Final = "period_start"
END: Final = "period_end"


@dataclass(frozen=True, slots=True)
class Cells:
    """`alias`: the name of the enclosing row. `groups`: public group columns whose values it fixes, in order.

    `customers` and `buckets` are all that cells are made of; no scan reads anything beyond them. `together`: there is
    no enclosing row, and each scan reads all cells, for a metric that tells them apart itself.
    """

    alias: str
    customers: tuple[str, ...]
    buckets: tuple[Period, ...]
    groups: tuple[str, ...] = ()
    together: bool = False

    @property
    def edges(self) -> list[datetime]:
        """Every instant at which a cell begins or ends, in order."""
        return [self.buckets[0].start, *(bucket.end for bucket in self.buckets)]


def group_name(index: int) -> str:
    """The enclosing row's column for the value of the n-th group column."""
    return f"group_{index}"


def free_alias(sql: str) -> str:
    """A name that the text does not hold, in whatever case."""
    alias = "cell"
    while alias in sql.lower():
        alias += "_"
    return alias
