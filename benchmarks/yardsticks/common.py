"""What every yardstick shares: its task from the command line, its outcome as a file. Standard library only.

A yardstick is a program of its own: it reads the topic (or the file), takes each id once, adds up per window start,
customer and speed, and hands back totals and the seconds that took. Its clock starts with its first event, so that no
start-up counts, and stops when the last event is in the totals.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

WINDOW_SECONDS = 600


@dataclass(frozen=True)
class Task:
    """`kafka`: host:port. `file`: the same events as lines, for those that work in batches. `state`: an empty
    directory. `variant`: one of several ways of the same yardstick."""

    kafka: str
    topic: str
    partitions: int
    events: int
    file: Path
    state: Path
    out: Path
    variant: str

    def done(self, seconds: float, groups: Iterable[tuple[int, str, str, int, int]]) -> None:
        """Hand back the outcome: (window start in ms, customer, speed, count, sum of bytes) of every group."""
        outcome = {"seconds": seconds, "memory_mb": _memory_mb(), "groups": list(groups)}
        unfinished = self.out.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(outcome))
        unfinished.rename(self.out)


def _memory_mb() -> float | None:
    """Greatest resident memory so far; the kernel's resource usage would tell of the parent's too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) / 1e3


class Stopwatch:
    """Starts once; `seconds` since then."""

    def __init__(self) -> None:
        self._started: float | None = None

    def start(self) -> None:
        """Does nothing once it runs."""
        if self._started is None:
            self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        assert self._started is not None
        return time.perf_counter() - self._started


def task() -> Task:
    parser = argparse.ArgumentParser()
    for name in ("kafka", "topic"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("partitions", "events"):
        parser.add_argument(f"--{name}", required=True, type=int)
    for name in ("file", "state", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--variant", default="")
    return Task(**vars(parser.parse_args()))


def window_ms(at: str) -> int:
    """Start of the window of an RFC 3339 time in UTC. Every window begins with a minute: each is parsed once."""
    return _window_of_minute(at[:16])


@cache
def _window_of_minute(minute: str) -> int:
    seconds = int(datetime.fromisoformat(f"{minute}:00Z").timestamp())
    return seconds // WINDOW_SECONDS * WINDOW_SECONDS * 1_000
