"""Runs the fault matrix, one row after another, and prints a line for each as it ends.

python -m tests.faults [--events 200000] [--only WORD] [--kafka apache|embedded] [--list]
"""

import argparse
import logging
import sys
import time

from tests import apache_kafka
from tests.faults.harness import Fault, all_faults, run
from tests.faults.harness_services import APACHE, EMBEDDED, Services

_LINE = "{:<98} {:>8} {:>10} {:>9}  {}"


def main() -> int:
    """0: every row was exact. 1: one was not, or could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="live load of each row (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="WORD", help="rows with this in their name")
    parser.add_argument("--kafka", choices=[APACHE, EMBEDDED], default=APACHE)
    parser.add_argument("--list", action="store_true", help="name the rows, and run none")
    options = parser.parse_args()
    chosen = [one for one in all_faults() if options.only.lower() in one.name.lower()]
    if options.list:
        print("\n".join(f"{one.name}{' (ci)' if one.ci else ''}" for one in chosen))
        return 0
    if options.kafka == APACHE and not apache_kafka.can_be_had():
        print(f"Apache Kafka cannot be had here: install Java {apache_kafka.JAVA_VERSION_MIN} and Maven.")
        return 1
    can_run = [one for one in chosen if options.kafka == APACHE or one.embedded]
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that goes away is the point
    services = Services(options.kafka)
    started = time.monotonic()
    print(_LINE.format("fault", "events", "difference", "recovered", ""), flush=True)
    try:
        failed = [one.name for one in can_run if not _run(one, services, options.events)]
    finally:
        services.close()
    skipped = [one.name for one in chosen if one not in can_run]
    print(
        f"{len(can_run) - len(failed)} of {len(can_run)} rows exact in {time.monotonic() - started:.0f} s;"
        f" skipped {len(skipped)} that need Apache Kafka: {', '.join(skipped)}."
        if skipped
        else f"{len(can_run) - len(failed)} of {len(can_run)} rows exact in {time.monotonic() - started:.0f} s;"
        " none skipped."
    )
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed or not can_run else 0


def _run(one: Fault, services: Services, events: int) -> bool:
    try:
        outcome = run(one, services, events)
    except Exception as error:  # noqa: BLE001 - whatever it is, the row has failed, and the next one runs
        print(_LINE.format(one.name, "", "", "", "FAILED"), flush=True)
        said = [f"{type(error).__name__}: {error}"[:3_000], *getattr(error, "__notes__", [])]
        print("    " + "\n    ".join(said), flush=True)
        return False
    print(
        _LINE.format(one.name, f"{outcome.events:,}", str(outcome.difference), f"{outcome.seconds:.1f} s", "ok"),
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
