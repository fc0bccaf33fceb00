"""Whether metric SQL reads the clock, so that its answer changes though the totals do not.

Errs on the safe side: an answer that is asked for anew is slow, and one that is kept for too long is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from sqlglot import exp

from billable_metrics.parse import parse_statement

# Postgres takes these for times wherever a text becomes one.
_WORDS: Final = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)
_TIMES: Final = frozenset({exp.DType.DATE, exp.DType.TIME, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPTZ})


def reads_clock(sql: str, parameters: Collection[str] = ()) -> bool:
    """Whether it may. Raises MetricError for what is no SQL."""
    return _reads_clock(sql, frozenset(parameters))


@lru_cache(maxsize=256)
def _reads_clock(sql: str, parameters: frozenset[str]) -> bool:
    return any(map(_clock, parse_statement(sql, parameters).walk()))


def _clock(node: exp.Expr) -> bool:
    if isinstance(node, (exp.CurrentTimestamp, exp.CurrentDate)):
        return True
    if isinstance(node, exp.Literal) and node.is_string:
        return bool(_WORDS.search(node.name))
    return isinstance(node, exp.Cast) and node.to.this in _TIMES and not isinstance(node.this, exp.Literal)
