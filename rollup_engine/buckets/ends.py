"""How far each bucket's log goes, for all readers of a process: one question to the ledger, however many wait."""

import asyncio
import time
from collections.abc import Mapping

from rollup_engine.buckets.ledger import Known, Ledger

ASK_SECONDS = 0.3


class Ends:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: Mapping[str, Known] = {}
        self._asked_at = -ASK_SECONDS
        self._asking: asyncio.Task[None] | None = None

    async def beyond(self, topic: str, number: int) -> bool:
        """Whether the bucket has an object of this number. Answers at once where it has; else after a look at most
        `ASK_SECONDS` old."""
        known = self.of(topic)
        if known.objects <= number:
            known = await self.look(topic)
        return known.objects > number

    async def look(self, topic: str) -> Known:
        """As of a look at most `ASK_SECONDS` old."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)
        return self.of(topic)

    def of(self, topic: str) -> Known:
        """As of the latest look."""
        return self._known.get(topic, Known(0))

    async def _ask(self) -> None:
        await asyncio.sleep(max(0.0, self._asked_at + ASK_SECONDS - time.monotonic()))
        self._known = await self._ledger.known()
        self._asked_at = time.monotonic()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
