"""Clocks. Nothing but these reads the time, so that tests can set it; what verdicts take of it, route takes, once."""

import time
from typing import Protocol

from rollup_engine import injection

FIRST_MS = -62_135_596_800_000  # 0001-01-01T00:00:00Z
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


class Clock(Protocol):
    """Time for schedules and for the guard against future timestamps."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds UTC; may jump."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._shift_ms = injection.clock_shift_ms()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._shift_ms

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class ManualClock:
    """A clock that only moves when told to; wall clock and elapsed time move apart on `jump`."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._elapsed_ms = 0

    def now_ms(self) -> int:
        return self._now_ms

    def elapsed_ms(self) -> int:
        return self._elapsed_ms

    def advance(self, ms: int) -> None:
        """Let `ms` pass on both clocks."""
        self._now_ms += ms
        self._elapsed_ms += ms

    def jump(self, ms: int) -> None:
        """Set the wall clock forward or back, as an operator or NTP would."""
        self._now_ms += ms
