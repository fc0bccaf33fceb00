"""Runs schedules on every core for as long as wanted, or repeats one.

python -m tests.simulation [--seconds 600 | --schedules 2000] [--from SEED] [--processes N]
python -m tests.simulation --seed 42 --trace
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import count
from random import SystemRandom

from tests.simulation import many
from tests.simulation.checks import Violation
from tests.simulation.schedule import Simulation

PROGRESS_SECONDS = 30
VIOLATIONS_MAX = 10  # enough to look at


def main() -> int:
    """0: nothing found. 1: a violation, with the seed that repeats it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--schedules", type=int, help="or for so many; 300 where neither is given")
    parser.add_argument("--from", dest="first", type=int, help="first seed; random where not given")
    parser.add_argument("--processes", type=int, help="one per core where not given")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        return _one(wanted.seed, wanted.trace)
    first = SystemRandom().randrange(10**9) if wanted.first is None else wanted.first
    schedules = wanted.schedules or (None if wanted.seconds else 300)
    return _many(_seeds(first, schedules, wanted.seconds), wanted.processes)


def _seeds(first: int, schedules: int | None, seconds: float | None) -> Iterator[int]:
    print(f"from seed {first}", flush=True)
    end = None if seconds is None else time.monotonic() + seconds
    for seed in count(first) if schedules is None else range(first, first + schedules):
        if end is not None and time.monotonic() > end:
            return
        yield seed


def _many(seeds: Iterator[int], processes: int | None) -> int:
    found, told = many.Found(), time.monotonic()
    for more in many.run_on_all_cores(seeds, **({} if processes is None else {"processes": processes})):
        found.add(more)
        print(*more.violations, sep="\n", end="\n" if more.violations else "", file=sys.stderr, flush=True)
        if len(found.violations) >= VIOLATIONS_MAX:
            break
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{found.schedules} schedules, {len(found.violations)} violations so far", flush=True)
    print(f"{found.schedules} schedules: {dict(found.ends)}, {len(found.violations)} violations")
    return 1 if found.violations else 0


def _one(seed: int, trace: bool) -> int:
    simulation = Simulation(seed)
    try:
        print(simulation.run())
    except Violation as violation:
        print(violation, file=sys.stderr)
        return 1
    finally:
        if trace:
            print(*simulation.trace, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
