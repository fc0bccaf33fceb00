"""What a stranger does first: `up`, `produce`, and a look at the totals."""

import asyncio
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollup_engine.runtime.embedded import start_database
from tests.acceptance.cli import ROOT, Engine, get, until
from tests.acceptance.traffic import event, events, partials, recount, rows, totals, yaml

ORB = ROOT / "examples" / "orb"
METRIC = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE download_speed = 'fast'"


@pytest.fixture(scope="module")
def orb() -> Iterator[Engine]:
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-orb-"))
    directory.chmod(0o755)
    engine = Engine(directory, ORB / "rollups")
    try:
        up = engine.start("up", "--config", str(ORB / "rollups"), "--exit-when-idle", "3")  # for `produce` to begin
        up.says("Running.")
        assert "210 events acknowledged on topic downloads." in engine.ok(
            "produce", str(ORB / "events.ndjson"), "--topic", "downloads"
        )
        assert up.ends() == 0, up.output
        yield engine
    finally:
        engine.close()
        if (engine.state_dir / "postgres").exists():
            start_database(engine.state_dir).destroy()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return (ORB / "events.ndjson").read_text().splitlines()


class TestOrb:
    """The Orb example with everything embedded, as the README has it; looked at while it runs and after."""

    def test_the_rows_are_the_recount(self, orb: Engine, lines: list[str]) -> None:
        database = start_database(orb.state_dir)
        try:
            found = asyncio.run(totals(database.database_url))
            emitted = asyncio.run(partials(database.database_url))
        finally:
            database.release()
        expected = recount(lines)
        assert found == expected
        assert len({row["idempotency_key"] for row in emitted}) == len(emitted)
        first = json.loads(next(line for line in lines if "afdb028a" in line))
        (row,) = [
            row
            for row in emitted
            if row["timestamp"].isoformat() == "2022-08-14T15:10:00+00:00"
            and row["external_customer_id"] == first["customer"]
            and row["download_speed"] == "fast"
        ]
        assert row["timestamp_millis"] == 1_660_489_800_000
        assert (row["count"], row["sum_bytes_downloaded"]) == expected[
            "2022-08-14T15:10:00+00:00", first["customer"], "fast"
        ]

    def test_the_books_balance(self, orb: Engine) -> None:
        status = orb.status()
        outcomes = {"counted": 200, "duplicate": 10, "conflicting": 0, "late": 0, "invalid": 0, "unmatched": 0}
        assert status == outcomes | {
            "received": 210,
            "routed": 210,
            "lost": 0,
            "lag": 0,
            "watermark": "2022-08-14T15:38:49.795Z",
        }

    def test_status_as_a_table(self, orb: Engine) -> None:
        shown = orb.ok("status")
        assert "file_download" in shown
        assert "2022-08-14T15:38:49.795Z" in shown

    def test_the_metric_gives_the_count(self, orb: Engine, lines: list[str]) -> None:
        fast = sum(count for (_, _, speed), (count, _) in recount(lines).items() if speed == "fast")
        (row,) = json.loads(orb.ok("query", METRIC, "--format", "json"))
        assert list(row.values()) == [fast]

    def test_a_metric_of_one_customer_and_period(self, orb: Engine, lines: list[str]) -> None:
        customer = json.loads(lines[0])["customer"]
        wanted = sum(
            total
            for (window, whose, _), (_, total) in recount(lines).items()
            if whose == customer and window < "2022-08-14T15:20"
        )
        printed = orb.ok(
            *("query", "SELECT SUM(sum_bytes_downloaded) AS bytes FROM AGGREGATED_EVENTS('file_download')"),
            *("--customer", customer, "--start", "2022-08-14T15:00:00Z", "--end", "2022-08-14T15:20:00Z"),
            *("--format", "csv"),
        )
        assert list(csv.DictReader(io.StringIO(printed))) == [{"bytes": str(wanted)}]

    def test_explain_prints_the_rewritten_query(self, orb: Engine) -> None:
        printed = orb.ok("query", METRIC, "--explain", "--start", "2022-08-14T00:00:00Z")
        assert printed.startswith("-- file_download: ")
        assert "partials" in printed.splitlines()[0]  # it says what is read, and why: this run ended at once
        assert "AGGREGATED_EVENTS" not in printed
        assert "-- $1 = 2022-08-14T00:00:00+00:00" in printed

    def test_nothing_is_left_behind_but_the_data(self, orb: Engine) -> None:
        assert not (orb.state_dir / "endpoints.json").exists()
        assert not (orb.state_dir / "broker.json").exists()


@pytest.fixture(scope="module")
def running(new_database: Callable[[], str]) -> Iterator[Engine]:
    """An `up` that emits every half second, for the class to look at."""
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-running-"))
    (directory / "rollups").mkdir()
    (directory / "rollups" / "file_download.yaml").write_text(yaml())
    engine = Engine(directory, directory / "rollups", database_url=new_database())
    up = engine.up()
    try:
        yield engine
        assert up.stop() == 0, up.output
    finally:
        engine.close()
        shutil.rmtree(directory)


class TestRunning:
    def test_partials_appear_while_the_window_is_open(self, running: Engine) -> None:
        url = running.environment["ROLLUP_DATABASE_URL"]
        line = event(customer="open", bytes_downloaded=100)
        running.produce([line, event(customer="quiet")])
        until("the first partials", lambda: len(asyncio.run(totals(url))) == 2)
        running.produce([line, event(customer="open", bytes_downloaded=11)])  # one again, one new
        group = "2022-08-14T15:10:00+00:00", "open", "fast"
        until("the next partial", lambda: asyncio.run(totals(url))[group] == (2, 111))
        emitted = asyncio.run(partials(url))
        series = [row for row in emitted if row["external_customer_id"] == "open"]
        assert [(row["count"], row["sum_bytes_downloaded"]) for row in series] == [(1, 100), (2, 111)]
        assert series[0]["revision"] < series[1]["revision"]
        assert series[0]["idempotency_key"] != series[1]["idempotency_key"]
        assert [row["external_customer_id"] for row in emitted].count("quiet") == 1, "it did not change"

    def test_the_same_lines_again_change_nothing(self, running: Engine) -> None:
        url = running.environment["ROLLUP_DATABASE_URL"]
        before = running.settled(0)["received"]
        lines = events(50, seed=1)
        running.produce(lines)
        running.settled(before + 50)
        until("the partials", lambda: recount(lines).items() <= asyncio.run(totals(url)).items())
        emitted = asyncio.run(partials(url))
        duplicates = running.status()["duplicate"]
        running.produce(lines)
        assert running.settled(before + 100)["duplicate"] == duplicates + 50
        running.produce([event(customer="after")])  # its partial is later than any of the others' would be
        until("a later partial", lambda: any(customer == "after" for _, customer, _ in asyncio.run(totals(url))))
        again = asyncio.run(partials(url))
        assert [row for row in again if row["external_customer_id"] != "after"] == emitted

    def test_health_and_metrics(self, running: Engine) -> None:
        pages = {}
        for line in (running.directory / "0-up.log").read_text().splitlines():
            name, _, rest = line.partition(" ")
            if name in ("route", "work") and "/health" in line:
                pages[name] = rest.split()[0].removesuffix("/health")
        assert sorted(pages) == ["route", "work"]
        for role, page in pages.items():
            code, body = get(f"{page}/health")
            health = json.loads(body)
            assert (code, health["role"], health["healthy"], health["halted"]) == (200, role, True, [])
            assert health["partitions"] > 0
            code, body = get(f"{page}/metrics")
            assert code == 200
            assert "rollup_open_partitions" in body
            assert {get(f"{page}/{of_faust}")[0] for of_faust in ("", "router/", "table/")} == {404}
        assert 'rollup_rows_total{stage="dedup"}' in get(f"{pages['work']}/metrics")[1]

    def test_produce_keeps_to_a_rate(self, running: Engine) -> None:
        file = running.directory / "slowly.ndjson"
        file.write_text(
            "\n".join(["", *(event() for _ in range(20)), "   ", event()])
        )  # blank lines, and no last newline
        started = time.monotonic()
        printed = running.ok("produce", str(file), "--topic", "downloads", "--rate", "20")
        assert time.monotonic() - started >= 1
        assert "21 events acknowledged" in printed

    def test_commands_find_it_by_its_state_directory(self, running: Engine) -> None:
        endpoints = running.endpoints()
        assert endpoints["database"] == running.environment["ROLLUP_DATABASE_URL"]
        assert endpoints["kafka"].startswith("127.0.0.1:")

    def test_what_is_counted_is_there_once_it_is_asked_for(self, running: Engine) -> None:
        url = running.environment["ROLLUP_DATABASE_URL"]

        def agree() -> bool:  # an emission may come in between
            (row,) = json.loads(running.ok("query", METRIC, "--format", "json"))
            (expected,) = asyncio.run(
                rows(url, "SELECT sum(count)::bigint AS n FROM rollups.file_download WHERE download_speed = 'fast'")
            )
            return bool(expected["n"]) and list(row.values()) == [expected["n"]]

        until("the metric says what the view does", agree)


def test_ctrl_c_ends_everything_cleanly(engine: Engine) -> None:
    """Ctrl-C reaches `up`, which works off what is under way; what it started ends with it."""
    lines = events(2_000, seed=2)
    up = engine.up()
    children = up.children()
    engine.produce(lines)
    assert up.stop(signal.SIGINT) == 0, up.output
    until("the end of all it started", lambda: not any(child.is_running() for child in children), 5)
    url = engine.environment["ROLLUP_DATABASE_URL"]
    assert asyncio.run(totals(url)) == recount(lines)
    assert engine.status()["counted"] == 2_000


def test_the_api_is_up_and_comes_back(engine: Engine) -> None:
    """What happens to it does nothing to the pipeline."""
    up = engine.start("up")
    up.says("API ")
    ready = f"{engine.endpoints()['api']}/health/ready"
    until("the API answers", lambda: get(ready)[0] == 200)
    pipeline = {role: until(f"{role} runs", lambda role=role: up.child(role)).pid for role in ("route", "work")}
    api = up.child("serve")
    assert api is not None
    api.kill()
    until("it is gone", lambda: get(ready)[0] != 200)
    until("it is back", lambda: get(ready)[0] == 200)
    assert {role: getattr(up.child(role), "pid", None) for role in pipeline} == pipeline
    assert up.stop() == 0, up.output
    assert "Traceback" not in up.output


QUICK_DEMO = """\
import sys
from rollup_engine.runtime import demo
demo.EVENTS_PER_SECOND = 4_000
sys.exit(0 if demo.run(keep=False) else 1)
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_demo_prints_a_curl_line_that_works(tmp_path: Path) -> None:
    """Sent as it is, it is the event that the demo has sent; with another key it is another. The proof stays exact."""
    log = tmp_path / "demo.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLUP_")}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "150"}
    command = [sys.executable, "-c", QUICK_DEMO]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=out, stderr=out) as demo,
    ):
        until("its own answer", lambda: demo.poll() is not None or "it answered" in log.read_text())
        found = re.search(r"^curl (?:.*\\\n)*.*$", log.read_text(), re.MULTILINE)
        assert found, log.read_text()
        for line in (found[0], found[0].replace("request-1", "request-2")):
            assert subprocess.check_output(["sh", "-c", line], timeout=20) == b'{"validation_failed":[]}'
        assert demo.wait(60) == 0, log.read_text()
    printed = log.read_text()
    assert re.search(r"acme *│ *eu-west-1 *│ *2 *│ *10,240 ", printed), printed
    assert "Exact." in printed
