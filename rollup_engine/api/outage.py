"""How ingestion does without Postgres while it does not answer: keys found good a moment ago, and the YAML last loaded.

Usage that is not taken is lost where its producer gives up, and nothing of it needs Postgres until it is rolled up. A
key that was revoked in the meantime is good for as long as Postgres stays away, and no longer than `KEY_SECONDS_MAX`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from rollup_engine.runtime.api_keys import ApiKey, hash_of
from rollup_engine.runtime.database import transient

KEY_SECONDS_MAX: Final = 300.0
KEYS_MAX: Final = 10_000
PROBE_SECONDS: Final = 2.0

Answer = TypeVar("Answer")


class Outage:
    """Whether Postgres is known not to answer. One request in a while finds out whether it does again: so the others
    need not wait for a time limit each."""

    def __init__(self) -> None:
        self._probe_at: float | None = None  # None: it answers

    async def bridged(self, known: Answer | None, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `ask` asks of Postgres; `known`, what it answered before, while it does not answer. Raises what `ask`
        raises, where nothing is known, or it is no outage."""
        if known is not None and self.known():
            return known
        try:
            answer = await ask()
        except Exception as error:
            if not transient(error):
                raise
            self.began()
            if known is None:
                raise
            return known
        self.over()
        return answer

    def known(self) -> bool:
        """True: do without it. False: ask it, and say what came of it, by `over` or `began`."""
        if self._probe_at is None:
            return False
        if time.monotonic() >= self._probe_at:
            self.began()  # for the others, while this one asks
            return False
        return True

    def began(self) -> None:
        self._probe_at = time.monotonic() + PROBE_SECONDS

    def over(self) -> None:
        self._probe_at = None


class KnownKeys:
    """Keys that Postgres said are good, by their hash."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()

    def put(self, text: str, key: ApiKey | None) -> None:
        """What Postgres says of it now; None: it is not good."""
        digest = hash_of(text)
        self._keys.pop(digest, None)
        if key is not None:
            self._keys[digest] = time.monotonic(), key
            if len(self._keys) > KEYS_MAX:
                self._keys.popitem(last=False)

    def get(self, text: str) -> ApiKey | None:
        """What it was when Postgres last said it is good; None where that is too long ago."""
        at, key = self._keys.get(hash_of(text), (float("-inf"), None))
        return key if time.monotonic() - at < KEY_SECONDS_MAX else None
