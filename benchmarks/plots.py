"""Pictures of a results file: `python -m benchmarks.plots RESULTS DIRECTORY`, in the yardsticks' virtual environment.

Owns: how figures are drawn. Reads nothing but the file, needs nothing but matplotlib, writes one SVG per picture.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

ENGINE_COLOUR, OTHER_COLOUR, GRID_COLOUR = "#1f5fbf", "#9aa5b1", "#d9dee3"
EQUAL, NO_TOTALS = "equal", "no totals"
Suite = dict[str, Any]


def main(results: Path, directory: Path) -> None:
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "font.size": 10, "axes.spines.top": False})  # same in, same out
    mpl.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    directory.mkdir(parents=True, exist_ok=True)
    for suite in json.loads(results.read_text()):
        if suite["name"].startswith("end_to_end."):
            rates(suite)
        elif suite["name"].startswith("growth."):
            costs(suite)
        elif suite["name"] == "scale_out":
            scaling(suite)
        else:
            continue
        # No date in the file: it changes when the figures do.
        pyplot.savefig(directory / f"{suite['name']}.svg", metadata={"Date": None}, bbox_inches="tight")
        pyplot.close()


def rates(suite: Suite) -> None:
    """Events a second, fastest on top; only what passed the recount, and the drain."""
    rows = [row for row in suite["rows"] if row["events/s"] and row["recount"] in (EQUAL, NO_TOTALS)]
    rows.sort(key=lambda row: row["events/s"])
    figure, axes = pyplot.subplots(figsize=(8, 0.5 + 0.4 * len(rows)))
    colours = [ENGINE_COLOUR if row["what"].startswith("rollup-engine") else OTHER_COLOUR for row in rows]
    bars = axes.barh([row["what"] for row in rows], [row["events/s"] for row in rows], color=colours)
    axes.bar_label(bars, [f"{row['events/s']:,.0f}" for row in rows], padding=4)
    axes.set_xscale("log")
    axes.set_xlabel("events a second, logarithmic")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=10 ** math.floor(math.log10(rows[0]["events/s"]) - 0.01))
    axes.margins(x=0.15)
    figure.suptitle(suite["title"])


def costs(suite: Suite) -> None:
    """Microseconds per event against the size, with the limit of 1.5 times the first."""
    size = next(iter(suite["rows"][0]))
    sizes = [row[size] for row in suite["rows"]]
    each = [row["µs/event"] for row in suite["rows"]]
    figure, axes = pyplot.subplots(figsize=(6, 3))
    axes.plot(sizes, each, marker="o", color=ENGINE_COLOUR)
    axes.axhline(1.5 * each[0], color=OTHER_COLOUR, linestyle="--", linewidth=1)
    axes.annotate("1.5 × the first", (sizes[0], 1.5 * each[0]), xytext=(0, 3), textcoords="offset points")
    axes.set_xscale("log", base=2 if sizes[-1] <= 64 else 10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(size)
    axes.set_ylabel("µs an event")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=GRID_COLOUR)
    figure.suptitle(suite["title"])


def scaling(suite: Suite) -> None:
    """Events a second against processes."""
    count = next(iter(suite["rows"][0]))
    figure, axes = pyplot.subplots(figsize=(6, 3))
    bars = axes.bar([str(row[count]) for row in suite["rows"]], [row["events/s"] for row in suite["rows"]])
    axes.bar_label(bars, [f"{row['events/s']:,.0f}" for row in suite["rows"]], padding=3)
    for bar in bars:
        bar.set_color(ENGINE_COLOUR)
    axes.set_xlabel(count)
    axes.set_ylabel("events a second")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.suptitle(suite["title"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
