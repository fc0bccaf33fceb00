"""What a benchmark found: tables of figures, kept as JSON, shown on the console and in Markdown.

Owns: the shape of results and how a figure is written. Ratios compare figures of one run; what is kept of several runs
is their median. The machine is named by its cores and memory, and by nothing else.
"""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

Figure = float | int | str | None
Row = dict[str, Figure]
console = Console(width=None if sys.stdout.isatty() else 180)


def machine() -> str:
    return f"{os.cpu_count()} cores, {psutil.virtual_memory().total / (1 << 30):.0f} GiB of memory"


@dataclass
class Suite:
    """One benchmark's outcome. The first column of a row says what was measured; the others hold its figures, with
    the unit in the column's name. `parameters`: sizes, and on what it ran."""

    name: str
    title: str
    parameters: dict[str, Figure]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: int = 1
    machine: str = field(default_factory=machine)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def cells(self) -> list[list[str]]:
        return [[written(row.get(column)) for column in self.columns] for row in self.rows]

    def show(self) -> None:
        """As a table on the console."""
        table = Table(title=f"{self.title}\n{self.under}", caption="\n".join(self.notes), caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.cells():
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """As a Markdown section."""
        lines = [f"## {self.title}", "", f"{self.under[0].upper()}{self.under[1:]}.", ""]
        lines += ["| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "|".join([" --- ", *(" ---: " for _ in self.columns[1:])]) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.cells()]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    @property
    def under(self) -> str:
        told = ", ".join(f"{name} {written(value)}" for name, value in self.parameters.items())
        many = f"medians of {self.runs} runs" if self.runs > 1 else "one run"
        return f"{told}; {many}; {self.machine}"

    def keep(self, file: Path | None) -> None:
        """Show it, and put it into the results file in place of an earlier outcome of the same name."""
        self.show()
        if file is not None:
            kept = {suite.name: suite for suite in load(file)} | {self.name: self}
            file.write_text(json.dumps([asdict(suite) for suite in kept.values()], indent=1) + "\n")


def load(file: Path) -> list[Suite]:
    return [Suite(**one) for one in json.loads(file.read_text())] if file.exists() else []


def written(figure: Figure) -> str:
    """Three digits that matter, thousands apart; nothing for what was not measured."""
    if figure is None:
        return ""
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int) or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.{2 if abs(figure) < 10 else 1}f}" if abs(figure) >= 0.1 or figure == 0 else f"{figure:.2g}"


def medians(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Row by row over several runs, told apart by their first column, of the figures there are. Words that differ are
    all kept: a run without a figure says why."""
    found: dict[Figure, list[Row]] = {}
    for rows in runs:
        for row in rows:
            found.setdefault(next(iter(row.values())), []).append(row)
    return [{column: _middle([row.get(column) for row in rows]) for column in rows[0]} for rows in found.values()]


def _middle(figures: list[Figure]) -> Figure:
    told = [figure for figure in figures if figure is not None]
    numbers = [figure for figure in told if isinstance(figure, int | float)]
    if not told or len(numbers) < len(told):
        return "; ".join(dict.fromkeys(map(str, told))) or None
    middle = statistics.median(numbers)
    return round(middle) if all(isinstance(number, int) for number in numbers) else middle
