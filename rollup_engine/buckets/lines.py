"""Chunks of bytes to physical lines, in bounded memory also where a line has no end.

Owns: numbers of lines (from 1), the byte order mark, lines that are too long. A line ends with a line feed; what else
is in it, a carriage return too, is left to the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from rollup_engine.buckets.compressed import BrokenStream, chunks
from rollup_engine.buckets.rows import KEPT_BYTES, Damaged
from rollup_engine.route.decode import RECORD_BYTES_MAX  # no less than a chunk: only a line begun earlier can be longer

_BOM = b"\xef\xbb\xbf"


class Lines(NamedTuple):
    """Lines that follow each other, without their line feeds; the first has number `first`."""

    first: int
    lines: list[bytes]
    returns: bool  # whether there may be a carriage return in any: asked of the whole, it costs nothing


class LongLine(NamedTuple):
    """A line of more than `RECORD_BYTES_MAX` bytes: its number, beginning, size in bytes, and how many '"' it has."""

    number: int
    beginning: bytes
    size: int
    quotes: int


def physical_lines(stream: BinaryIO, name: str, from_line: int = 1) -> Iterator[Lines | LongLine]:
    """The lines from number `from_line` on. Raises `Damaged` at the first that cannot be read to its end."""
    number, rest = 1, b""  # the line under way, and its beginning
    dropped = quotes = 0  # bytes of it that are not kept, and '"' among these
    unread = chunks(stream, name)
    try:
        for chunk in unread:
            if number == 1 and not rest:
                chunk = chunk.removeprefix(_BOM)
            end = chunk.find(b"\n")
            if end < 0 or len(rest) + end > RECORD_BYTES_MAX:
                head = chunk if end < 0 else chunk[:end]
                room = RECORD_BYTES_MAX + 2 - len(rest)  # a line ending in "\r\n" may be just short enough
                rest += head[:room]
                dropped += len(head[room:])
                quotes += head.count(b'"', room)
                if end < 0:
                    continue
                if number >= from_line:
                    yield _whole(number, rest, dropped, quotes)
                number, rest, dropped, quotes = number + 1, b"", 0, 0
                chunk = chunk[end + 1 :]
            data = rest + chunk
            if number < from_line and number + data.count(b"\n") <= from_line:
                number += data.count(b"\n")
                rest = data[data.rfind(b"\n") + 1 :]
                continue
            lines = data.split(b"\n")
            rest = lines.pop()
            wanted = lines[max(0, from_line - number) :]
            number += len(lines)
            if wanted:
                yield Lines(number - len(wanted), wanted, b"\r" in data)
    except BrokenStream as error:
        raise Damaged(number, f"the compressed data break off: {error}", rest[:KEPT_BYTES]) from error
    if rest and number >= from_line:
        yield _whole(number, rest, dropped, quotes)


def _whole(number: int, rest: bytes, dropped: int, quotes: int) -> Lines | LongLine:
    size = len(rest) + dropped
    if size <= RECORD_BYTES_MAX or (size == RECORD_BYTES_MAX + 1 and rest.endswith(b"\r")):
        return Lines(number, [rest], b"\r" in rest)
    return LongLine(number, rest[:KEPT_BYTES], size, quotes + rest.count(b'"'))
