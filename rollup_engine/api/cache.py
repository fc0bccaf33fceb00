"""Answers kept until the next emission. Bounded by rows; never stale, for an entry counts under one token only.

A token (`runtime/freshness.token`) changes with every committed emission. Pages of one answer are cut from one entry,
which a cursor names by its token: as long as it is kept, they are all of one snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from decimal import Decimal
from typing import Generic, TypeVar

Value = TypeVar("Value")
ENTRY_ROWS = 20  # what an entry takes besides its rows
ROW_CHARACTERS = 200  # of a usual row; a longer one counts as several


def rows_worth(rows: Iterable[Iterable[object]]) -> int:
    """As how many rows to count these, given how long their values are."""
    return sum(1 + sum(map(_characters, row)) // ROW_CHARACTERS for row in rows)


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 4
    return len(str(value)) if isinstance(value, Decimal) else 10


class Cache(Generic[Value]):
    """The most recently used answers, up to `rows_max` rows in all."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max, self._rows = rows_max, 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """The answer kept under a key, or None."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Value, rows: int) -> None:
        """Keep an answer of so many rows; what was not used for longest makes room. One larger than all is not kept."""
        rows += ENTRY_ROWS
        if key in self._entries:
            self._rows -= self._entries.pop(key)[1]
        if rows > self._rows_max:
            return
        self._entries[key] = value, rows
        self._rows += rows
        while self._rows > self._rows_max:
            _, (_, given_up) = self._entries.popitem(last=False)
            self._rows -= given_up

    @property
    def rows(self) -> int:
        return self._rows
