"""Usage of a plain metric in one scan: the same SELECT, grouped by customer, group columns and bucket.

Owns: which metrics can be asked so, and their text. Must never be used where a cell without rows has a value, for such
cells do not come out of GROUP BY: so only where every value is NULL without rows, and zeros are not asked for.

Only one SELECT over one AGGREGATED_EVENTS is plain, with a WHERE at most: then its rows are those of all cells, and
each row belongs to one cell. Buckets are told apart by constants made here, never by the database's own time zones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlglot import TokenType, exp
from sqlglot.dialects.postgres import Postgres

from billable_metrics.allowed import BY_TIME
from billable_metrics.catalog import CUSTOMER_COLUMN
from billable_metrics.parse import SQL_CHARACTERS_MAX, parse_statement
from billable_metrics.periods import Period
from billable_metrics.times import shown

CASES_MAX: Final = 100

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS: Final = (("hour", timedelta(hours=1)), ("day", timedelta(days=1)))
_PLAIN_CLAUSES: Final = frozenset({"expressions", "from_", "where"})
_NULL_WITHOUT_ROWS: Final = (exp.Sum, exp.Min, exp.Max, exp.Avg)
_NULL_OF_NULL: Final = (
    *(exp.Paren, exp.Neg, exp.Cast, exp.Abs, exp.Ceil, exp.Floor, exp.Round, exp.Trunc),
    *(exp.Filter, exp.Nullif),
)
_NULL_OF_EITHER: Final = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)


@dataclass(frozen=True, slots=True)
class Grouped:
    """`sql` gives (customer, group columns…, key, value). `key_type`: of the key, which rises with the buckets."""

    sql: str
    key_type: str


def grouped(
    sql: str,
    parameters: Collection[str],
    groups: Sequence[str],
    buckets: Sequence[Period],
    window: timedelta,
    name: str,
) -> Grouped | None:
    """The metric grouped, or None where it is not plain or its buckets cannot be told apart by a few constants.

    `name` is one that the metric's text does not hold.
    """
    key = _key(buckets, window)
    if key is None or not _is_plain(parse_statement(sql, parameters)):
        return None
    expression, key_type = key
    tokens = Postgres().tokenize(sql)
    last = tokens[-2] if tokens[-1].token_type is TokenType.SEMICOLON else tokens[-1]
    columns = [f'"{column}"' for column in (CUSTOMER_COLUMN, *groups)]
    begins = tokens[1 if tokens[1].token_type is TokenType.ALL else 0].end + 1  # after SELECT, or SELECT ALL
    begin, rest = sql[:begins], sql[begins : last.end + 1]
    text = f'{begin} {", ".join(columns)}, {expression} AS "{name}",{rest}\nGROUP BY {", ".join(columns)}, "{name}"'
    return Grouped(text, key_type) if len(text) <= SQL_CHARACTERS_MAX else None


def bucket_of(key: object, buckets: Sequence[Period]) -> Period:
    """The bucket that a key means."""
    if isinstance(key, int):
        return buckets[key]
    assert isinstance(key, datetime)
    low, high = 0, len(buckets)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if buckets[middle].start <= key else (low, middle)
    return buckets[low]


def key_of(start: datetime, buckets: Sequence[Period], key_type: str) -> object:
    """A key that those of the bucket with this start do not exceed, and those of later ones do."""
    return [bucket.start for bucket in buckets].index(start) if key_type == "integer" else start


def _key(buckets: Sequence[Period], window: timedelta) -> tuple[str, str] | None:
    """An expression that tells the buckets apart, steady over the tiers where it can be, and its type."""
    cuts = [bucket.start for bucket in buckets[1:]]
    for unit, step in (*_STEPS, ("", window)):
        short = all(bucket.end - bucket.start <= step for bucket in buckets)
        if cuts and short and not any((cut - _EPOCH) % step for cut in cuts):
            return (f"date_trunc('{unit}', \"timestamp\")" if unit else '"timestamp"'), "timestamptz"
    if len(cuts) > CASES_MAX:
        return None
    cases = " ".join(f"WHEN \"timestamp\" < '{shown(cut)}' THEN {index}" for index, cut in enumerate(cuts))
    return (f"CASE {cases} ELSE {len(cuts)} END" if cuts else "0"), "integer"


def _is_plain(tree: exp.Query) -> bool:
    if not isinstance(tree, exp.Select) or {name for name, value in tree.args.items() if value} - _PLAIN_CLAUSES:
        return False
    source = tree.args.get("from_")
    if source is None or not isinstance(source.this, exp.Table) or isinstance(source.this.this, exp.Identifier):
        return False
    nested = [node for node in tree.find_all(exp.Query, exp.Window) if node is not tree]
    return not nested and len(tree.expressions) == 1 and _is_null_without_rows(tree.expressions[0].unalias())


def _is_null_without_rows(node: exp.Expr) -> bool:
    if isinstance(node, _NULL_OF_NULL):
        return _is_null_without_rows(node.this)
    if isinstance(node, _NULL_OF_EITHER):
        return _is_null_without_rows(node.this) or _is_null_without_rows(node.expression)
    return isinstance(node, _NULL_WITHOUT_ROWS) or (isinstance(node, exp.Anonymous) and node.name.lower() in BY_TIME)
