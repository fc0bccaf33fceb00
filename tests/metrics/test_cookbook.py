"""Every example of docs/metrics.md runs, over the totals that the page lists, and gives what the page shows."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import asyncpg
import pytest

from billable_metrics.catalog import catalog_from_config
from billable_metrics.execute import MetricRunner, exact
from billable_metrics.metric_files import RESERVED, check_metrics, read_metrics
from billable_metrics.parameters import parse_values
from billable_metrics.periods import BUCKETS_MAX
from billable_metrics.rewriter import rewrite
from billable_metrics.times import parse_instant, shown
from billable_metrics.usage import CELLS_MAX, CUSTOMERS_MAX, PAGE_MAX, UsageRequest, usage
from rollup_engine.config.loader import load
from rollup_engine.config.model import Config, Rollup
from rollup_engine.errors import MetricError
from rollup_engine.runtime import schema, sql

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True)
class Example:
    """A code block, and what the page shows below it: a table's lines, an error's text, or nothing."""

    line: int
    kind: str
    code: str
    shows: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.kind}"


def examples() -> list[Example]:
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"^```(\w[\w ]*)\n(.*?)^```\n(?:\n(\|.*?\n)(?!\|)|\n```text\n(.*?)^```\n)?", text, _FLAGS):
        kind, code, table, error = block.groups()
        if kind != "text":
            found.append(Example(text.count("\n", 0, block.start()) + 1, kind, code, (table or error or "").strip()))
    return found


_FLAGS = re.MULTILINE | re.DOTALL
EXAMPLES = examples()
METRICS = [example for example in EXAMPLES if example.kind == "yaml" and example.code.startswith("name:")]
TOTALS = re.findall(
    r"^\| (\w+) \| customer \|.*?\n\|[-:|]+\|\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE
)


class Cookbook:
    """The page's rollups with its totals, and its metrics."""

    def __init__(self, url: str, directory: Path, runner: asyncio.Runner) -> None:
        self.url, self.runner = url, runner
        for number, example in enumerate(EXAMPLES):
            if example.kind == "yaml":
                folder = directory / ("metrics" if example in METRICS else "rollups")
                folder.mkdir(exist_ok=True)
                (folder / f"{number:03}.yaml").write_text(example.code, encoding="utf-8")
        self.config: Config = load(directory / "rollups")
        self.catalog = catalog_from_config(self.config)
        self.files = sorted((directory / "metrics").iterdir())
        self.metrics, problems = read_metrics(self.files)
        assert not problems
        self.connection = runner.run(self._load())

    async def _load(self) -> "asyncpg.Connection[asyncpg.Record]":
        pool = await schema.connect(self.url)
        await schema.migrate(pool)
        async with pool.acquire() as connection:
            await schema.declare(connection, "tests", self.config)  # type: ignore[arg-type]
        await pool.close()
        connection = await asyncpg.connect(self.url, server_settings={"timezone": "UTC"})
        for name, rows in TOTALS:
            rollup = self.config.rollup(name)
            month = {"month": "2024_03", "start": "2024-03-01Z", "end": "2024-04-01Z"}
            await connection.execute(sql.template("month", table=rollup.table, **month))
            for row in rows.splitlines():
                await self._insert(connection, rollup, [cell.strip() for cell in row.strip("|").split("|")])
        return connection

    async def _insert(self, connection: "asyncpg.Connection[asyncpg.Record]", rollup: Rollup, cells: list[str]) -> None:
        """The total, and before it a partial one of half as much."""
        time, customer, *rest = cells
        groups = [None if cell == "NULL" else cell for cell in rest[: len(rollup.group_by)]]
        count, *totals = (Decimal(cell) for cell in rest[len(rollup.group_by) :])
        columns = [group.column for group in rollup.group_by] + [each.column for each in rollup.aggregates]
        key = uuid5(NAMESPACE, repr((customer, groups)))
        for revision, share in enumerate((Decimal("0.5"), Decimal(1))):
            values = [
                uuid5(key, f"{time} {revision}"),
                *(datetime.fromisoformat(time), customer, int(count * share), revision, key),
                *groups,
                *(total * share for total in totals),
            ]
            names = ["idempotency_key", "timestamp", "external_customer_id", "count", "revision", "tuple_key", *columns]
            await connection.execute(
                f'INSERT INTO rollups."{rollup.table_name}" ({", ".join(names)})'
                f" VALUES ({', '.join(f'${number + 1}' for number in range(len(names)))})",
                *values,
            )
        await connection.execute("SELECT rollup_engine.note_all($1)", rollup.table)

    def shows(self, example: Example) -> str:
        """What the page has to show below an example."""
        try:
            if example.kind == "yaml":
                return self._problems(example)
            if example.kind == "http":
                return self._usage(example.code)
            if example.kind == "sql view":
                return self._plain(example.code)
            result = self.runner.run(
                MetricRunner(self.url).run(lambda catalog: rewrite(example.code.strip(), catalog), self.catalog)
            )
            return _table(result.columns, result.rows)
        except MetricError as error:
            return str(error)

    def _problems(self, example: Example) -> str:
        metrics, _ = read_metrics([file for file in self.files if file.read_text(encoding="utf-8") == example.code])
        found = check_metrics(metrics, self.catalog)
        return "\n".join(f"metrics/{next(iter(metrics))}.yaml:{each.line}: {each.message}." for each in found)

    def _usage(self, request: str) -> str:
        url = urlsplit(request.removeprefix("GET ").strip())
        asked = parse_qs(url.query, strict_parsing=True)
        metric = self.metrics[url.path.split("/")[3]]
        one = {name: values[0] for name, values in asked.items()}
        question = UsageRequest(
            customers=tuple(asked["external_customer_id"]),
            start=parse_instant(one["start"], "start"),
            end=parse_instant(one["end"], "end"),
            granularity=one.get("granularity", "none"),  # type: ignore[arg-type]
            timezone=one.get("timezone", "UTC"),
            group_by=tuple(asked.get("group_by", ())),
            parameters=parse_values(metric.parameters, {n: value for n, value in one.items() if n not in RESERVED}),
            snap=one.get("snap"),  # type: ignore[arg-type]
            fill_zero=one.get("fill") == "true",
        )
        found = self.runner.run(usage(MetricRunner(self.url), self.catalog, metric, question))
        return _table(
            ["external_customer_id", "start", "end", *found.group_by, "value"],
            [(row.external_customer_id, row.start, row.end, *row.group.values(), row.value) for row in found.rows],
        )

    def _plain(self, text: str) -> str:
        records = self.runner.run(self.connection.fetch(text))
        return _table(list(records[0].keys()), [tuple(map(exact, record.values())) for record in records])


def _table(columns: list[str], rows: list[tuple[object, ...]]) -> str:
    numbers = [isinstance(value, (int, Decimal)) for value in (rows[0] if rows else [None] * len(columns))]
    lines = [columns, ["---:" if number else "---" for number in numbers], *(map(_cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace(" --- ", "---").replace(" ---: ", "---:")


def _cell(value: object) -> str:
    return "NULL" if value is None else shown(value) if isinstance(value, datetime) else str(value)


@pytest.fixture(scope="module")
def cookbook(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, loop_runner: asyncio.Runner
) -> Iterator[Cookbook]:
    made = Cookbook(new_database(), tmp_path_factory.mktemp("cookbook"), loop_runner)
    yield made
    loop_runner.run(made.connection.close())


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_it_gives_what_the_page_shows(cookbook: Cookbook, example: Example) -> None:
    if example.code.startswith("event:"):
        return  # a rollup: the others run over it
    assert cookbook.shows(example) == example.shows


def test_the_page_has_examples_of_everything() -> None:
    kinds = [example.kind for example in EXAMPLES]
    assert len(METRICS) >= 12
    assert kinds.count("http") >= 20
    assert kinds.count("sql") >= 3
    assert kinds.count("sql view") >= 1
    assert set(kinds) == {"yaml", "http", "sql", "sql view"}
    assert [name for name, _ in TOTALS] == ["file_download", "api_request"]


def test_the_limits_it_states_are_those_there_are() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert (
        f"at most {CUSTOMERS_MAX} customers, {BUCKETS_MAX:,} parts of a period, and {CELLS_MAX:,} of customers" in text
    )
    assert f"A page has at most {PAGE_MAX:,} rows" in text


def test_every_metric_of_the_page_is_asked_for() -> None:
    asked = {urlsplit(example.code).path.split("/")[3] for example in EXAMPLES if example.kind == "http"}
    named = {re.match(r"name: (\w+)", example.code)[1] for example in METRICS}  # type: ignore[index]
    assert named - asked == {"misspelt"}
