"""The rows of the fault matrix that CI has time for, on Apache Kafka, and some on the embedded broker too."""

import os
from collections.abc import Callable

import pytest

from tests import apache_kafka
from tests.faults.harness import Fault, all_faults, run
from tests.faults.harness_services import APACHE, EMBEDDED, Services

EVENTS = int(os.environ.get("FAULT_EVENTS", "20000"))
ROWS = [(one, kind) for one in all_faults() if one.ci for kind in (APACHE, EMBEDDED) if kind == APACHE or one.embedded]


@pytest.mark.parametrize(("one", "kind"), [pytest.param(*row, id=f"{row[0].name} ({row[1]})") for row in ROWS])
def test_exact(one: Fault, kind: str, services_on: Callable[[str], Services]) -> None:
    services = services_on(kind)
    try:
        run(one, services, EVENTS)
    except apache_kafka.Unavailable as reason:
        pytest.skip(f"Apache Kafka cannot be had here: {reason}")
