"""Reading one partition of a bucket: its objects in order, each to its end, in threads.

Owns: from which object and line reading goes on, and that none is left behind before its outcome is in the ledger.
Never skips: an object that cannot be read now is tried again, one that may not be read halts the partition.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, BinaryIO, ParamSpec, TypeVar

import structlog

from rollup_engine.buckets import offsets
from rollup_engine.buckets.ends import Ends
from rollup_engine.buckets.ledger import Finished, Ledger, Object
from rollup_engine.buckets.opened import OpenedObject, Piece
from rollup_engine.buckets.store import ObjectChanged, ObjectGone, Store
from rollup_engine.config.model import Bucket
from rollup_engine.errors import PartitionHalted, StoreRefused
from rollup_engine.ports import Record
from rollup_engine.telemetry import OBJECTS

log = structlog.get_logger(__name__)
BYTES_MAX = 4 << 20  # of records handed out at once, and as much again that is read ahead
FILL_SECONDS = 0.2  # how long a batch waits for more: small objects share one
NEWER_SECONDS = 1.0  # between two looks whether a listing knows more of an object that is not as it was listed
SETTLE_SECONDS = 30.0  # and two polls: what changes for longer, before any of it was read, halts the partition
_LOOK_AHEAD = 32  # objects asked of the ledger at once
Args = ParamSpec("Args")
Result = TypeVar("Result")


class BucketReader:
    """Implements `ports.Reader` on one partition of a bucket's topic."""

    def __init__(
        self, bucket: Bucket, partition: int, store: Store, ledger: Ledger, ends: Ends, threads: Executor
    ) -> None:
        self._bucket, self._topic, self._partition = bucket, bucket.topic, partition
        self._store, self._ledger, self._ends, self._threads = store, ledger, ends, threads
        self._position = 0
        self.opened = False  # once it has been told where to read
        self._next = 0  # where the piece being read ahead begins
        self._ahead: asyncio.Future[Piece] | None = None
        self._object: OpenedObject | None = None
        self._running: Future[Any] | None = None  # what a thread does for it, or did last
        self._coming: dict[int, Object] = {}  # by number, as the ledger had them
        self._missing: dict[int, int] = {}  # by number, when it was not there: by the ledger's clock

    @property
    def position(self) -> int:
        return self._position

    def seek(self, offset: int) -> None:
        """Once, before the first `read`."""
        self._position = self._next = offset
        self.opened = True

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[Record]:
        """Rows of one object or of several, in order. Raises `BrokerUnavailable` and `PartitionHalted` as the store
        does."""
        records: list[Record] = []
        finished: list[Finished] = []
        position, size = self._position, 0
        until = time.monotonic() + timeout_ms / 1000
        while len(records) < records_max and size < BYTES_MAX:
            ahead = self._ahead = self._ahead or asyncio.create_task(self._piece(records_max - len(records)))
            await asyncio.wait((ahead,), timeout=max(0.0, until - time.monotonic()))
            if not ahead.done() or (position != self._position and ahead.exception() is not None):
                break  # a fault is raised by the next read, once what came before it is taken
            piece, self._ahead = ahead.result(), None
            if len(piece.records) > records_max - len(records):  # it was read ahead for a larger batch
                piece, self._ahead = _cut(piece, records_max - len(records))
            if piece.records and not records:
                until = time.monotonic() + FILL_SECONDS
            records += piece.records
            position = piece.position
            size += sum(len(record.value or b"") for record in piece.records)
            finished += [piece.finished] if piece.finished is not None else []
        if finished:
            await self._finish(finished)
        self._position = position
        if records and self._ahead is None:
            self._ahead = asyncio.create_task(self._piece(records_max))
        return records

    async def _finish(self, finished: Sequence[Finished]) -> None:
        await self._ledger.finish(self._topic, finished)
        for one in finished:
            OBJECTS.labels(self._bucket.url, one.outcome).inc()
            if one.outcome != "read":
                log.error("an object was not read to its end", bucket=self._bucket.url, **one._asdict())

    async def _piece(self, records_max: int) -> Piece:
        """The next rows, from the object in hand or from the next one; waits for one to come."""
        if self._object is None:
            opened = await self._open(await self._next_number())
            if isinstance(opened, Finished):
                self._next = offsets.after(opened.number)
                return Piece((), self._next, opened)
            self._object = opened
        try:
            piece = await self._in_thread(self._object.take, records_max)
        except ObjectGone:  # whether it is, opening it again will tell
            await self._let_go()
            return Piece((), self._next)
        self._next = piece.position
        if piece.finished is not None:
            await self._let_go()
        return piece

    async def _next_number(self) -> int:
        number = offsets.next_number(self._partition, self._next)
        while not await self._ends.beyond(self._topic, number):
            refusal = self._ends.of(self._topic).refusal
            if refusal is not None and self._partition == 0:  # one that says so is enough
                raise PartitionHalted(*refusal)
        return number

    async def _open(self, number: int) -> OpenedObject | Finished:
        """The object, begun in the ledger; or what came of it, where there is nothing more to read.

        One that was changed before reading began is read as it is, once a listing knows its etag: none ever does of one
        that the ledger has an outcome of, from a session that crashed before it had moved on. One that is not there is
        `gone` once a complete listing has passed since, and it still is not: until then the store may be away.
        """
        line = offsets.line_of(self._next)  # the first, unless it is in the middle of this very object
        changing_since: float | None = None
        while True:
            found = await self._look_up(number)
            # Asked before the store is, which may come back between the two.
            listed_since = await self._listed_since_missed(number)
            try:
                stream = await self._in_thread(self._opened, found)
            except ObjectGone:
                if listed_since:
                    return Finished(number, line - 1, "gone", "It was deleted before it was read to its end")
                if number not in self._missing:
                    await self._note_missing(number)
                await self._wait_for_listing()
                continue
            except ObjectChanged:
                if found.begun or found.outcome is not None:
                    return Finished(number, line - 1, "changed", "It was changed before it was read to its end")
                self._missing.pop(number, None)
                changing_since = changing_since or time.monotonic()
                if time.monotonic() > changing_since + 2 * self._bucket.poll_ms / 1000 + SETTLE_SECONDS:
                    await self._is_still_changing(found)
                await self._wait_for_listing()
                continue
            self._missing.clear()  # the store is there: what was missing may be, too
            if await self._ledger.begin(self._topic, number, found.etag):
                return OpenedObject(found, stream, self._bucket.format, line)
            await self._in_thread(stream.close)
            self._coming.clear()

    def _opened(self, found: Object) -> BinaryIO:
        """The object, of which the store has shown that it is there at this etag."""
        stream = self._store.open(found.name, found.etag)
        try:
            if self._bucket.format == "parquet":  # its end is read first
                stream.seek(0, io.SEEK_END)
            else:
                stream.read(1)
            stream.seek(0)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _listed_since_missed(self, number: int) -> bool:
        """Whether a complete listing that began after the object was not there has ended."""
        if number not in self._missing:
            return False
        listed_ms = (await self._ends.look(self._topic)).listed_ms
        return listed_ms is not None and listed_ms > self._missing[number]

    async def _note_missing(self, number: int) -> None:
        """Of this object and of those that come next: who deletes one deletes many, and one listing confirms all."""
        missing = {number}
        for one in [one for one in self._coming.values() if one.number > number]:
            try:
                (await self._in_thread(self._opened, one)).close()
            except ObjectGone:
                missing.add(one.number)
            except ObjectChanged:
                pass
        now_ms = await self._ledger.now_ms()
        self._missing = {one: self._missing.get(one, now_ms) for one in missing}

    async def _wait_for_listing(self) -> None:
        """For a little, with something left that only a listing can tell. Halts where there will be none."""
        refusal = (await self._ends.look(self._topic)).refusal
        if refusal is not None:
            raise PartitionHalted(*refusal)
        await asyncio.sleep(NEWER_SECONDS)
        self._coming.clear()

    async def _is_still_changing(self, found: Object) -> None:
        """Says so, unless nobody lists the bucket: then it may be as it is for long."""
        now_ms, known = await self._ledger.now_ms(), await self._ends.look(self._topic)
        if known.listed_ms is not None and known.listed_ms > now_ms - 1000 * SETTLE_SECONDS - self._bucket.poll_ms:
            raise StoreRefused(
                f"{self._bucket.url}{found.name} changes again and again before it can be read",
                "Write objects whole: into a directory under a name that begins with '.', and then rename. It is read"
                " once it rests for 2 s; deleted, it is left with an alarm.",
            )

    async def _look_up(self, number: int) -> Object:
        if number not in self._coming:
            step = offsets.BUCKET_PARTITIONS
            numbers = range(number, number + _LOOK_AHEAD * step, step)
            self._coming = {one.number: one for one in await self._ledger.objects(self._topic, numbers)}
        return self._coming[number]

    async def _let_go(self) -> None:
        closing, self._object = self._object, None
        if closing is not None:
            await self._in_thread(closing.close)

    async def _in_thread(self, call: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        running = self._running = self._threads.submit(call, *args, **kwargs)
        return await asyncio.wrap_future(running)

    async def close(self) -> None:
        """Let go of what is open, once whatever a thread is doing with it has ended; that is not waited for."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
        opened, self._object = self._object, None

        def let_go(ended: Future[Any]) -> None:
            if opened is not None:
                opened.close()
            if not ended.cancelled() and ended.exception() is None and isinstance(ended.result(), io.IOBase):
                ended.result().close()  # opened for nobody

        if self._running is not None:
            self._running.add_done_callback(let_go)


def _cut(piece: Piece, records_max: int) -> tuple[Piece, asyncio.Future[Piece]]:
    """Its first records, and the rest as what comes next."""
    first = piece.records[:records_max]
    rest: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()
    rest.set_result(piece._replace(records=piece.records[records_max:]))
    return Piece(first, first[-1].offset + 1), rest
