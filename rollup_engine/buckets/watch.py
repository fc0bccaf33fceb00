"""Looking for objects in one bucket: complete listings, and between them what comes after the greatest name.

Owns: when to list what. One process at a time does it, by a lease in the ledger; another takes over where it ends.
A complete listing finds names out of order and objects that changed. In a bucket so large that one takes longer than
a quarter of a `poll`, they go on in the background, while each `poll` still finds what is named behind the rest.
Who cannot list stands back, so that another process, on another machine, may try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import structlog

from rollup_engine.buckets.ledger import Ledger, Object
from rollup_engine.buckets.store import Found, ObjectChanged, ObjectGone, Store
from rollup_engine.config.model import Bucket
from rollup_engine.errors import StoreRefused, StoreUnavailable
from rollup_engine.telemetry import BUCKET_PROBLEMS

log = structlog.get_logger(__name__)
LEASE_SECONDS = 15.0
RENEW_SECONDS = 4.0
UNSETTLED_SECONDS = 2.1  # a file that may still be written is looked at again so soon, whatever `poll` says
FAULT_RENEWALS = 1.5  # after a fault, so many times RENEW_SECONDS: whoever else waits comes first
NAME_BYTES_MAX = 1024  # as S3 has it
_REST = 3  # times as long as a complete listing took, before the next: at most a quarter of the time is spent on them


class Watch:
    def __init__(self, bucket: Bucket, store: Store, ledger: Ledger) -> None:
        self._bucket, self._topic, self._store, self._ledger = bucket, bucket.topic, store, ledger
        self._poll = bucket.poll_ms / 1000
        self._holder = uuid4().hex
        self._sweep_at = self._tail_at = 0.0  # when each is due
        self._renew_at = 0.0

    async def forever(self) -> None:
        """Until cancelled. Raises nothing that the store raises: it is told, and tried again."""
        try:
            while True:
                await asyncio.sleep(await self._look())
        finally:
            BUCKET_PROBLEMS.labels(self._bucket.url).set(0)
            await self._ledger.release(self._topic, self._holder)

    async def _look(self) -> float:
        """List what is due, if it is ours to do; returns for how long there is nothing to do."""
        try:
            if not await self._hold():
                self._sweep_at = 0.0  # once it is ours, nobody knows what the one before has seen
                return RENEW_SECONDS
            if time.monotonic() >= self._sweep_at:
                await self._sweep()
            elif time.monotonic() >= self._tail_at:
                await self._tail()
        except _LeaseLost:
            return RENEW_SECONDS
        except StoreUnavailable as fault:
            log.warning("a bucket does not answer, trying again", bucket=self._bucket.url, error=str(fault))
            return await self._stand_back()
        except StoreRefused as refused:
            log.warning("a bucket is not listed", bucket=self._bucket.url, cause=refused.cause, remedy=refused.remedy)
            await self._ledger.refused(self._topic, refused.cause, refused.remedy)
            return await self._stand_back()
        except Exception as error:  # whatever it is, nobody shall take the bucket for empty
            log.exception("a bucket is not listed", bucket=self._bucket.url)
            await self._ledger.refused(
                self._topic,
                f"{self._bucket.url} cannot be listed: {type(error).__name__}: {error}",
                "The log of the route process says where it failed; it is tried again by itself.",
            )
            return await self._stand_back()
        return max(0.0, min(self._sweep_at, self._tail_at, self._renew_at) - time.monotonic())

    async def _stand_back(self) -> float:
        self._sweep_at = 0.0  # what was due still is
        await self._ledger.release(self._topic, self._holder)
        return FAULT_RENEWALS * RENEW_SECONDS

    async def _hold(self) -> bool:
        lease = await self._ledger.hold(self._topic, self._holder, LEASE_SECONDS)
        self._renew_at = time.monotonic() + RENEW_SECONDS
        if lease.wanted:
            self._sweep_at = 0.0  # after the one under way, if there is one
        return lease.held

    async def _sweep(self) -> None:
        """A complete listing, which looks behind the greatest name as well whenever that is due."""
        started_ms, started = await self._ledger.now_ms(), time.monotonic()
        self._sweep_at = self._tail_at = started + self._poll
        empty = True
        async for page in self._pages():
            empty = False
            await self._take_in(page)
            if time.monotonic() >= self._tail_at:
                await self._tail()
        unsettled = self._store.unsettled
        if unsettled:  # complete only as of before: what was changed since then was left out
            started_ms -= int(1000 * UNSETTLED_SECONDS)
        elif empty and await self._ledger.waiting(self._topic):
            raise StoreRefused(
                f"{self._store.url} is empty, though objects that were in it wait to be read",
                "Mount it, or bring them back. If they were deleted on purpose, put any other object there, such as an"
                " empty one: then they are left with an alarm.",
            )
        problems = await self._ledger.listed(self._topic, started_ms)
        BUCKET_PROBLEMS.labels(self._bucket.url).set(problems)
        now = time.monotonic()
        rested = now + _REST * (now - started)
        self._sweep_at = max(self._sweep_at, rested)
        if unsettled:
            self._sweep_at = min(self._sweep_at, max(now + UNSETTLED_SECONDS, rested))

    async def _tail(self) -> None:
        self._tail_at = time.monotonic() + self._poll
        async for page in self._pages(await self._ledger.last_name(self._topic)):
            await self._take_in(page)

    async def _pages(self, after: str = "") -> AsyncIterator[Sequence[Found]]:
        async for page in self._store.pages(after):
            if time.monotonic() >= self._renew_at and not await self._hold():
                raise _LeaseLost
            yield page

    async def _take_in(self, page: Sequence[Found]) -> None:
        for found in page:
            if len(found.name) > NAME_BYTES_MAX // 4 and len(found.name.encode()) > NAME_BYTES_MAX:
                raise StoreRefused(
                    f"{self._store.url} holds an object whose name has more than {NAME_BYTES_MAX} bytes:"
                    f" {found.name[:80]}…",
                    "Give it a shorter name.",
                )
        taken = await self._ledger.take_in(self._topic, page)
        if taken.new:
            log.info("new objects", bucket=self._bucket.url, objects=taken.new)
        for known, found in taken.changed:
            if await asyncio.to_thread(self._is_another, known):
                await self._alarm(known, found)

    def _is_another(self, known: Object) -> bool:
        """Asked of the store: the page may be older than what a reader has found."""
        try:
            with self._store.open(known.name, known.etag) as stream:
                stream.read(1)
        except ObjectChanged:
            return True
        except ObjectGone:
            pass
        return False

    async def _alarm(self, known: Object, found: Found) -> None:
        note = f"It was changed after it was read: {known.size:,} bytes then, {found.size:,} now. It is not read again"
        if await self._ledger.changed(self._topic, known.number, found.etag, note):
            log.error("an object has changed after it was read", bucket=self._bucket.url, object=known.name)


class _LeaseLost(Exception):
    """Another process lists the bucket."""
