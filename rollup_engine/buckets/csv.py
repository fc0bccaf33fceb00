"""Rows of CSV (RFC 4180): a header line, then each record is a JSON object of texts.

Owns: what a record is (the `csv` module's, strict), and its object: an empty cell is left out, a dot in a header's
name nests. Cells stay text; what of them is a number is the event type's to say.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from rollup_engine.buckets.lines import LongLine, physical_lines
from rollup_engine.buckets.rows import KEPT_BYTES, ROWS_MAX, Damaged, Row, too_large
from rollup_engine.ports import MALFORMED_CSV
from rollup_engine.route.decode import NESTING_MAX, RECORD_BYTES_MAX

BATCH_BYTES = 2 << 20
_NOT_CLOSED = "a quote is opened in this record and not closed, or not rightly: what follows cannot be told apart"
_RETURN = "a carriage return stands in the midst of it"  # the csv module advises on opening files instead
_encode = msgspec.json.Encoder().encode


class _Record(NamedTuple):
    line: int  # its first
    cells: list[str]
    raw: bytes
    why: tuple[str, str] | None


def rows(stream: BinaryIO, name: str, from_line: int = 1) -> Iterator[list[Row]]:
    """See `rows.rows`. A row's line is the first of its record. Blank lines give no row.

    A record on one line that is no CSV, or has another number of cells than the header, is one bad row. Where a
    quote is not closed on a record's first line and then not rightly, or not within 1 MiB, the object is damaged:
    whether what follows is in quotes would be a guess. It is, too, at line 1, where the header cannot name columns.
    """
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_BYTES_MAX))  # the process's; 128 KiB by default
    records = _records(stream, name)
    header = next(records, None)
    if header is None:
        return
    to_object = _objects(header)
    columns = len(header.cells)
    batch: list[Row] = []
    size = 0
    try:
        for line, cells, raw, why in records:
            if line < from_line:
                continue
            value = raw[:KEPT_BYTES]
            if why is None and len(cells) != columns:
                why = MALFORMED_CSV, f"the row has {len(cells)} cells, and the header {columns}"
            if why is None:
                try:
                    value = _encode(to_object(cells))
                except UnicodeEncodeError:
                    why = MALFORMED_CSV, "the row is no UTF-8 text"
            batch.append(Row(line, value, why))
            size += len(value)
            if len(batch) == ROWS_MAX or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Damaged:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _records(stream: BinaryIO, name: str) -> Iterator[_Record]:
    source = _Source(stream, name)
    reader = csv.reader(source, strict=True)
    while True:
        line, source.lines, source.size = source.number + 1, [], 0
        cells: list[str] = []
        why = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except Damaged as damaged:
            raise Damaged(line, damaged.reason, b"\n".join((*source.lines, damaged.value))[:KEPT_BYTES]) from damaged
        except csv.Error as error:
            if source.ended or len(source.lines) > 1:
                raise Damaged(line, _NOT_CLOSED, b"\n".join(source.lines)[:KEPT_BYTES]) from error
            why = MALFORMED_CSV, f"the line is no CSV: {_RETURN if 'new-line' in str(error) else error}"
        except _TooLong as error:
            if len(source.lines) > 1 or error.args[0].quotes % 2:
                raise Damaged(line, _NOT_CLOSED, b"\n".join(source.lines)[:KEPT_BYTES]) from error
            why = too_large(error.args[0].size)
        if cells or why:
            yield _Record(line, cells, b"\n".join(source.lines), why)


class _TooLong(Exception):
    """A record of more than 1 MiB; with the line that makes it so, as a `LongLine`."""


class _Source:
    """Physical lines as text for the `csv` module, and the bytes of those that the record under way has taken."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._parts = physical_lines(stream, name)
        self._lines: Iterator[bytes] = iter(())
        self.number = 0  # of the line given last
        self.ended = False
        self.lines: list[bytes] = []
        self.size = 0

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        while line is None:
            part = next(self._parts, None)
            if part is None:
                self.ended = True
                raise StopIteration
            if isinstance(part, LongLine):
                self.number += 1
                self.lines.append(part.beginning)
                raise _TooLong(part)
            self._lines = iter(part.lines)
            line = next(self._lines, None)
        self.number += 1
        self.lines.append(line)
        self.size += len(line) + 1
        if self.size > RECORD_BYTES_MAX and len(self.lines) > 1:
            raise _TooLong
        return line.decode("utf-8", "surrogateescape") + "\n"


def _objects(header: _Record) -> Callable[[list[str]], dict[str, object]]:
    """What makes an object of a row's cells. Raises `Damaged` where the header names columns ambiguously."""
    problem = header.why[1] if header.why else _problem(header.cells)
    if problem:
        raise Damaged(1, f"the header line cannot be used: {problem}", header.raw[:KEPT_BYTES])
    names = header.cells
    if not any("." in name for name in names):
        return lambda cells: {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    paths = [(name.split(".")[:-1], name.split(".")[-1]) for name in names]

    def nested(cells: list[str]) -> dict[str, object]:
        root: dict[str, object] = {}
        for (parents, last), cell in zip(paths, cells, strict=True):
            if cell:
                node = root
                for step in parents:
                    node = node.setdefault(step, {})  # type: ignore[assignment]  # no cell: the header has no clash
                node[last] = cell
        return root

    return nested


def _problem(names: list[str]) -> str:
    """What is wrong with these names of columns, as a clause; empty: nothing."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return "it is no UTF-8 text"
    taken: dict[str, str] = {}  # every path and its parents, and the column that took it
    for number, name in enumerate(names, 1):
        steps = name.split(".")
        if len(steps) > NESTING_MAX:
            return f"column {number} is nested deeper than {NESTING_MAX} levels"
        if not all(steps):
            return f"column {number} has no name" if not name else f"column {number}, {name!r}, has an empty part"
        if name in taken:
            same = taken[name] == name
            return f"two columns are named {name!r}" if same else _clash(taken[name], name)
        for depth in range(1, len(steps)):
            parent = ".".join(steps[:depth])
            if taken.get(parent) == parent:
                return _clash(parent, name)
            taken.setdefault(parent, name)
        taken[name] = name
    return ""


def _clash(one: str, other: str) -> str:
    return f"the columns {one!r} and {other!r} exclude each other"
