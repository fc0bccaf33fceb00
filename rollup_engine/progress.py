"""Rule 2: who may write, and from where. The sink's row is the authority; Kafka's offsets never are.

A claim raises the row's epoch. An advance is a compare-and-set on (epoch, version): one row updated, or everything in
that transaction is rolled back and the claim is given up. The order in every stage is: send outputs, all
acknowledged, advance in the sink with whatever belongs to it, and only then the local store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

ROUTE, DEDUP, ROLLUP = "route", "dedup", "rollup"
KINDS = ("counted", "duplicate", "conflicting", "late", "invalid", "unmatched")  # what the books count, per record


@dataclass(frozen=True)
class Position:
    """A stage's row for one input partition."""

    next_offset: int
    first_offset: int
    epoch: int
    version: int
    state: Mapping[str, object]


@dataclass(frozen=True)
class Claim:
    """The right to advance one row, until another claim raises its epoch."""

    stage: str
    partition: str
    position: Position

    @property
    def next_offset(self) -> int:
        return self.position.next_offset

    def advanced(self, next_offset: int, state: Mapping[str, object]) -> Claim:
        """The claim as it stands after its advance was committed."""
        moved = replace(self.position, next_offset=next_offset, state=state, version=self.position.version + 1)
        return replace(self, position=moved)


@dataclass(frozen=True)
class Books:
    """What one advance adds to the counts of one event type and raw source."""

    event: str
    source: str
    counted: int = 0
    duplicate: int = 0
    conflicting: int = 0
    late: int = 0
    invalid: int = 0
    unmatched: int = 0
    records: int = 0  # distinct raw records first booked here: the independent check against route's position


@dataclass(frozen=True)
class Partials:
    """New partial rollups of one table: a frame in the shape of `emit.partials.build`."""

    table: str
    frame: pl.DataFrame


@dataclass(frozen=True)
class Writes:
    """What goes into the sink in the same transaction as an advance."""

    books: tuple[Books, ...] = ()
    dead_letters: pl.DataFrame | None = None
    partials: tuple[Partials, ...] = field(default=())


NOTHING = Writes()
