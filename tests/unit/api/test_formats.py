"""Negotiation, and exact values in every form."""

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from rollup_engine.api.formats import CSV, JSON, PARQUET, Table, chosen, plain, to_csv, to_json, to_parquet
from rollup_engine.api.problems import Problem


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8", CSV),
        ("text/*", CSV),
        ("application/*", JSON),
        ("application/vnd.apache.parquet", PARQUET),
        ("application/json;q=0.5, text/csv;q=0.9", CSV),
        ("application/json, text/csv", JSON),
        ("text/csv, application/json", JSON),
        ("*/*, application/json;q=0", CSV),
        ("application/*;q=0.8, application/json;q=0.1", PARQUET),
        ("application/json;q=nonsense, text/csv;q=0.1", CSV),
    ],
)
def test_what_is_chosen(accept: str | None, media_type: str) -> None:
    assert chosen(accept) == media_type


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "*/*;q=0", "text/html;q=1, image/*", "json"])
def test_what_there_is_not(accept: str) -> None:
    with pytest.raises(Problem) as refused:
        chosen(accept)
    assert refused.value.status == 406


HUGE = 10**5_000
VALUES: list[object] = [
    *(0, -7, 2**53 + 1, 10**38 - 1, 10**38, -HUGE, True, False, None, "", 'a"b,c\r\nd', "ü💥"),
    *(Decimal("0.1"), Decimal("123456789012345678901234567890.123456789"), Decimal("-1E-9")),
    *(datetime(2024, 3, 14, 10, tzinfo=UTC), datetime(2024, 3, 14, 10, 0, 0, 120_000, tzinfo=UTC), date(2024, 3, 14)),
]


def test_json_is_exact() -> None:
    text = to_json({"data": [plain(value) for value in VALUES]}).decode()
    back = json.loads(text, parse_float=lambda _: pytest.fail("a float"))["data"]
    assert back[:4] == [0, -7, 2**53 + 1, 10**38 - 1]
    assert back[4] == "1" + "0" * 38
    assert back[5] == "-1" + "0" * 5_000
    assert back[6:12] == [True, False, None, "", 'a"b,c\r\nd', "ü💥"]
    assert back[12:15] == ["0.1", "123456789012345678901234567890.123456789", "-0.000000001"]
    assert back[15:] == ["2024-03-14T10:00:00Z", "2024-03-14T10:00:00.120000Z", "2024-03-14"]


def test_csv_tells_missing_from_empty() -> None:
    table = Table(("a", 'b"'), [(None, ""), ("x,y", True), (Decimal("1.50"), 'say "so"\n')])
    assert to_csv(table).decode() == 'a,"b"""\r\n,""\r\n"x,y",true\r\n1.50,"say ""so""\n"\r\n'


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None, -(2**63), 2**63 - 1], pl.Int64),
        ([1, 2**63], pl.Decimal(38, 0)),
        ([Decimal("0.1"), 10**20, None], pl.Decimal(38, 1)),
        ([Decimal("0.123456789"), 10**28, -(10**28)], pl.Decimal(38, 9)),
        ([Decimal("0.123456789"), 10**29], pl.String),
        ([10**38], pl.String),
        ([HUGE], pl.String),
        ([Decimal("NaN")], pl.String),
        ([True, None], pl.Boolean),
        ([datetime(2024, 3, 14, tzinfo=UTC), None], pl.Datetime("us", "UTC")),
        ([date(2024, 3, 14)], pl.Date),
        (["", None, "x"], pl.String),
        ([None, None], pl.String),
        ([], pl.String),
    ],
)
def test_parquet_is_exact(values: list[object], dtype: pl.DataType) -> None:
    table = Table(("value",), [(value,) for value in values])
    column = pl.read_parquet(io.BytesIO(to_parquet(table)))["value"]
    assert column.dtype == dtype
    if dtype == pl.String and any(isinstance(value, (int, Decimal)) for value in values):
        values = [f"{Decimal(value):f}" for value in values]  # type: ignore[arg-type]
    assert column.to_list() == values
