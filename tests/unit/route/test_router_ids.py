"""Ids of several parts: each is checked as an id of one is, and together they are one text that no other list gives."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine import keys
from rollup_engine.route.columns import TEXT_BYTES_MAX
from tests.unit.route.specs import event, event_type, one, route

TWO = event_type(id_paths=["source.name", "id"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text("0123456789:é", max_size=8)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[texts] * n), min_size=1, max_size=6)))
def test_parts_come_back_and_no_two_lists_meet(rows: list[tuple[str, ...]]) -> None:
    columns = [pl.Series(values, dtype=pl.String) for values in zip(*rows, strict=True)]
    joined = keys.joined(columns).to_list()
    assert [tuple(keys.split(text, len(columns))) for text in joined] == rows
    assert len(set(joined)) == len(set(rows))


def test_one_part_is_the_text_itself() -> None:
    column = pl.Series(["3:abc:d", ""])
    assert keys.joined([column]) is column
    assert keys.split("3:abc:d", 1) == ["3:abc:d"]
    assert one(event(id="3:abc:d"))["id"] == "3:abc:d"


@pytest.mark.parametrize(
    ("source", "ident", "joined"),
    [("a", "b", "1:a:b"), ("é", "1:a:b", "2:é:1:a:b"), (7, 12, "1:7:12"), ("1:a", "b", "3:1:a:b")],
)
def test_the_id_is_the_parts_and_their_lengths(source: object, ident: object, joined: str) -> None:
    assert one(event(source={"name": source}, id=ident), TWO)["id"] == joined


@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        ({}, "missing_id", "source.name"),
        ({"source": None}, "missing_id", "source.name"),
        ({"source": {"name": ""}}, "missing_id", "source.name"),
        ({"source": {"name": "a"}, "id": ...}, "missing_id", "id"),
        ({"source": {"name": True}}, "invalid_id", "source.name"),
        ({"source": "a"}, "invalid_id", "source.name"),
        ({"source": {"name": "a"}, "id": "x\x00"}, "invalid_id", "id"),
        ({"source": {"name": "x" * (TEXT_BYTES_MAX + 1)}}, "invalid_id", "source.name"),
    ],
)
def test_a_part_that_is_not_there_is_named(changes: dict[str, object], reason: str, named: str) -> None:
    good = event(source={"name": "a"})
    tables, _ = route([good, event(**changes), good], TWO)
    [row] = tables["rejected"]
    assert (row["offset"], row["reason"]) == (1, reason)
    assert f"({named!r})" in row["detail"]
    assert [row["offset"] for row in tables["event:download"]] == [0, 2]


def test_each_part_may_be_as_long_as_an_id() -> None:
    part = "é" * (TEXT_BYTES_MAX // 2)
    assert one(event(source={"name": part}, id=part), TWO)["id"] == f"{TEXT_BYTES_MAX}:{part}:{part}"
