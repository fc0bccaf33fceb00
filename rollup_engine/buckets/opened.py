"""One object while it is read: its rows as records, a piece at a time, and in the end what came of it.

Owns: what each way for an object to end means. Blocks: every call belongs in a thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from rollup_engine.buckets.ledger import Finished, Object, Outcome
from rollup_engine.buckets.offsets import after, offset_of
from rollup_engine.buckets.rows import Damaged, Format, Row, rows
from rollup_engine.buckets.store import ObjectChanged
from rollup_engine.ports import OBJECT_DAMAGED, Record, Unreadable


class ObjectRecord(NamedTuple):
    """A row of an object; implements `ports.Record`."""

    offset: int
    timestamp: int
    value: bytes


class Piece(NamedTuple):
    """Records read in one go, and the position behind them. `finished`: the object is done with."""

    records: Sequence[Record]
    position: int
    finished: Finished | None = None


class OpenedObject:
    def __init__(self, found: Object, stream: BinaryIO, format_: Format, from_line: int) -> None:
        """`from_line`: lines before it were handed out by an earlier session."""
        self._object, self._stream, self._from_line = found, stream, from_line
        self._position = offset_of(found.number, from_line)
        # Counted from the start, so that the ledger gets the number of all rows. Parquet's lines are rows: it can skip.
        skips = format_ == "parquet"
        self._rows = from_line - 1 if skips else 0
        self._batches: Iterator[list[Row]] = rows(format_, stream, found.name, from_line if skips else 1)
        self._rest: list[Row] = []

    def take(self, records_max: int) -> Piece:
        """The next rows, `records_max` at the most; none while lines are passed over, or at the end.

        Raises what the store raises for what has not changed.
        """
        try:
            batch = self._rest or next(self._batches, [])
        except Damaged as damaged:
            return self._damaged(damaged)
        except ObjectChanged:
            return self._ended("changed", "It was changed while it was being read")
        if not batch:
            return self._ended("read", "")
        if batch[-1].line < self._from_line:
            self._rows += len(batch)
            return Piece((), self._position)
        if batch[0].line < self._from_line:
            new = [row for row in batch if row.line >= self._from_line]
            self._rows += len(batch) - len(new)
            batch = new
        batch, self._rest = batch[:records_max], batch[records_max:]
        self._rows += len(batch)
        self._position = offset_of(self._object.number, batch[-1].line) + 1
        return Piece(list(map(self._record, batch)), self._position)

    def _record(self, row: Row) -> Record:
        offset = offset_of(self._object.number, row.line)
        if row.why is not None:
            return Unreadable(offset, self._object.seen_ms, row.value, *row.why)
        return ObjectRecord(offset, self._object.seen_ms, row.value)

    def _damaged(self, damaged: Damaged) -> Piece:
        self._rows += 1
        records: list[Record] = []
        if damaged.line >= self._from_line:  # or it was handed out, and a crash came before the ledger knew
            offset, detail = offset_of(self._object.number, damaged.line), damaged.reason
            records = [Unreadable(offset, self._object.seen_ms, damaged.value, OBJECT_DAMAGED, detail)]
        return self._ended("damaged", f"From line {damaged.line} on: {damaged.reason}", records)

    def _ended(self, outcome: Outcome, note: str, records: Sequence[Record] = ()) -> Piece:
        number = self._object.number
        return Piece(records, after(number), Finished(number, self._rows, outcome, note))

    def close(self) -> None:
        self._stream.close()
