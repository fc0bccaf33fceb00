"""The oracle against the converter and against totals by hand; and the metric SQL executed over the oracle's rows."""

import ast
import sqlite3
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
import sqlglot

from examples.access_log import recount as recount_module
from examples.access_log.convert import LOG_PATH, events_of_log
from examples.access_log.recount import recount

METRICS = sorted((LOG_PATH.parent / "metrics").glob("*.sql"))
Key = tuple[int, str, str, str]


@pytest.fixture(scope="module")
def totals() -> dict[Key, tuple[int, int]]:
    return recount(LOG_PATH)


def test_every_group_equals_the_converters(totals: dict[Key, tuple[int, int]]) -> None:
    counts: Counter[Key] = Counter()
    sizes: Counter[Key] = Counter()
    for event in events_of_log():
        time_ms = int(datetime.fromisoformat(event["download_timestamp"]).timestamp()) * 1000
        key = (time_ms // 600_000 * 600_000, event["customer"], event["status"], event["method"])
        counts[key] += 1
        sizes[key] += event.get("bytes_downloaded", 0)
    assert totals == {key: (counts[key], sizes[key]) for key in counts}


def test_the_totals_of_the_real_log(totals: dict[Key, tuple[int, int]]) -> None:
    assert sum(count for count, _ in totals.values()) == 10_000
    assert sum(size for _, size in totals.values()) == 2_747_282_740
    assert len({client for _, client, _, _ in totals}) == 1_753
    assert len({start for start, _, _, _ in totals}) == 84
    assert len(totals) == 3_241


def test_windows_half_open_offsets_and_sizes_by_hand(tmp_path: Path) -> None:
    log = tmp_path / "small.log"
    rows = [
        ("17/May/2015:10:09:59 +0000", "200 5"),
        ("17/May/2015:10:10:00 +0000", "200 -"),
        ("17/May/2015:12:19:59 +0200", "200 7"),
        ("17/May/2015:04:40:00 -0530", "304 -"),
    ]
    log.write_text("".join(f'c - - [{time}] "GET / HTTP/1.1" {rest} "-" "a"\n' for time, rest in rows))
    at_10_00 = 1_431_856_800_000
    assert recount(log) == {
        (at_10_00, "c", "200", "GET"): (1, 5),
        (at_10_00 + 600_000, "c", "200", "GET"): (2, 7),
        (at_10_00 + 600_000, "c", "304", "GET"): (1, 0),
    }


def test_the_oracle_imports_nothing_it_checks() -> None:
    tree = ast.parse(Path(str(recount_module.__file__)).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"calendar", "pathlib"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def _executed(sql: str, totals: dict[Key, tuple[int, int]]) -> list[tuple[object, ...]]:
    """The metric over the oracle's rows, one row per window and group as `AGGREGATED_EVENTS` gives them."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute(
            "CREATE TABLE file_download (external_customer_id, status, method, aggregated_count, sum_bytes_downloaded)"
        )
        rows = [(client, status, method, *total) for (_, client, status, method), total in totals.items()]
        connection.executemany("INSERT INTO file_download VALUES (?, ?, ?, ?, ?)", rows)
        return connection.execute(sql.replace("AGGREGATED_EVENTS('file_download')", "file_download")).fetchall()


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_each_metric_is_one_select_over_the_rollup(path: Path, totals: dict[Key, tuple[int, int]]) -> None:
    sql = path.read_text(encoding="utf-8")
    statements = sqlglot.parse(sql, dialect="postgres")
    assert [type(statement) for statement in statements] == [sqlglot.exp.Select]
    assert "AGGREGATED_EVENTS('file_download')" in sql
    assert _executed(sql, totals)


def test_the_metrics_give_the_recounts_totals(totals: dict[Key, tuple[int, int]]) -> None:
    results = {path.stem: _executed(path.read_text(encoding="utf-8"), totals) for path in METRICS}
    assert results["total_downloads"] == [(10_000, 2_747_282_740)]
    assert sum(int(str(row[1])) for row in results["bytes_per_status"]) == 10_000
    assert ("304", 445, 0) in results["bytes_per_status"]
    of_client: Counter[str] = Counter()
    billable: Counter[str] = Counter()
    for (_, client, status, method), (count, size) in totals.items():
        of_client[client] += size
        billable[client] += count if method == "GET" and status in ("200", "206") else 0
    top = sorted(of_client.items(), key=lambda item: (-item[1], item[0]))[:10]
    assert [(row[0], row[2]) for row in results["top_customers"]] == top
    assert set(results["billable_downloads"]) == {(client, count) for client, count in billable.items() if count}
