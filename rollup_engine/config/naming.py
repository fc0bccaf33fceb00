"""How names in the YAML become column and table names in Postgres.

Owns: the one rule from text to name, and the names that are taken. Must never know about YAML or SQL text: the
loader checks declarations with it, and the metric rewriter matches names in queries with it.
"""

from __future__ import annotations

import re
from typing import Final

NAME_BYTES_MAX: Final = 40
"""Longest column or table name, in bytes; leaves room for suffixes below Postgres's 63."""

TABLE_SUFFIX: Final = "_aggregated"
"""A rollup's physical table is its view's name with this suffix."""

TIER_SUFFIXES: Final = {"hour": "_hourly", "day": "_daily"}
"""Its hourly and daily totals are in tables with these."""

FIXED_COLUMNS: Final = frozenset(
    {
        "idempotency_key",
        "timestamp",
        "timestamp_millis",
        "external_customer_id",
        "count",
        "aggregated_count",
        "revision",
        "final",
        "emitted_at",
        "tuple_key",
    }
)
"""Columns every rollup has, and the alias readers know `count` by."""

INNER_COLUMNS: Final = frozenset({"offset", "window_ms"})
"""What deltas have beside a rollup's columns, on their way to Postgres."""

SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Postgres refuses user columns of these names (PostgreSQL manual, "System Columns")."""

_OUTSIDE = re.compile(r"[^a-z0-9_]")


def column_name(text: str) -> str:
    """`data.clusterId` -> `data_clusterid`: lower-cased, anything outside [a-z0-9_] becomes `_`, cut at 40 bytes.

    The result is ASCII, so bytes and characters are the same. Applying it twice changes nothing.
    """
    return _OUTSIDE.sub("_", text.lower())[:NAME_BYTES_MAX]


def aggregate_column(kind: str, path: str) -> str:
    """`sum`, `data.bytes` -> `sum_data_bytes`."""
    return column_name(f"{kind}_{path}")
