"""What benchmarks say: medians, figures as text, and a page that holds nothing that was not measured."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.results import Row, Suite, load, medians, written


def test_medians_are_of_each_row_by_its_first_column() -> None:
    runs: list[list[Row]] = [
        [{"what": "a", "events/s": rate, "events": 10, "recount": word}, {"what": "b", "events/s": 1.0}]
        for rate, word in ((3.0, "equal"), (1.0, "equal"), (2.0, "wrong: 1 of 2 groups"))
    ]
    assert medians(runs) == [
        {"what": "a", "events/s": 2.0, "events": 10, "recount": "equal; wrong: 1 of 2 groups"},
        {"what": "b", "events/s": 1.0},
    ]


def test_a_run_without_a_figure_says_why_and_leaves_those_of_the_others() -> None:
    runs: list[list[Row]] = [
        [{"what": "a", "events/s": rate, "recount": word}] for rate, word in ((None, "not done"), (5.0, "equal"))
    ]
    assert medians(runs) == [{"what": "a", "events/s": 5.0, "recount": "not done; equal"}]
    assert medians([[{"what": "a", "events/s": None}]]) == [{"what": "a", "events/s": None}]


@pytest.mark.parametrize(
    ("figure", "text"),
    [(None, ""), (3_000_000, "3,000,000"), (355_123.4, "355,123"), (41.26, "41.3"), (0.5, "0.50"), (0.0123, "0.012")],
)
def test_figures_as_text(figure: float | None, text: str) -> None:
    assert written(figure) == text


def test_an_outcome_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Suite("freshness", "Freshness", {}, [{"load": "20 %", "p50, s": 1.0}]).keep(file)
    Suite("recovery", "Recovery", {}, [{"what": "killed", "seconds": 1.0}]).keep(file)
    Suite("freshness", "Freshness", {}, [{"load": "20 %", "p50, s": 2.0}]).keep(file)
    assert {suite.name: suite.rows[0] for suite in load(file)} == {
        "freshness": {"load": "20 %", "p50, s": 2.0},
        "recovery": {"what": "killed", "seconds": 1.0},
    }


def test_the_page_holds_what_was_measured_and_names_what_was_not() -> None:
    page = report.page([Suite("freshness", "Freshness", {"Kafka": "apache"}, [{"load": "20 %", "p50, s": 0.61}])])
    assert "| 20 % | 0.61 |" in page
    head, missing = page.split("## Not measured yet")
    assert "python -m benchmarks freshness" in head
    assert "python -m benchmarks freshness" not in missing
    assert "python -m benchmarks recovery" in missing
