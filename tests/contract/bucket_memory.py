"""A store and a ledger in memory, with the contracts of the real ones, for tests that need many of them quickly."""

import io
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from rollup_engine.buckets.ledger import Finished, Known, Lease, Object, Taken
from rollup_engine.buckets.store import Found, ObjectChanged, ObjectGone

PROBLEMS = ("damaged", "changed", "gone")


@dataclass
class MemoryStore:
    """Objects by name: (etag, bytes). `fault`: raised by everything while it is set. As in S3, opening asks nothing."""

    url: str = "memory:///"
    unsettled: bool = False
    objects: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    fault: Exception | None = None
    page_max: int = 1_000
    puts: int = 0

    def put(self, name: str, content: bytes) -> str:
        """The object's etag: another with every put."""
        self.puts += 1
        self.objects[name] = str(self.puts), content
        return str(self.puts)

    def listing(self, after: str = "") -> list[Found]:
        names = sorted((name for name in self.objects if name.encode() > after.encode()), key=str.encode)
        return [Found(name, self.objects[name][0], len(self.objects[name][1])) for name in names]

    async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
        while True:
            if self.fault is not None:
                raise self.fault
            page = self.listing(after)[: self.page_max]
            if not page:
                return
            yield page
            after = page[-1].name

    def open(self, name: str, etag: str) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_Stream(self, name, etag), 64))

    async def close(self) -> None:
        pass


class _Stream(io.RawIOBase):
    def __init__(self, store: MemoryStore, name: str, etag: str) -> None:
        self._store, self._name, self._etag, self._at = store, name, etag, 0

    def _content(self) -> bytes:
        if self._store.fault is not None:
            raise self._store.fault
        if self._name not in self._store.objects:
            raise ObjectGone(self._name)
        etag, content = self._store.objects[self._name]
        if etag != self._etag:
            raise ObjectChanged(self._name)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = len(self._content()) if whence == io.SEEK_END else 0
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._content()[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


@dataclass
class _Row:
    object: Object
    rows: int | None = None
    note: str = ""
    now_etag: str | None = None


class MemoryLedger:
    """Implements `buckets.ledger.Ledger`, of one bucket."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.rows: list[_Row] = []
        self.clock_ms = 0
        self._holder: str | None = None
        self._refusal: tuple[str, str] | None = None
        self.listed_ms: int | None = None

    async def known(self) -> Mapping[str, Known]:
        return {self._topic: Known(len(self.rows), self._refusal, self.listed_ms)}

    async def objects(self, topic: str, numbers: Collection[int]) -> Sequence[Object]:
        return [self.rows[number].object for number in sorted(numbers) if number < len(self.rows)]

    async def begin(self, topic: str, number: int, etag: str) -> bool:
        row = self.rows[number]
        if row.object.etag != etag:
            return False
        row.object = row.object._replace(begun=True)
        return True

    async def finish(self, topic: str, finished: Sequence[Finished]) -> None:
        for one in finished:
            row = self.rows[one.number]
            if one.outcome != "read" or row.object.outcome in (None, "read"):
                row.object = row.object._replace(outcome=one.outcome)
                row.rows, row.note = one.rows, one.note

    async def hold(self, topic: str, holder: str, seconds: float) -> Lease:
        if self._holder not in (None, holder):
            return Lease(False)
        self._holder = holder
        return Lease(True, self.listed_ms is None)

    async def release(self, topic: str, holder: str) -> None:
        if self._holder == holder:
            self._holder = None

    async def now_ms(self) -> int:
        return self.clock_ms

    async def last_name(self, topic: str) -> str:
        return max((row.object.name for row in self.rows), key=str.encode, default="")

    async def take_in(self, topic: str, page: Sequence[Found]) -> Taken:
        known = {row.object.name: row for row in self.rows}
        new, changed = 0, []
        for found in page:
            row = known.get(found.name)
            if row is None:
                seen_ms = max([self.clock_ms, *(one.object.seen_ms for one in self.rows[-1:])])
                self.rows.append(_Row(Object(len(self.rows), *found, seen_ms, begun=False, outcome=None)))
                new += 1
            elif found.etag != row.object.etag and not row.object.begun and row.object.outcome is None:
                row.object = row.object._replace(etag=found.etag, size=found.size)
            elif found.etag not in (row.object.etag, row.now_etag) and row.object.outcome is not None:
                changed.append((row.object, found))
        return Taken(new, changed)

    async def changed(self, topic: str, number: int, etag: str, note: str) -> bool:
        row = self.rows[number]
        if row.object.outcome is None or etag in (row.object.etag, row.now_etag):
            return False
        row.object, row.note, row.now_etag = row.object._replace(outcome="changed"), note, etag
        return True

    async def waiting(self, topic: str) -> bool:
        return any(row.object.outcome is None for row in self.rows)

    async def listed(self, topic: str, started_ms: int) -> int:
        self.listed_ms, self._refusal = max(started_ms, self.listed_ms or 0), None
        return sum(row.object.outcome in PROBLEMS for row in self.rows)

    async def refused(self, topic: str, cause: str, remedy: str) -> None:
        self._refusal = cause, remedy
