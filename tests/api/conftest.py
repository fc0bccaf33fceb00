"""One database for all that only reads, and a fresh one for what writes."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.api.bed import DAY, WINDOW, Bed, Client, Row, client
from tests.api.ingest_bed import Door

ROWS: list[Row] = [
    (window, customer, (region, end), window * 3 + number + 1, f"{window + 1}.{number}5")
    for window in (0, 1, 2, 6, 7, 143)
    for customer in ("acme", "globex")
    for number, (region, end) in enumerate([("eu", "a"), ("us", 'b,"ü'), (None, "")])
]
CALLS: list[Row] = [(window, "acme", ("eu",), window + 1, "0") for window in range(12)]


async def _filled(url: str) -> None:
    async with Bed.on(url) as bed:
        await bed.set_up()
        await bed.emit("download", ROWS, watermark=DAY + 143 * WINDOW, closed=DAY + 137 * WINDOW)
        await bed.emit("API_CALL", CALLS, watermark=DAY + 12 * WINDOW, closed=DAY + 137 * WINDOW)


@pytest.fixture(scope="session")
def filled(new_database: Callable[[], str]) -> str:
    """URL of the database with ROWS and CALLS, which nobody changes but by adding keys."""
    url = new_database()
    with asyncio.Runner() as runner:
        runner.run(_filled(url))
    return url


@pytest.fixture
async def bed(filled: str) -> AsyncIterator[Bed]:
    async with Bed.on(filled) as bed:
        yield bed


@pytest.fixture
async def own_bed(database_url: str) -> AsyncIterator[Bed]:
    """A database of one's own, with nothing emitted yet."""
    async with Bed.on(database_url) as bed:
        await bed.set_up()
        yield bed


@pytest.fixture
async def api(bed: Bed) -> AsyncIterator[Client]:
    async with client(bed) as one:
        yield one


@pytest.fixture
async def door(bed: Bed) -> AsyncIterator[Door]:
    """An API that takes events, with a key for that."""
    async with client(bed, await bed.key("ingest")) as api:
        yield Door.of(api)
