"""Faults on demand, for tests of real processes: nothing happens unless the environment asks for it.

    ROLLUP_INJECT=kill:dedup.sent:3        SIGKILL of this process as it passes `dedup.sent` for the third time
    ROLLUP_INJECT=stop:dedup.sent:3        SIGSTOP instead: it hangs there until SIGCONT
    ROLLUP_INJECT=clock:-3600000           the wall clock reads an hour less
    ROLLUP_INJECT=kill:route.sent,clock:60000

Points: route.sent, route.advanced, dedup.sent, dedup.advanced (before the store's write), dedup.stored,
rollup.advanced, sink.commit (all of a transaction written, COMMIT not sent), replay.sent (a letter, before that is in
Postgres).
"""

import os
import signal
from collections import Counter
from functools import cache

POINTS = (
    "route.sent",
    "route.advanced",
    "dedup.sent",
    "dedup.advanced",
    "dedup.stored",
    "rollup.advanced",
    "sink.commit",
    "replay.sent",
)
VARIABLE = "ROLLUP_INJECT"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_passed: Counter[str] = Counter()


@cache
def _wanted() -> dict[str, tuple[str, ...]]:
    """Kind to the words after it, one of each kind at most."""
    words = [part.split(":") for part in os.environ.get(VARIABLE, "").split(",") if part]
    return {kind: tuple(rest) for kind, *rest in words}


def passing(point: str) -> None:
    """Ends the process, as a power cut would, or stops it, where the environment asks for it."""
    for kind, number in _SIGNALS.items():
        wanted = _wanted().get(kind)
        if wanted is None or wanted[0] != point:
            continue
        _passed[kind] += 1
        if _passed[kind] == int(wanted[1] if len(wanted) > 1 else 1):
            os.kill(os.getpid(), number)


def clock_shift_ms() -> int:
    """What to add to the wall clock."""
    wanted = _wanted().get("clock")
    return int(wanted[0]) if wanted else 0
