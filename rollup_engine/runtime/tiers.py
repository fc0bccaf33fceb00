"""The tier tables of rollups: which a rollup has, their names, and making or extending them.

Owns their shape. What is in them is `upkeep`'s; which may be read, `billable_metrics.coverage`'s.
"""

from typing import NamedTuple

from rollup_engine.config.naming import TIER_SUFFIXES
from rollup_engine.errors import ConfigError
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Tier(NamedTuple):
    """`name` as in notes."""

    name: str
    step_ms: int

    @property
    def suffix(self) -> str:
        return TIER_SUFFIXES[self.name]


HOUR, DAY = Tier("hour", HOUR_MS), Tier("day", DAY_MS)


def tiers_of(window_ms: int) -> tuple[Tier, ...]:
    """Finest first. A tier's steps hold whole windows, and more than one."""
    return tuple(tier for tier in (HOUR, DAY) if window_ms < tier.step_ms and tier.step_ms % window_ms == 0)


async def declare(connection: Connection, table: str, window_ms: int) -> None:
    """Make the tiers of a rollup's table, or add the columns declared since. Within the schema's lock.

    Tiers made for a table that holds partials already begin with a note for every hour of it.
    """
    query = sql.queries("upkeep")
    columns = [(row["column_name"], row["kind"]) for row in await connection.fetch(query["columns"], table)]
    for tier in tiers_of(window_ms):
        relation = f'rollups."{table}{tier.suffix}"'
        if not await connection.fetchval(query["has_tier"], table, tier.name):
            if await connection.fetchval("SELECT to_regclass($1)", relation) is not None:
                raise ConfigError(
                    f"{relation} is there already, and it is not the totals per {tier.name} of rollup {table!r}."
                    " Give one of the two another name."
                )
            declared = "".join(f', "{name}" {_type(kind)}' for name, kind in columns)
            await connection.execute(sql.template("tier", table=table, suffix=tier.suffix, columns=declared))
            await connection.execute(query["add_tier"], table, tier.name, tier.step_ms)
            await connection.execute(sql.template("guard", table=table))  # waits for who writes now, so all is seen:
            await connection.execute(query["note_all"], table)
            continue
        present = {row["attname"] for row in await connection.fetch(query["present"], relation)}
        for name, kind in columns:
            if name not in present:
                added = sql.template("tier_column", table=table, suffix=tier.suffix, column=name, type=_type(kind))
                await connection.execute(added)


def _type(kind: str) -> str:
    return "text" if kind == "group" else "numeric"
