"""What a row of the fault matrix is written with: `@fault` names it, a `Bed` is what it works on.

    @fault("SIGKILL of a worker", ci=True)
    def killed(bed: Bed) -> Outcome:
        bed.start("route", "work")
        load = bed.load(over=20)
        load.reaches(0.4)
        bed.workers[1].kill()
        bed.start("work")
        bed.recovering()
        return bed.check()

Owns: the list of rows, and running one. What a `Bed` has is in `harness_bed`. Rows live in `MODULES`.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.harness_bed import GRACE, PARTITIONS, Bed, Outcome
from tests.faults.harness_services import Services, new_kafka, new_postgres

__all__ = ["GRACE", "PARTITIONS", "Bed", "Fault", "Outcome", "all_faults", "bed", "fault", "run"]

MODULES = (
    "processes",
    "kafka",
    "databases",
    "disks",
    "clocks",
    "poison",
    "values",
    "yaml_changes",
    "lifecycle",
    "letters",
    "closing",
    "buckets",
)


@dataclass(frozen=True)
class Fault:
    """A row: `run` does everything, and returns what came of it or raises AssertionError."""

    name: str
    run: Callable[[Bed], Outcome]
    ci: bool = False
    own_kafka: bool = False
    own_database: bool = False
    embedded: bool = False


FAULTS: list[Fault] = []


def fault(
    name: str, *, ci: bool = False, own_kafka: bool = False, own_database: bool = False, embedded: bool = False
) -> Callable[[Callable[[Bed], Outcome]], Callable[[Bed], Outcome]]:
    """Makes a function a row. `own_kafka`, `own_database`: it harms them, and gets a server of its own.

    `ci`: part of the subset that pytest runs. `embedded`: can also run on the embedded broker, and does in CI.
    """

    def add(run: Callable[[Bed], Outcome]) -> Callable[[Bed], Outcome]:
        assert name not in {known.name for known in FAULTS}, f"two rows are called {name!r}"
        FAULTS.append(Fault(name, run, ci, own_kafka, own_database, embedded))
        return run

    return add


def all_faults() -> list[Fault]:
    """Every row, in the modules' order."""
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    return FAULTS


@contextmanager
def bed(one: Fault, services: Services, events: int) -> Iterator[Bed]:
    """A row's bed, on servers of its own where it harms them. After a failure its directory with the logs stays."""
    with (
        _own(one.own_kafka, lambda: new_kafka(services.kind)) as own_kafka,
        _own(one.own_database, new_postgres) as own_postgres,
    ):
        directory = Path(tempfile.mkdtemp(prefix="rollup-engine-row-"))
        made = Bed(own_kafka or services.kafka, own_postgres or services.postgres, events, directory)
        failed = True
        try:
            yield made
            failed = False
        finally:
            made.close(keep=failed)


@contextmanager
def _own(wanted: bool, make: Callable[[], Any]) -> Iterator[Any]:
    if not wanted:
        yield None
        return
    with make() as made:
        yield made


def run(one: Fault, services: Services, events: int) -> Outcome:
    """One row. Raises AssertionError where anything differs, naming the directory of its logs."""
    with bed(one, services, events) as made:
        try:
            outcome = one.run(made)
            assert not outcome.difference.events, f"{outcome.difference.events} events differ from the recount"
            assert not outcome.difference.bytes, f"{outcome.difference.bytes} bytes differ from the recount"
        except Exception as error:
            error.add_note(f"The processes' logs are in {made.directory}")
            raise
    return outcome
