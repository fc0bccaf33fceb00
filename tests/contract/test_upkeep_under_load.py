"""Readers see the same totals from tiers as from partials, in every snapshot, whatever is going on at the same time."""

import asyncio
import random
import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from rollup_engine.runtime import refresh
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.runtime.upkeep import upkeep_once
from tests.contract.emissions import Emitter, Totals, true_totals, window, wrong_steps
from tests.contract.specs import APP_ID, config, declared, migrated

SECONDS = 4.0
WINDOWS = [window(day, hour, number) for day in range(2) for hour in (0, 1, 5, 23) for number in (0, 3)]
TOTALS = (
    'SELECT coalesce(sum(count), 0)::bigint AS count, coalesce(sum(sum_bytes), 0) AS bytes FROM rollups."downloads"'
)


class Load:
    """Emitters, readers and upkeep at the same time, until the time is over or one finds something wrong."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", seed: int) -> None:
        self.pool, self.random = pool, random.Random(seed)
        sink = PostgresSink(pool, APP_ID)
        self.emitters = [Emitter(sink, f"deltas/{number}") for number in range(2)]
        self.ends = time.monotonic() + SECONDS
        self.snapshots = self.compared = self.cut_off = self.passes = self.deleted = 0

    @property
    def going_on(self) -> bool:
        return time.monotonic() < self.ends

    async def emit(self, emitter: Emitter, customer: str) -> None:
        while self.going_on:
            changed: dict[tuple[int, str, str | None], Totals] = {}
            for start in self.random.sample(WINDOWS, self.random.randint(1, 3)):
                key = start, customer, self.random.choice(("eu", "us", None))
                count, total, _ = emitter.latest.get(key, (0, Decimal(0), None))
                changed[key] = (count + 1, total + self.random.randint(-9, 9), None)
            await emitter.emit(changed)
            await asyncio.sleep(self.random.choice((0, 0.005, 0.05)))

    async def read(self) -> None:
        """Counts only rise, so what a reader saw, and what was emitted when it began, is a floor for what it sees."""
        seen = 0
        while self.going_on:
            floor = max(seen, true_totals(self.emitters)[0])
            one_snapshot = {"isolation": "repeatable_read", "readonly": True}
            async with self.pool.acquire() as connection, connection.transaction(**one_snapshot):  # type: ignore[arg-type]
                wrong, compared = await wrong_steps(connection)
                seen = await connection.fetchval(TOTALS)
            assert not wrong
            assert seen >= floor
            self.snapshots += 1
            self.compared += compared

    async def keep_up(self) -> None:
        while self.going_on:
            one_pass = asyncio.ensure_future(
                upkeep_once(self.pool, APP_ID, quiet_s=0, overdue_s=0, keep_s=0, steps_max=3)
            )
            done, _ = await asyncio.wait({one_pass}, timeout=self.random.choice((0.002, 0.01, 0.03, 1, 1)))
            self.passes += 1
            if done:
                self.deleted += one_pass.result().partials_deleted
                continue
            self.cut_off += 1
            one_pass.cancel()
            with suppress(asyncio.CancelledError):
                await one_pass


async def test_tiers_and_partials_agree_in_every_snapshot(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with migrated(database_url) as pool:
        await declared(pool, config())
        load = Load(pool, seed=1)
        total = refresh._total

        async def slowly(*args: Any) -> int:
            """Emissions come in the middle of a refresh more often than not."""
            await asyncio.sleep(load.random.choice((0, 0.003, 0.01)))
            written = await total(*args)
            await asyncio.sleep(load.random.choice((0, 0.003, 0.01)))
            return written

        monkeypatch.setattr(refresh, "_total", slowly)
        async with asyncio.TaskGroup() as tasks:
            for number, emitter in enumerate(load.emitters):
                tasks.create_task(load.emit(emitter, f"c{number}"))
            for _ in range(3):
                tasks.create_task(load.read())
            for _ in range(2):
                tasks.create_task(load.keep_up())
        assert load.compared > 200
        assert load.cut_off > 10
        assert load.deleted > 10
        while (await upkeep_once(pool, APP_ID, quiet_s=0, overdue_s=0, keep_s=0)).more:
            pass
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            wrong, compared = await wrong_steps(connection)
            assert not wrong
            assert compared
            assert tuple(await connection.fetchrow(TOTALS)) == true_totals(load.emitters)
            assert await connection.fetchval("SELECT count(*) FROM rollup_engine.changes") == 0
            left = await connection.fetchval("SELECT count(*) FROM rollups.downloads_aggregated")
            assert left == sum(len(emitter.latest) for emitter in load.emitters)
