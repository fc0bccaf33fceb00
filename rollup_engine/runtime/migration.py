"""`migrate`: the schema, and the tables of the rollups where there is YAML."""

from collections.abc import Sequence

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.runtime import schema
from rollup_engine.runtime.addresses import pool_of
from rollup_engine.runtime.database import lock_schema
from rollup_engine.runtime.metric_role import grant_reading


async def migrate(settings: Settings, config: Config | None) -> Sequence[str]:
    """Lines that say what was done."""
    async with pool_of(settings) as pool:
        applied = await schema.migrate(pool)
        lines = [f"applied {name}" for name in applied] or ["the schema is up to date"]
        if config is not None:
            async with pool.acquire() as connection, connection.transaction():
                await lock_schema(connection)
                await schema.declare(connection, settings.app_id, config)
            lines += [
                f"rollups.{rollup.table_name} is there, with view rollups.{rollup.table}" for rollup in config.rollups
            ]
        async with pool.acquire() as connection, connection.transaction():
            await lock_schema(connection)
            for_administrator = await grant_reading(connection)
        return lines if for_administrator is None else [*lines, for_administrator]
