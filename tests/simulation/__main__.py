"""Runs schedules for as long as wanted, or repeats one.

python -m tests.simulation [--seconds 600 | --schedules 2000] [--from SEED]
python -m tests.simulation --seed 42 --trace
"""

import argparse
import sys
import time
from collections import Counter
from random import SystemRandom

from tests.simulation.checks import Violation
from tests.simulation.schedule import Simulation


def main() -> int:
    """0: nothing found. 1: a violation, with the seed that repeats it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--schedules", type=int, help="or for so many")
    parser.add_argument("--from", dest="first", type=int, help="first seed; random where not given")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        return _one(wanted.seed, wanted.trace)
    first = SystemRandom().randrange(10**9) if wanted.first is None else wanted.first
    end = time.monotonic() + (wanted.seconds or 1e9)
    ends: Counter[str] = Counter()
    failed = 0
    for seed in range(first, first + (wanted.schedules or (10**9 if wanted.seconds else 300))):
        if time.monotonic() > end:
            break
        try:
            ends[Simulation(seed).run()] += 1
        except Violation as violation:
            failed += 1
            print(violation, file=sys.stderr, flush=True)
    print(f"{ends.total() + failed} schedules from seed {first}: {dict(ends)}, {failed} violations")
    return 1 if failed else 0


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


sys.exit(main())
