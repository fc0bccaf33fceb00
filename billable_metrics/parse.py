"""From text to one syntax tree, within limits.

Owns: reading, and the limits on size. Every statement that is too large or too nested for the parser to read at once
is refused before it is parsed: sqlglot tries some constructs twice (joins without ON, type names before a
parenthesis), so that nesting them costs two to the power of their number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from itertools import pairwise
from typing import Final

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, TokenError

from billable_metrics.allowed import BY_TIME, FUNCTIONS, INTERVAL_TEXT
from billable_metrics.catalog import nearest
from billable_metrics.places import refuse_at
from rollup_engine.errors import MetricError

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its warnings repeat the text, which is no matter for a log

SQL_CHARACTERS_MAX: Final = 20_000
TOKENS_MAX: Final = 4_000
NESTING_MAX: Final = 30
JOINS_MAX: Final = 12
TRIED_TWICE_NESTING_MAX: Final = 3

_PUNCTUATION = frozenset(
    {
        *(TokenType.L_PAREN, TokenType.R_PAREN, TokenType.COMMA, TokenType.DOT, TokenType.STAR, TokenType.DCOLON),
        *(TokenType.PLUS, TokenType.DASH, TokenType.SLASH, TokenType.MOD, TokenType.DPIPE),
        *(TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.LTE, TokenType.GT, TokenType.GTE),
    }
)
_PARSER_SURPRISES = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What sqlglot raises, instead of a ParseError, where broken SQL leads it somewhere unforeseen."""

_CONSTANTS = frozenset({TokenType.STRING, TokenType.NUMBER, TokenType.IDENTIFIER})
_CLOSED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[^\W\d]\w*(\s+\w+)*")

_CHEAP_BEFORE_PAREN = frozenset(
    {
        *(TokenType.SELECT, TokenType.FROM, TokenType.JOIN, TokenType.ON, TokenType.USING, TokenType.WHERE),
        *(TokenType.HAVING, TokenType.ORDER_BY, TokenType.GROUP_BY, TokenType.PARTITION_BY, TokenType.ALIAS),
        *(TokenType.DISTINCT, TokenType.ALL, TokenType.EXCEPT, TokenType.INTERSECT, TokenType.EXISTS, TokenType.IN),
        *(TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.BETWEEN, TokenType.LIKE, TokenType.ILIKE),
        *(TokenType.CASE, TokenType.WHEN, TokenType.THEN, TokenType.ELSE, TokenType.OVER, TokenType.FILTER),
        *(TokenType.LIMIT, TokenType.OFFSET, *_PUNCTUATION, *_CONSTANTS),
    }
)


def parse_statement(sql: str, parameters: Collection[str] = ()) -> exp.Query:
    """The tree of the one SELECT statement in the text, which may hold `:name` for each of the parameters.

    Raises MetricError for text that is no SQL, holds no or several statements or another kind, is too large, or
    names an unknown parameter.
    """
    if len(sql) > SQL_CHARACTERS_MAX:
        raise MetricError(f"metric SQL has at most {SQL_CHARACTERS_MAX} characters; this one has {len(sql)}")
    if (half := _SURROGATE.search(sql)) is not None:
        raise refuse_at("this is half of a character, which is no text", sql, half.start())
    dialect = Postgres()
    try:
        tokens = dialect.tokenize(sql)
    except TokenError as error:
        raise refuse_at("a quotation mark or comment is opened and not closed", sql, _opened(sql)) from error
    tokens = _read_parameters(tokens, parameters, sql)
    _check_tokens(tokens, sql)
    try:
        trees = [tree for tree in dialect.parser().parse(tokens, sql) if tree is not None]
    except ParseError as error:
        raise _syntax_error(error, sql) from error
    except RecursionError as error:
        raise MetricError("the metric is nested too deeply; take parts of it out into WITH", sql=sql) from error
    except _PARSER_SURPRISES as error:
        raise refuse_at("this is not valid SQL", sql, _first(tokens)) from error
    if not trees:
        raise MetricError("the metric is empty; write one SELECT statement", sql=sql)
    if not isinstance(tree := trees[0], exp.Query):
        raise refuse_at(f"metric SQL is one SELECT statement; this is {tree.key.upper()}", sql, _first(tokens))
    _place_parameters(tree, tokens, sql)
    return tree


def _read_parameters(tokens: list[Token], parameters: Collection[str], sql: str) -> list[Token]:
    """The tokens, of which those after a colon are plain names: `:end` is a parameter, although END is a keyword."""
    read: list[Token] = []
    for index, token in enumerate(tokens):
        if index and tokens[index - 1].token_type is TokenType.COLON:
            colon = tokens[index - 1]
            name = sql[token.start : token.end + 1]
            if token.start != colon.end + 1 or not _NAME.fullmatch(name):
                raise refuse_at("':' is not part of metric SQL; a parameter is written :name", sql, colon.start)
            if name not in parameters:
                raise refuse_at(f"there is no parameter {name!r}; {_hint(name, parameters)}", sql, colon.start)
            token = Token(TokenType.VAR, token.text, token.line, token.col, token.start, token.end)
        read.append(token)
    if tokens and tokens[-1].token_type is TokenType.COLON:
        raise refuse_at("':' is not part of metric SQL; a parameter is written :name", sql, tokens[-1].start)
    return read


def _place_parameters(tree: exp.Query, tokens: list[Token], sql: str) -> None:
    """Notes where parameters were written, for messages. The parser drops one that stands where it expects none."""
    colons = [token for token in tokens if token.token_type is TokenType.COLON]
    placed = list(tree.find_all(exp.Placeholder))
    if len(placed) != len(colons):
        where = colons[0].start if colons else _first(tokens)
        raise refuse_at("a parameter is written :name, and stands where a value may stand", sql, where)
    starts: dict[str, int] = {}
    for colon, name in pairwise(tokens):
        if colon.token_type is TokenType.COLON:
            starts.setdefault(name.text, colon.start)
    for node in placed:
        node.meta["start"] = starts[node.name]


def _hint(name: str, parameters: Collection[str]) -> str:
    if close := nearest(name, parameters):
        return f"did you mean {close!r}?"
    return f"those there are: {', '.join(sorted(parameters))}" if parameters else "the metric declares none"


def _check_tokens(tokens: list[Token], sql: str) -> None:
    if len(tokens) > TOKENS_MAX:
        raise refuse_at(f"metric SQL has at most {TOKENS_MAX} words and signs", sql, tokens[TOKENS_MAX].start)
    joins = [token for token in tokens if token.token_type in (TokenType.JOIN, TokenType.STRAIGHT_JOIN)]
    if len(joins) > JOINS_MAX:
        raise refuse_at(f"a metric has at most {JOINS_MAX} joins", sql, joins[JOINS_MAX].start)
    for index, token in enumerate(tokens):
        last = index == len(tokens) - 1
        if token.token_type is TokenType.INTERVAL and not last:
            _check_interval(tokens[index + 1], sql)
        if token.token_type is TokenType.SEMICOLON and not last:
            raise refuse_at("metric SQL is one statement; take out what follows the semicolon", sql, token.start)
        if "\0" in token.text:
            raise refuse_at("text in Postgres cannot hold the character U+0000", sql, token.start)
        if not (_is_known(token) or token.token_type in (TokenType.SEMICOLON, TokenType.COLON)):
            raise refuse_at(f"{token.text!r} is not part of metric SQL", sql, token.start)
        # Postgres reads 1_000 as a number, sqlglot as 1 with the name _000.
        if token.token_type is TokenType.NUMBER and not last:
            follower = tokens[index + 1]
            if follower.start == token.end + 1 and _WORD.fullmatch(follower.text):
                raise refuse_at("a number ends in letters; write digits only", sql, token.start)
    _check_nesting(tokens, sql)


def _check_interval(text: Token, sql: str) -> None:
    """sqlglot keeps of an interval's text what it understands, and drops the rest."""
    if text.token_type is TokenType.STRING and not (text.text.isdecimal() or INTERVAL_TEXT.fullmatch(text.text)):
        raise refuse_at("an interval is written as INTERVAL '1 day' (seconds to years)", sql, text.start)


def _is_known(token: Token) -> bool:
    kind = token.token_type
    return kind in _PUNCTUATION or kind in _CONSTANTS or _WORD.fullmatch(token.text) is not None


def _check_nesting(tokens: list[Token], sql: str) -> None:
    tried_twice: list[bool] = []
    before: Token | None = None
    for token in tokens:
        if token.token_type is TokenType.L_PAREN:
            tried_twice.append(before is not None and not _is_cheap(before))
            if len(tried_twice) > NESTING_MAX or sum(tried_twice) > TRIED_TWICE_NESTING_MAX:
                raise refuse_at("the metric is nested too deeply; take parts of it out into WITH", sql, token.start)
        elif token.token_type is TokenType.R_PAREN and tried_twice:
            tried_twice.pop()
        before = token


def _is_cheap(before: Token) -> bool:
    name = before.text.lower()
    return before.token_type in _CHEAP_BEFORE_PAREN or name in FUNCTIONS or name in BY_TIME


def _opened(sql: str) -> int | None:
    """Where the text begins that is never closed, or None."""
    rest = _CLOSED.sub(lambda closed: " " * len(closed[0]), sql)
    opened = re.search(r"['\"]|/\*", rest)
    return opened.start() if opened else None


def _first(tokens: list[Token]) -> int:
    return tokens[0].start


def _syntax_error(error: ParseError, sql: str) -> MetricError:
    """sqlglot's columns are those of a token's last character; its own messages may print a whole Token or class."""
    found = error.errors[0] if error.errors else {}
    description = str(found.get("description") or "syntax error")
    if description.startswith("Required keyword"):
        description = "something is missing here, or a name that is a keyword has no quotation marks"
    description = re.sub(r"\s*(but got|, got)? ?<Token.*", "", description).strip().rstrip(".")
    message = f"this is not valid SQL: {description}"
    line, column = found.get("line"), found.get("col")
    if not isinstance(line, int) or not isinstance(column, int):
        return MetricError(message, sql=sql)
    start = max(1, column - len(str(found.get("highlight") or "")) + 1)
    return MetricError(message, line=line, column=start, sql=sql)
