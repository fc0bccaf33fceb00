"""A pool on a migrated, otherwise empty database."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.contract.specs import migrated


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    async with migrated(database_url) as pool:
        yield pool
