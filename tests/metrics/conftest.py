"""One database for all metric tests, with a fixed partial history that holds every awkward value."""

import asyncio
import random
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from tests.metrics.support import CUSTOMER, DOWNLOADS, REQUESTS, Database, Series


def history(groups: int, aggregates: int, seed: int) -> list[Series]:
    """About 200 series over 30 windows, each with up to five partials. Counts only grow; sums may fall."""
    chance = random.Random(seed)
    values = (None, "", "null", "fast", "slow", "Ünï'\"code")
    made = {}
    for _ in range(220):
        window, customer = chance.randrange(30), chance.choice((CUSTOMER, "globex", "initech"))
        tuple_ = tuple(chance.choice(values) for _ in range(groups))
        count, sums = 0, [Decimal(0)] * aggregates
        partials = []
        for _ in range(chance.randint(1, 5)):
            count += chance.randint(1, 10**9)
            sums = [each + Decimal(chance.randint(-(10**22), 10**22)) / 10**9 for each in sums]
            partials.append((count, *(None if chance.random() < 0.05 else each for each in sums)))
        made[window, customer, tuple_] = Series(window, customer, tuple_, tuple(partials))
    return list(made.values())


@pytest.fixture(scope="session")
def loop_runner() -> Iterator[asyncio.Runner]:
    """An event loop for tests that are not coroutines themselves (Hypothesis runs those many times)."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def fixed(new_database: Callable[[], str], loop_runner: asyncio.Runner) -> Iterator[Database]:
    """The database with the fixed history, for tests that only read."""
    database = Database(new_database(), loop_runner)
    database.load(DOWNLOADS, history(2, 3, seed=1))
    database.load(REQUESTS, history(1, 1, seed=2))
    yield database
    database.close()


@pytest.fixture(scope="session")
def scratch(new_database: Callable[[], str], loop_runner: asyncio.Runner) -> Iterator[Database]:
    """A database whose content each test replaces."""
    database = Database(new_database(), loop_runner)
    yield database
    database.close()
