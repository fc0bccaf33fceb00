"""`docs/benchmarks.md` from a results file: `python -m benchmarks.report [RESULTS]`.

Owns: the page. Every figure on it comes from the file; what was not measured is named as such, and not guessed.
"""

import argparse
import subprocess
from pathlib import Path

from benchmarks.results import Suite, load
from benchmarks.yardsticks.running import PYTHON, ROOT

RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images" / "benchmarks"
SUITES = {
    "end_to_end.embedded": "python -m benchmarks end_to_end",
    "end_to_end.apache": "python -m benchmarks end_to_end --kafka apache",
    "growth.groups": "python -m benchmarks growth --of groups",
    "growth.remembered-ids": "python -m benchmarks growth --of remembered-ids",
    "growth.events": "python -m benchmarks growth --of events",
    "growth.raw-partitions": "python -m benchmarks growth --of raw-partitions",
    "growth.rollups": "python -m benchmarks growth --of rollups",
    "scale_out": "python -m benchmarks scale_out",
    "freshness": "python -m benchmarks freshness",
    "recovery": "python -m benchmarks recovery",
    "footprint": "python -m benchmarks footprint",
    "ingest.embedded": "make bench-ingest",
    "ingest.apache": "make bench-ingest",
    "queries": "make bench-query",
    "queries.upkeep": "make bench-query",
}

HEAD = """\
# Benchmarks

Made by `python -m benchmarks.report` from `benchmarks/results.json`; do not edit it by hand. `make bench` measures all
of it again, which takes hours; every section names the command that measures it alone.

## How to read it

- **Correctness is on everywhere.** The engine runs with deduplication, durable hand-overs and the fenced transaction,
  as in production; there is no fast mode. Totals per window start, customer and speed, each id once, are compared with
  a recount of the events, to the last byte. What differs is marked `wrong` and is not drawn.
- **Compare within a table.** Its lines come from the same run, on the same topic, one after the other, on one machine
  that broker, database and engine share. Between machines, compare ratios. The drain is the limit: it fetches every
  record in one process, and does nothing.
- **The yardsticks do less.** The hand-written loop, and bytewax without recovery, keep nothing: after a crash they
  begin again. Faust, quixstreams, bytewax and pathway remember an id within its own group only, so they would count a
  repeat with another payload twice, and they write to no database. DuckDB and Polars read a file that is complete.
  Their programs are in `benchmarks/yardsticks/`, one small file each, as their own documentation has it.
- **Clocks.** The engine's runs from all partitions being open until every total is seen in Postgres. A yardstick's
  runs from its first event until its totals are complete, in memory.
- **The events** are JSON with an id, a customer, a time, a size, a speed and a path. One in fifty repeats one of the
  50,000 before it. They spread over two hours of event time, 1,000 customers and 3 speeds, unless a table says
  otherwise.
"""


def page(suites: list[Suite]) -> str:
    """The Markdown, in the order of `SUITES`."""
    found = {suite.name: suite for suite in suites}
    parts = [HEAD]
    for name, command in SUITES.items():
        if (suite := found.get(name)) is not None:
            parts.append(suite.markdown() + _picture(name, suite) + f"\nMeasured by `{command}`.\n")
    if missing := [command for name, command in SUITES.items() if name not in found]:
        parts.append("## Not measured yet\n\n" + "".join(f"- `{command}`\n" for command in missing))
    return "\n".join(parts)


def _picture(name: str, suite: Suite) -> str:
    file = IMAGES / f"{name}.svg"
    return f"\n![{suite.title}](images/benchmarks/{file.name})\n" if file.exists() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args()
    if not options.results.exists():
        raise SystemExit(f"There is no results file {options.results}. Measure first: `make bench`.")
    if not PYTHON.exists():
        raise SystemExit("The plots need the benchmarks' own virtual environment. Make it: `make .venv-bench/.ready`.")
    command = [str(PYTHON), "-m", "benchmarks.plots", str(options.results.resolve()), str(IMAGES)]
    subprocess.run(command, check=True, cwd=ROOT)
    PAGE.write_text(page(load(options.results)))


if __name__ == "__main__":
    main()
