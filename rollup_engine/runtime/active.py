"""The YAML that an app id runs under, as the database knows it."""

import asyncpg

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import schema, sql


async def active_config(settings: Settings, database_url: str) -> Config:
    """Raises `RollupError` where the app id has never run on this database."""
    pool = await schema.connect(database_url, connections_max=1)
    try:
        latest = await pool.fetchrow(sql.queries("registry")["latest_generation"], settings.app_id)
    except asyncpg.UndefinedTableError:
        latest = None
    finally:
        await pool.close()
    if latest is None:
        raise RollupError(f"App id {settings.app_id!r} has not run on this database yet. Start `rollup-engine up`.")
    return Config.from_json(latest["config"])
