"""The database role that metrics run as: its name, and what to do where the engine's login cannot take it on.

Owns: those words, shared by who makes the role and who takes it on. Must never connect to anything.
"""

from __future__ import annotations

from typing import Final

METRIC_ROLE: Final = "rollup_metrics"
"""No login of its own and no right but to read rollups. The engine's login takes it on for every metric."""


def cannot_take_on(login: str, *, is_there: bool) -> str:
    """What happened and what to do, where the role is not there or the login may not take it on."""
    statements = [] if is_there else [f"CREATE ROLE {METRIC_ROLE} NOLOGIN;"]
    statements.append('GRANT {} TO "{}";'.format(METRIC_ROLE, login.replace('"', '""')))
    return (
        f"Metrics cannot run yet: the login {login!r} cannot take on the role {METRIC_ROLE}, which can only read"
        f" rollups. Run `rollup-engine migrate`. If it says this too, have a superuser run: {' '.join(statements)} Then"
        " run it again. Or name a login for metrics, one that can only read, by ROLLUP_METRICS_DATABASE_URL."
    )
