"""The allow-lists: every kind of node, function, type and unit that may be part of metric SQL.

Owns: the lists and nothing else. What is not listed is refused, so a construct that sqlglot learns in a later release
stays refused until someone has looked at it. Never list a function that reads anything but its arguments, waits,
writes, takes a text as SQL, multiplies its input's size, or returns a float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sqlglot import exp

_QUERY = frozenset({"with_", "order", "limit", "offset"})
_SET = _QUERY | {"this", "expression", "distinct"}
_BINARY = frozenset({"this", "expression"})
_UNARY = frozenset({"this"})

NODES: Final[Mapping[type[exp.Expr], frozenset[str]]] = {
    # queries and their clauses
    exp.Select: _QUERY | {"expressions", "distinct", "from_", "joins", "where", "group", "having", "windows"},
    exp.Union: _SET,
    exp.Except: _SET,
    exp.Intersect: _SET,
    exp.Subquery: _QUERY | {"this", "alias"},
    exp.With: frozenset({"expressions"}),
    exp.CTE: frozenset({"this", "alias", "materialized"}),
    exp.From: _UNARY,
    exp.Table: frozenset({"this", "alias"}),
    exp.TableAlias: frozenset({"this", "columns"}),
    exp.Join: frozenset({"this", "on", "using", "side", "kind"}),
    exp.Where: _UNARY,
    exp.Having: _UNARY,
    exp.Group: frozenset({"expressions"}),
    exp.Order: frozenset({"this", "expressions"}),
    exp.Ordered: frozenset({"this", "desc", "nulls_first"}),
    exp.Limit: frozenset({"expression"}),
    exp.Offset: frozenset({"expression"}),
    exp.Distinct: frozenset({"expressions", "on"}),
    exp.Window: frozenset({"this", "partition_by", "order", "spec", "alias", "over"}),
    exp.WindowSpec: frozenset({"kind", "start", "start_side", "end", "end_side"}),
    exp.Filter: _BINARY,
    exp.WithinGroup: _BINARY,
    # names and values
    exp.Alias: frozenset({"this", "alias"}),
    exp.Column: frozenset({"this", "table", "db", "catalog"}),
    exp.Identifier: frozenset({"this", "quoted"}),
    exp.Star: frozenset(),
    exp.Literal: frozenset({"this", "is_string"}),
    exp.Boolean: _UNARY,
    exp.Null: frozenset(),
    exp.Var: _UNARY,
    exp.Placeholder: _UNARY,
    exp.Interval: frozenset({"this", "unit"}),
    exp.Tuple: frozenset({"expressions"}),
    # operators
    exp.And: _BINARY,
    exp.Or: _BINARY,
    exp.Not: _UNARY,
    exp.Paren: _UNARY,
    exp.Neg: _UNARY,
    exp.Add: _BINARY,
    exp.Sub: _BINARY,
    exp.Mul: _BINARY,
    exp.Div: _BINARY | {"typed", "safe"},
    exp.Mod: _BINARY,
    exp.DPipe: _BINARY | {"safe"},
    exp.EQ: _BINARY,
    exp.NEQ: _BINARY,
    exp.LT: _BINARY,
    exp.LTE: _BINARY,
    exp.GT: _BINARY,
    exp.GTE: _BINARY,
    exp.NullSafeEQ: _BINARY,
    exp.NullSafeNEQ: _BINARY,
    exp.Is: _BINARY | {"negate"},
    exp.Like: _BINARY | {"negate"},
    exp.ILike: _BINARY | {"negate"},
    exp.Escape: _BINARY,
    exp.Between: frozenset({"this", "low", "high"}),
    exp.In: frozenset({"this", "expressions", "query"}),
    exp.Exists: _UNARY,
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.If: frozenset({"this", "true", "false"}),
    exp.Cast: frozenset({"this", "to"}),
    exp.DataType: frozenset({"this", "expressions", "nested"}),
    exp.DataTypeParam: _UNARY,
    exp.AtTimeZone: frozenset({"this", "zone"}),
}
"""Node class -> the arguments it may have. Functions are listed below."""

FUNCTIONS: Final[Mapping[str, type[exp.Expr]]] = {
    # aggregates
    "avg": exp.Avg,
    "bool_and": exp.LogicalAnd,
    "bool_or": exp.LogicalOr,
    "count": exp.Count,
    "max": exp.Max,
    "min": exp.Min,
    "percentile_disc": exp.PercentileDisc,
    "sum": exp.Sum,
    # windows
    "dense_rank": exp.DenseRank,
    "first_value": exp.FirstValue,
    "lag": exp.Lag,
    "last_value": exp.LastValue,
    "lead": exp.Lead,
    "ntile": exp.Ntile,
    "rank": exp.Rank,
    "row_number": exp.RowNumber,
    # numbers
    "abs": exp.Abs,
    "ceil": exp.Ceil,
    "ceiling": exp.Ceil,
    "floor": exp.Floor,
    "greatest": exp.Greatest,
    "least": exp.Least,
    "mod": exp.Mod,
    "round": exp.Round,
    "sign": exp.Sign,
    "trunc": exp.Trunc,
    # text
    "char_length": exp.Length,
    "concat": exp.Concat,
    "left": exp.Left,
    "length": exp.Length,
    "lower": exp.Lower,
    "position": exp.StrPosition,
    "replace": exp.Replace,
    "right": exp.Right,
    "split_part": exp.SplitPart,
    "starts_with": exp.StartsWith,
    "substr": exp.Substring,
    "substring": exp.Substring,
    "trim": exp.Trim,
    "upper": exp.Upper,
    # nulls
    "coalesce": exp.Coalesce,
    "nullif": exp.Nullif,
    # time
    "current_date": exp.CurrentDate,
    "current_timestamp": exp.CurrentTimestamp,
    "date_part": exp.Extract,
    "date_trunc": exp.TimestampTrunc,
    "extract": exp.Extract,
    "now": exp.CurrentTimestamp,
    "to_timestamp": exp.UnixToTime,
}
"""SQL name -> node class."""

BY_TIME: Final = frozenset({"earliest_by", "latest_by"})
"""Our own aggregates, `LATEST_BY(value, time)`: the value at the least or greatest time."""

FUNCTION_NODES: Final = frozenset(FUNCTIONS.values())

TYPES: Final = frozenset(
    {
        exp.DType.SMALLINT,
        exp.DType.INT,
        exp.DType.BIGINT,
        exp.DType.DECIMAL,
        exp.DType.TEXT,
        exp.DType.VARCHAR,
        exp.DType.BOOLEAN,
        exp.DType.DATE,
        exp.DType.TIME,
        exp.DType.TIMESTAMP,
        exp.DType.TIMESTAMPTZ,
        exp.DType.INTERVAL,
    }
)
FLOATS: Final = frozenset({exp.DType.FLOAT, exp.DType.DOUBLE})

JOIN_SIDES: Final = frozenset({"", "LEFT", "RIGHT", "FULL"})
JOIN_KINDS: Final = frozenset({"", "INNER", "OUTER", "CROSS"})

UNITS: Final = frozenset(
    {
        *("MICROSECONDS", "MILLISECONDS", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"),
        *("EPOCH", "DOW", "ISODOW", "DOY", "ISOYEAR"),
    }
)
"""Units of date_trunc and extract. They are printed as they are, so this list is also what keeps other text out."""

_STEP = r"[-+]?\d{1,9}(\.\d{1,9})?\s*(second|minute|hour|day|week|month|year)s?"
INTERVAL_TEXT: Final = re.compile(rf"\s*{_STEP}(\s+{_STEP})*\s*", re.IGNORECASE)
"""The text of an interval. sqlglot drops what it does not understand in one, so only what it does is let through."""
