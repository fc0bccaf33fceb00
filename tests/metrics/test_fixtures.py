"""Every `metric; rewritten;` pair of the fixtures: the text is as written there, and both give the same rows.

The right rows are those of the same metric, read as plain SQL over a table that holds each window's true totals. A
`# naive:` line gives that plain SQL where the metric is not (the long form, names in another case). `# restricted:`
asks for one customer and period. `# ordered:` compares the rows in order.
"""

from pathlib import Path

import pytest

from billable_metrics.rewriter import rewrite
from tests.metrics.support import CATALOG, CUSTOMER, END, START, Database, Pair, load_pairs, unordered

FILES = sorted((Path(__file__).parent / "fixtures").glob("*.sql"))
PAIRS = [pair for file in FILES for pair in load_pairs(file)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_text(pair: Pair) -> None:
    if "restricted" in pair.notes:
        rewritten = rewrite(pair.metric, CATALOG, customer=CUSTOMER, start=START, end=END)
        assert rewritten.params == [CUSTOMER, START, END]
    else:
        rewritten = rewrite(pair.metric, CATALOG)
        assert rewritten.params == []
    assert rewritten.sql == pair.expected


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_rows(pair: Pair, fixed: Database) -> None:
    restricted = "restricted" in pair.notes
    result = fixed.metric(pair.metric, restricted=restricted)
    naive = fixed.naive(pair.notes.get("naive", pair.metric), "restricted" if restricted else "naive")
    assert result.rows, "a pair without rows compares nothing"
    assert result.columns == naive.columns
    if "ordered" in pair.notes:
        assert result.rows == naive.rows
    else:
        assert unordered(result) == unordered(naive)
