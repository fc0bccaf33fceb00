"""The answers kept: bounded, the least recently used go first; and cursors."""

import base64
from decimal import Decimal

import pytest

from rollup_engine.api import cursors
from rollup_engine.api.cache import ENTRY_ROWS, Cache, rows_worth
from rollup_engine.api.clocked import reads_clock
from rollup_engine.api.cursors import Cursor
from rollup_engine.api.problems import Problem

SCAN = "FROM AGGREGATED_EVENTS('x')"


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: Cache[str] = Cache(3 * (ENTRY_ROWS + 10))
    for name in "abc":
        cache.put(name, name.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    cache.put("e", "E", 10 + ENTRY_ROWS + 10)
    assert [cache.get(name) for name in "acde"] == [None, None, "D", "E"]
    assert cache.rows <= 3 * (ENTRY_ROWS + 10)


def test_an_answer_that_is_too_large_is_not_kept() -> None:
    cache: Cache[str] = Cache(100)
    cache.put("a", "A", 1)
    cache.put("b", "B", 101)
    assert (cache.get("a"), cache.get("b")) == ("A", None)
    cache.put("a", "A", 101)
    assert cache.get("a") is None
    assert cache.rows == 0


def test_long_rows_count_as_several() -> None:
    assert rows_worth([("acme", 12, None), ("globex", Decimal("1.5"), True)]) == 2
    assert rows_worth([("x" * 100_000,)]) == 501
    assert rows_worth([(10**5_000,)]) > 20
    assert rows_worth([(Decimal("0." + "1" * 5_000),)]) > 20


def test_putting_twice_counts_once() -> None:
    cache: Cache[str] = Cache(1_000)
    for _ in range(100):
        cache.put("a", "A", 5)
    assert cache.rows == ENTRY_ROWS + 5


def test_cursors_come_back_as_they_were() -> None:
    for cursor in (Cursor("r"), Cursor("r", "1.2.3", 7), Cursor("r", after=["ü", None, "", "2024"])):
        assert cursors.decode(cursors.encode(cursor), "r") == cursor
    assert cursors.decode(None, "r") == Cursor("r")
    assert "=" not in cursors.encode(Cursor("request"))


def test_equal_requests_have_equal_digests() -> None:
    assert cursors.digest({"a": 1, "b": ["x"]}) == cursors.digest({"b": ["x"], "a": 1})
    assert cursors.digest({"a": 1}) != cursors.digest({"a": "1"})


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"[1]", b'["r","t","7"]', b'["r","t",-1]', b'["r","",0,[1]]', b'["r","",0,null]', b"\xff"],
)
def test_cursors_that_were_not_given_out(content: bytes) -> None:
    with pytest.raises(Problem) as refused:
        cursors.decode(base64.urlsafe_b64encode(content).decode(), "r")
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        (f"SELECT SUM(count) {SCAN}", False),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp >= '2024-03-01Z'", False),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp >= TIMESTAMPTZ '2024-03-01Z'", False),
        (f"SELECT date_trunc('day', timestamp) AS now_and_then {SCAN}", False),
        (f"SELECT now() {SCAN}", True),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp < current_timestamp", True),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp < CURRENT_DATE", True),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp < 'now'", True),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp < 'YESTERDAY 10:00'", True),
        (f"SELECT SUM(count) {SCAN} WHERE timestamp < CAST('no' || 'w' AS TIMESTAMPTZ)", True),
        (f"SELECT SUM(count) FROM (SELECT region::date AS d, count {SCAN}) AS x", True),
    ],
)
def test_what_reads_the_clock(sql: str, reads: bool) -> None:
    assert reads_clock(sql) is reads
