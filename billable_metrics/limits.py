"""How much one metric may use, and how many run at once.

Owns: the figures and the session settings that carry them to Postgres. Must never connect to anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

APPLICATION_NAME: Final = "rollup-engine metric"

MIB: Final = 1 << 20
FORGOTTEN_MS: Final = 10_000
"""How much longer than its timeout a session may stand idle: it is us that it waits for, so we have ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of all metrics of one runner.

    A metric that Postgres does not stop after `timeout_s` is stopped by us `grace_s` later. `result_bytes_max` counts
    what Postgres sends. `work_mem_kb` is for each sort and each hash table of a plan, `temp_file_mb` for all that they
    write to disk, where the login may set it. `connections_max` metrics run at once, at most half of them (rounded up)
    for one caller; others wait up to `wait_s`.
    """

    timeout_s: float = 30.0
    grace_s: float = 1.0
    rows_max: int = 100_000
    result_bytes_max: int = 64 * MIB
    work_mem_kb: int = 32 << 10
    temp_file_mb: int = 2_048
    connections_max: int = 8
    wait_s: float = 10.0

    @property
    def connections_per_caller_max(self) -> int:
        """How many of the connections one caller may have."""
        return (self.connections_max + 1) // 2


def session_settings(limits: Limits, timeout_s: float) -> dict[str, str]:
    """Settings of a metric's session, given as it starts."""
    timeout_ms = max(1, round(timeout_s * 1000))  # none would mean no limit
    return {
        "application_name": APPLICATION_NAME,
        "statement_timeout": f"{timeout_ms}",
        "lock_timeout": f"{timeout_ms}",
        "idle_in_transaction_session_timeout": f"{timeout_ms + FORGOTTEN_MS}",
        "default_transaction_read_only": "on",
        "work_mem": f"{limits.work_mem_kb}kB",
        "hash_mem_multiplier": "1",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        # Names mean the built-in functions and types only, and text means what the rewriter printed.
        "search_path": "pg_catalog",
        "standard_conforming_strings": "on",
        "timezone": "UTC",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
    }


def welcome_settings(limits: Limits) -> dict[str, str]:
    """Settings that not every login may set, or not every server has: a metric runs without them too."""
    return {
        "temp_file_limit": f"{limits.temp_file_mb}MB",
        "client_connection_check_interval": "1s",  # a statement whose client has gone ends by itself
    }
