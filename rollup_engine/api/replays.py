"""`Idempotency-Key`: a call that is sent again gets the first answer again, also while the first is still under way.

After the IETF's draft "The Idempotency-Key HTTP Header Field": another body under the same key is 422. Answers that ask
for the call to be sent again (429, 503) go to those who wait for them already, and are not kept. Kept in this process
only, for a while: another process would take the call once more, and that is harmless, because every event has an id
that is counted once. It saves work.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from rollup_engine.api.problems import Problem

KEY_LENGTH_MAX: Final = 255
SECONDS_MAX: Final = 600.0
ANSWERS_MAX: Final = 20_000
BYTES_MAX: Final = 16 << 20
_ENTRY_BYTES: Final = 1_024  # what one costs besides its body
_KEPT: Final = frozenset({200, 202, 204, 400})


@dataclass(eq=False)
class _Entry:
    digest: bytes
    begun_at: float
    done: asyncio.Future[Response | None]  # None: it was given up
    size: int = 0


class Replays:
    """The answers to latest calls, by who called and under which key."""

    def __init__(
        self, seconds_max: float = SECONDS_MAX, answers_max: int = ANSWERS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._seconds_max, self._answers_max, self._bytes_max = seconds_max, answers_max, bytes_max
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._bytes = 0

    async def once(self, caller: str, key: str, digest: bytes, work: Callable[[], Awaitable[Response]]) -> Response:
        """The answer of `work`, which is done unless the same was asked before. `digest`: of all that was asked.

        Raises `Problem` 422 where the key was used for something else, and whatever `work` raises.
        """
        if not 0 < len(key) <= KEY_LENGTH_MAX:
            raise Problem(422, f"Idempotency-Key must have 1 to {KEY_LENGTH_MAX} characters.")
        while True:
            self._expire()
            entry = self._entries.get((caller, key))
            if entry is None:
                return await self._first((caller, key), digest, work)
            if entry.digest != digest:
                raise Problem(422, "This Idempotency-Key was used with another body. Choose a new one for each call.")
            answer = await asyncio.shield(entry.done)
            if answer is not None:
                return _again(answer)
            # The first one was given up, and is forgotten: the next try is somebody's first.

    async def _first(self, name: tuple[str, str], digest: bytes, work: Callable[[], Awaitable[Response]]) -> Response:
        entry = _Entry(digest, time.monotonic(), asyncio.get_running_loop().create_future())
        self._entries[name] = entry
        try:
            response = await work()
        except Exception as error:
            self._forget(name, entry)
            entry.done.set_exception(error)  # whoever waits fails at once as well, rather than one after the other
            entry.done.exception()  # heard, if nobody waits
            raise
        except BaseException:
            self._forget(name, entry)
            entry.done.set_result(None)
            raise
        entry.done.set_result(response)
        if response.status_code not in _KEPT:
            self._forget(name, entry)
        elif self._entries.get(name) is entry:
            entry.size = _ENTRY_BYTES + len(response.body)
            self._bytes += entry.size
        return response

    def _expire(self) -> None:
        """The oldest go first; one that is under way is not waited for by those who come later."""
        now = time.monotonic()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            few = len(self._entries) <= self._answers_max and self._bytes <= self._bytes_max
            if few and now - entry.begun_at < self._seconds_max:
                return
            self._forget(name, entry)

    def _forget(self, name: tuple[str, str], entry: _Entry) -> None:
        if self._entries.get(name) is entry:
            del self._entries[name]
            self._bytes -= entry.size


def _again(answer: Response) -> Response:
    """A response is sent by one request only."""
    made = Response(answer.body, answer.status_code)
    made.raw_headers = list(answer.raw_headers)
    return made
