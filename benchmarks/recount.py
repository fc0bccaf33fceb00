"""Whether what came out is what went in: totals per window start, customer and speed, and the engine's books.

A benchmark that is fast and wrong is worth nothing, so every figure passes here or is marked.
"""

import asyncpg

from benchmarks.traffic import Totals
from rollup_engine.runtime.database import at_ms

EQUAL = "equal"


def compared(found: Totals, expected: Totals) -> str:
    """`equal`, or how far off."""
    differing = sum(found.get(key) != total for key, total in expected.items()) + len(found.keys() - expected.keys())
    return EQUAL if not differing else f"wrong: {differing:,} of {len(expected):,} groups"


async def engine_totals(database: str, view: str = "usage") -> Totals:
    """What a rollup's view says."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            f'SELECT "timestamp", external_customer_id, speed, count, sum_bytes FROM rollups."{view}"'  # noqa: S608
        )
    finally:
        await connection.close()
    return {(at_ms(row[0]), row[1], row[2]): (row[3], int(row[4])) for row in rows}


async def check(database: str, expected: Totals, events: int, rollups: int = 1) -> str:
    """Every rollup's totals, and the books: `equal`, or what is wrong."""
    for view in ("usage", *(f"usage{number}" for number in range(2, rollups + 1))):
        verdict = compared(await engine_totals(database, view), expected)
        if verdict != EQUAL:
            return f"{verdict} of {view}"
    connection = await asyncpg.connect(database)
    try:
        query = "SELECT sum(counted), sum(duplicate), sum(records) FROM rollup_engine.books"
        (found,) = await connection.fetch(query)
        books = tuple(map(int, found))
    finally:
        await connection.close()
    counted = sum(count for count, _ in expected.values())
    wanted = (counted, events - counted, events)
    return EQUAL if books == wanted else f"wrong: the books say {books}, not {wanted}"
