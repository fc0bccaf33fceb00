"""The services that the rows share, one set per kind of Kafka and session."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.harness_services import Services


@pytest.fixture(scope="session")
def services_on() -> Iterator[Callable[[str], Services]]:
    """`services_on("apache")`: started when the first row asks."""
    made: dict[str, Services] = {}

    def on(kind: str) -> Services:
        return made.setdefault(kind, Services(kind))

    yield on
    for services in made.values():
        services.close()
