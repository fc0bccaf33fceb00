"""The YAML that an app id runs under, as the database knows it."""

from datetime import datetime

import asyncpg

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import schema, sql


async def active_config(settings: Settings, database_url: str) -> tuple[Config, dict[str, datetime]]:
    """The YAML, and from when on those tables of it are complete that were added later.

    Raises `RollupError` where the app id has never run on this database.
    """
    query = sql.queries("registry")
    latest, complete_from = None, []
    pool = await schema.connect(database_url, connections_max=1)
    try:
        latest = await pool.fetchrow(query["latest_generation"], settings.app_id)
        complete_from = await pool.fetch(query["complete_from"], settings.app_id)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        pass
    finally:
        await pool.close()
    if latest is None:
        raise RollupError(f"App id {settings.app_id!r} has not run on this database yet. Start `rollup-engine up`.")
    return Config.from_json(latest["config"]), {row["table_name"]: row["complete_from"] for row in complete_from}
