"""Many schedules, on every core: what they met, how they ended, and what they found.

Each worker process takes a slice of seeds at a time. A seed's outcome is the same in every process.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from tests.simulation.schedule import Simulation

SLICE = 20
FAULTS = (  # as schedules' traces tell of them; all must be met, or the schedules prove little
    "append to sim.events",
    "append to sim.deltas",
    "takes effect, the answer is lost",
    "is given up, still under way",
    "arrives late",
    "is killed",
    "is asked to stop",
    "StoreFault('before the write')",
    "StoreFault('after the write')",
    "but the claim was lost",
    "ended: ClaimLost",
    "is lost",
    "is rolled back",
    "generation 2",
    "generation 3",
    "the broker loses the last record",
    "raw is deleted and made again",
    "sim.events is deleted and made again",
    "sim.deltas.download is deleted and made again",
)


@dataclass
class Found:
    """Of some schedules: how often each end, fault and verdict was met, and each violation."""

    ends: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def schedules(self) -> int:
        return self.ends.total() + len(self.violations)

    def add(self, more: "Found") -> None:
        self.ends += more.ends
        self.met += more.met
        self.violations += more.violations


def run(seeds: Sequence[int]) -> Found:
    """One schedule per seed, in this process."""
    found = Found()
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            found.ends[simulation.run()] += 1
        except AssertionError as violation:
            found.violations.append(str(violation))
            continue
        trace = "\n".join(simulation.trace)
        found.met.update(fault for fault in FAULTS if fault in trace)
        for books in simulation.engine.sink.books.values():
            found.met.update(kind for kind, count in vars(books).items() if isinstance(count, int) and count)
    return found


def run_on_all_cores(seeds: Iterator[int], processes: int = os.cpu_count() or 1) -> Generator[Found, None, None]:
    """What each slice of `seeds` comes to, as it is done; no more of `seeds` is asked for than is at work."""
    with _one_thread_each(), ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        at_work: set[Future[Found]] = set()
        while True:
            while len(at_work) <= processes and (slice_ := list(islice(seeds, SLICE))):
                at_work.add(pool.submit(run, slice_))
            if not at_work:
                return
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Frames of a few rows are no faster on more threads; processes started meanwhile are told."""
    before = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["POLARS_MAX_THREADS"]
        else:
            os.environ["POLARS_MAX_THREADS"] = before
