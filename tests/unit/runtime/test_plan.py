"""Plans: more load never takes less, units are right, words are checked, and docs/scaling.md says what is printed.

After a constant has changed: `python -m tests.unit.runtime.test_plan` writes the page's tables anew.
"""

import dataclasses
import inspect
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rollup_engine import cli
from rollup_engine.config.settings import Settings
from rollup_engine.dedup import store
from rollup_engine.errors import UsageError
from rollup_engine.runtime import plan as planning
from rollup_engine.runtime import registry
from rollup_engine.runtime.plan import CONSTANTS, Constant, Load, Plan, load_of, plan

PAGE = Path(__file__).resolve().parents[3] / "docs/scaling.md"
HORIZON_MS = 86_400_000
LOADS = st.builds(
    Load,
    events_per_second=st.floats(0.001, 1e8),
    groups=st.integers(1, 10**9),
    dedup_horizon_ms=st.integers(1, 30 * HORIZON_MS),
    bytes_per_event=st.integers(1, 100_000),
    rollups=st.integers(1, 50),
    emit_every_ms=st.integers(1, 3_600_000),
)
OF_ONE_PROCESS = {"memory of a work process", "filters of its id store", "its remembered ids on disk"}


def _needs(made: Plan) -> dict[str, float]:
    return {need.what: need.amount for need in made.needs}


def _grows(before: Load, after: Load) -> None:
    """Needs of one process may fall as processes are added; the rest may not, nor any limit."""
    less, more = _needs(plan(before)), _needs(plan(after))
    for what in less.keys() - OF_ONE_PROCESS:
        assert more[what] >= less[what], what
    loads = {limit.what: limit.load for limit in plan(after).limits}
    for limit in plan(before).limits:
        assert loads[limit.what] >= limit.load, limit.what


@given(LOADS, st.floats(1, 1_000))
def test_more_events_never_take_less(load: Load, times: float) -> None:
    _grows(load, dataclasses.replace(load, events_per_second=load.events_per_second * times))


@given(LOADS, st.sampled_from(["groups", "dedup_horizon_ms", "bytes_per_event", "rollups"]), st.integers(1, 100))
def test_more_of_anything_never_takes_less(load: Load, name: str, times: int) -> None:
    _grows(load, dataclasses.replace(load, **{name: getattr(load, name) * times}))


@given(LOADS)
def test_limits_are_sorted_and_no_more_stays_than_is_written(load: Load) -> None:
    made = plan(load)
    loads = [limit.load for limit in made.limits]
    assert loads == sorted(loads, reverse=True)
    needs = _needs(made)
    assert needs["Postgres, disk a day"] <= needs["partials written a day"]
    assert needs["ROLLUP_PARTITIONS"] >= 2 * needs["work, processes"]
    assert all(math.isfinite(need.amount) and need.amount > 0 for need in made.needs)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round constants, so that anyone can add it up: 1 M events/s, 1 h horizon, 300 groups, emitted every 30 s."""
    for name, value in {
        "ROUTE_US": 7, "WORK_US": 14, "BUSY": 0.7, "ID_BYTES": 10, "WORKER_DISK": 1e12, "EVENT_BYTES": 100,
        "DELTA_BYTES": 50, "RECORD_BYTES": 0, "REPLICAS": 2, "ROW_BYTES": 100, "FILTER_BYTES": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(planning, name, Constant(value, "", "", ""))
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 5e6)
    needs = _needs(plan(Load(1e6, 300, 3_600_000, bytes_per_event=200)))
    assert needs["route, CPU"] == pytest.approx(7)
    assert needs["work, CPU"] == pytest.approx(14)
    assert needs["its remembered ids on disk"] * needs["work, processes"] == pytest.approx(3.6e9 * 10)
    assert needs["filters of its id store"] * needs["work, processes"] == pytest.approx(3.6e9)
    assert needs["Kafka, in"] == needs["Kafka, out"] == pytest.approx(350e6)
    assert needs["raw topics on disk"] == pytest.approx(200e6 * 86_400 * 2)
    assert needs["events topic on disk"] == pytest.approx(100e6 * 4 * 3_600 * 2)
    assert needs["deltas topics on disk"] == pytest.approx(50e6 * 30 * 2)
    assert needs["Postgres, rows"] == pytest.approx(300 / 30 + 300 / 600)
    assert needs["Postgres, disk a day"] == pytest.approx(300 * 144 * 100)
    # 40 flushes a second, of 5 MB at most, go to each partition; dedup judges 25,000 of a million rows at a time, and
    # tells every one.
    assert needs["ROLLUP_PARTITIONS"] == 64
    assert needs["Kafka, packed records"] == pytest.approx(40 * 64 + 1e6 / 25_000 * 64)
    larger = _needs(plan(Load(1e6, 300, 3_600_000, bytes_per_event=50)))
    assert larger["Kafka, packed records"] == pytest.approx(1e6 / 40_000 * 64 + 1e6 / 25_000 * 64), "40,000 at the most"


def test_each_rollup_disk_and_slow_load_counts() -> None:
    load = Load(1_000, 10**9, HORIZON_MS)
    one, three = _needs(plan(load)), _needs(plan(dataclasses.replace(load, rollups=3)))
    for what in ("work, CPU", "deltas topics on disk", "Postgres, rows"):
        assert three[what] > 2 * one[what], what
    decade = _needs(plan(dataclasses.replace(load, dedup_horizon_ms=3_650 * HORIZON_MS)))
    assert decade["work, processes"] > one["work, processes"], "as many as hold the ids"
    assert decade["its remembered ids on disk"] <= planning.WORKER_DISK.value
    # Fewer events than groups: no more groups change than events come.
    assert one["Postgres, rows"] == pytest.approx(1_000 + 1_000)
    assert one["Postgres, disk a day"] == pytest.approx(1_000 * 86_400 * planning.ROW_BYTES.value)


def test_settings_it_copies_are_the_engine_s() -> None:
    assert planning.STORE_CACHE_BYTES.value == store._CACHE_BYTES
    assert planning.STORE_BUFFER_BYTES.value == store.WRITE_BUFFERS_MAX * store.WRITE_BUFFER_BYTES
    assert Settings.model_fields["partitions"].default == planning.PARTITIONS_MIN
    assert {load_of(1, 1, "1h", 1, 1, "30s").emit_every_ms, Load(1, 1, 1).emit_every_ms} == {30_000}
    assert "3 * horizon_ms + RETENTION_MARGIN_MS" in inspect.getsource(registry), "plan.py sizes the events topic so"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (8, "", "8"),
        (0.1, "cores", "0.10 cores"),
        (1_234.5, "rows/s", "1,234 rows/s"),
        (999, "B", "999.0 B"),
        (1_500, "B", "1.5 kB"),
        (2.5e13, "B/s", "25.0 TB/s"),
        (4e18, "B", "4,000.0 PB"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert planning._amount(value, unit) == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"events_per_second": 0}, "--events-per-second 0 is no load. Write a number above 0"),
        ({"events_per_second": math.nan}, "--events-per-second nan"),
        ({"events_per_second": math.inf}, "--events-per-second inf"),
        ({"groups": -1}, "--groups -1"),
        ({"bytes_per_event": 0}, "--bytes-per-event 0"),
        ({"rollups": 0}, "--rollups 0"),
        ({"dedup_horizon": "1 day"}, "--dedup-horizon: not a duration: '1 day'. Write whole numbers"),
        ({"dedup_horizon": "0s"}, "--dedup-horizon 0s is no length of time. Write whole numbers"),
        ({"emit_every": "0s"}, "--emit-every 0s"),
    ],
)
def test_wrong_words_say_what_to_write(words: dict[str, object], said: str) -> None:
    numbers = {"events_per_second": 1.0, "groups": 1, "bytes_per_event": 170, "rollups": 1}
    right = {**numbers, "dedup_horizon": "24h", "emit_every": "30s"}
    with pytest.raises(UsageError) as refused:
        load_of(**{**right, **words})  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_the_command_s_options_and_status() -> None:
    words = shlex.split("plan --events-per-second -5 --groups 10 --dedup-horizon 24h")
    command = [sys.executable, "-m", "rollup_engine", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rollup-engine: --events-per-second -5.0 is no load.")
    words = shlex.split(
        "plan --events-per-second 5 --groups 10 --dedup-horizon 2h --bytes-per-event 7 --rollups 3 --emit-every 9s"
        " --format json"
    )
    answer = json.loads(CliRunner().invoke(cli.app, words, catch_exceptions=False).stdout)
    assert answer["load"] == dataclasses.asdict(Load(5, 10, 7_200_000, 7, 3, 9_000))
    assert [need["amount"] for need in answer["needs"]] == [need.amount for need in plan(Load(**answer["load"])).needs]
    assert len(answer["constants"]) == len(CONSTANTS)
    assert {limit["what"] for limit in answer["limits"]} == {limit.what for limit in plan(Load(1, 1, 1)).limits}


def _printed(words: str) -> str:
    """What the command prints on a terminal of 100 columns, without blanks at the ends of lines."""
    out = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "100"}), redirect_stdout(out):
        cli.app(shlex.split(words), standalone_mode=False)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _first(words: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        cli.app([*shlex.split(words), "--format", "json"], standalone_mode=False)
    return str(json.loads(out.getvalue())["limits"][0]["what"])


def written_anew(page: str) -> str:
    """The page with its tables, examples and what breaks first as they are now."""
    lines = ["| | constant | where from |", "|---|---:|---|"]
    lines += [f"| {c.what} | {c.value:,.15g} {c.unit} | {c.source} |" for c in CONSTANTS]
    table = "\n".join(lines)
    page = re.sub(r"(<!-- constants -->\n).*?(<!-- /constants -->)", rf"\g<1>\n{table}\n\n\g<2>", page, flags=re.DOTALL)

    def example(found: re.Match[str]) -> str:
        words, rest = found["words"], re.sub(r"<!-- first -->(\*\*.*?\*\*)?", "<!-- first -->", found["rest"])
        rest = rest.replace("<!-- first -->", f"<!-- first -->**{_first(words)}**")
        return f"<!-- {words} -->\n\n```\n$ rollup-engine {words}\n{_printed(words)}```\n\n<!-- /plan -->{rest}"

    pattern = r"<!-- (?P<words>plan [^\n]*) -->\n.*?<!-- /plan -->(?P<rest>.*?)(?=\n## |\Z)"
    return re.sub(pattern, example, page, flags=re.DOTALL)


def test_the_page_says_what_is_printed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written_anew(page), "docs/scaling.md is of before: run `python -m tests.unit.runtime.test_plan`"
    assert page.count("$ rollup-engine plan") == 3
    assert page.count("<!-- first -->**") == 3


def test_what_the_page_concludes_still_holds() -> None:
    """Its advice rests on these; where one fails, rewrite the advice of that example."""
    small, large, huge = (
        {limit.what: limit.load for limit in plan(Load(rate, groups, HORIZON_MS)).limits}
        for rate, groups in ((20_000, 1_000), (500_000, 100_000), (5_000_000, 1_000_000))
    )
    assert max(small.values()) < 1, "nothing breaks"
    assert max(small, key=small.__getitem__).startswith("Kafka")
    assert min(large["Kafka disk"], large["Kafka writes"], large["work"], large["route"]) > 1, "add brokers, processes"
    assert max(large["Postgres rows"], large["Postgres commits"]) < 0.5, "one database is enough"
    assert huge["Kafka disk"] == max(huge.values()), "for the horizon above all"
    assert huge["Postgres rows"] > 0.5, "rows fill most of one database"


if __name__ == "__main__":
    PAGE.write_text(written_anew(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
