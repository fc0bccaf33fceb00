"""Attacks on the database through metric SQL: each is refused by the rewriter, or contained by the limits.

The corpus is in `attacks/*.yaml`, by kind. `refused`: the rewriter raises, and Postgres sees nothing of it.
`contained`: it runs, with small limits, and ends in time with an answer or an error. At the end nothing in the database
has changed, nothing is left behind, and a plain metric gets its answer. `second_wall.yaml` is what the role may not do
by itself.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from ruamel.yaml import YAML

from billable_metrics.execute import MetricRunner, Result
from billable_metrics.limits import APPLICATION_NAME, Limits
from billable_metrics.rewriter import rewrite
from billable_metrics.role import METRIC_ROLE
from rollup_engine.errors import MetricError
from tests.metrics.support import CATALOG, CUSTOMER, DOWNLOADS, REQUESTS, Database, Series

CORPUS = Path(__file__).parent / "attacks"
SCANS = {"{T}": "AGGREGATED_EVENTS('file_download')", "{R}": "AGGREGATED_EVENTS('API_REQUEST')"}
VICTIM, MARK = "victim", "MARK-OF-THE-OTHER"
MARKED_NUMBER = 10**15
"""All of the victim's numbers are at least that, all of the customer's far below."""
LIMITS = Limits(
    timeout_s=5,
    grace_s=0.3,
    rows_max=1_000,
    result_bytes_max=1_000_000,
    work_mem_kb=512,
    temp_file_mb=10,
    connections_max=2,
)
BOMB_TIMEOUT_S = 0.15
ENDS_WITHIN_S = 8.0


@dataclass(frozen=True)
class Attack:
    """`answers`: an error would tell something about rows that are not the customer's. `says`: what the error says."""

    kind: str
    name: str
    sql: str
    expect: str
    customer: str | None = None
    answers: bool = False
    says: str | None = None
    repeat: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        text = self.sql.replace("<surrogate>", "\ud800")
        for name, (part, times) in self.repeat.items():
            text = text.replace(f"{{{name}}}", part * times)
        for name, scan in SCANS.items():
            text = text.replace(name, scan)
        return text

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def load(file: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    return loaded


FILES = sorted(file for file in CORPUS.glob("*.yaml") if file.stem != "second_wall")
ATTACKS = [Attack(kind=file.stem, **each) for file in FILES for each in load(file)]
SECOND_WALL = load(CORPUS / "second_wall.yaml")


def history(groups: int, aggregates: int) -> list[Series]:
    """Forty windows of each, and a later one of the victim's alone."""
    later = Series(5_300, VICTIM, (MARK, MARK)[:groups], ((MARKED_NUMBER, *[Decimal(MARKED_NUMBER)] * aggregates),))
    made = [later]
    for window in range(40):
        for customer, text, other, number in (
            (CUSTOMER, "slow aaaaaaaaaaaa", "UTC", 7),
            (VICTIM, MARK, MARK, MARKED_NUMBER),
        ):
            values = (number + window, *[Decimal(number + window)] * aggregates)
            made.append(Series(window, customer, (f"{text} {window % 5}", other)[:groups], (values, values)))
    return made


@pytest.fixture(scope="module")
def attacked(new_database: Callable[[], str], loop_runner: asyncio.Runner) -> Iterator[Database]:
    database = Database(new_database(), loop_runner)
    database.load(DOWNLOADS, history(2, 3))
    database.load(REQUESTS, history(1, 1))
    database.execute("SET application_name = 'the owner'")
    before = state_of(database)
    yield database
    assert state_of(database) == before
    database.close()


def state_of(database: Database) -> list[tuple[object, ...]]:
    """All that an attack may want to change: rows, tables, rights, roles, large objects, sequences, locks."""
    tables = [f"rollups.{each.table_name}" for each in (DOWNLOADS, REQUESTS)]
    asked = [f"SELECT COUNT(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t" for table in tables]
    asked += (CORPUS / "state.sql").read_text(encoding="utf-8").split(";")[:-1]
    return [database.plain(each).rows[0] for each in asked]


def run(database: Database, attack: Attack) -> Result:
    runner = MetricRunner(database.url, LIMITS)

    async def ran() -> Result:
        try:
            return await runner.run(
                lambda catalog: rewrite(attack.text, catalog, customer=attack.customer),
                CATALOG,
                timeout_s=BOMB_TIMEOUT_S if attack.kind == "bombs" else None,
            )
        finally:
            await runner.close()

    return database.runner.run(ran())


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(ATTACKS) >= 150
    assert len({str(each) for each in ATTACKS}) == len(ATTACKS)
    assert len({(each.text, each.customer) for each in ATTACKS}) == len(ATTACKS)
    assert {each.expect for each in ATTACKS} == {"refused", "contained"}


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each.expect == "refused"], ids=str)
def test_refused(attack: Attack, caplog: pytest.LogCaptureFixture) -> None:
    """By the rewriter, in no time, and without a word in the log, which is not for such texts."""
    started = time.perf_counter()
    with pytest.raises(MetricError):
        rewrite(attack.text, CATALOG, customer=attack.customer)
    assert time.perf_counter() - started < 1
    assert caplog.records == []


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each.expect == "contained"], ids=str)
def test_contained(attacked: Database, attack: Attack) -> None:
    rewrite(attack.text, CATALOG, customer=attack.customer)  # what is refused belongs to the others
    started = time.perf_counter()
    try:
        shown = run(attacked, attack).rows
    except MetricError as error:
        if attack.answers or (attack.says or "") not in str(error):
            raise
        shown = [(str(error),)]
    else:
        assert attack.says is None, shown
    assert time.perf_counter() - started < ENDS_WITHIN_S
    if attack.customer is not None:
        assert [row for row in shown if any(map(is_the_others, row))] == []


def is_the_others(value: object) -> bool:
    if isinstance(value, (int, Decimal)):
        return abs(value) >= MARKED_NUMBER // 10
    return MARK in str(value) or value == VICTIM


def test_the_marks_would_be_seen(attacked: Database) -> None:
    """What the attacks on others' rows are judged by finds the rows of a metric that is not bound."""
    unbound = run(attacked, Attack("", "", "SELECT * FROM {T} LIMIT 1000", "contained"))
    assert sum(any(map(is_the_others, row)) for row in unbound.rows) == 41
    assert len(unbound.rows) == 81


@pytest.mark.parametrize("attack", SECOND_WALL, ids=lambda each: f"{each['wall']}: {each['name']}")
def test_the_second_wall(attacked: Database, attack: dict[str, str]) -> None:
    """Past the rewriter: PostgreSQL itself refuses what the role has no right to, and any writing."""
    expected = {
        "role": (asyncpg.InsufficientPrivilegeError,),
        "read only": (asyncpg.ReadOnlySQLTransactionError, asyncpg.ActiveSQLTransactionError),
    }

    async def attempt() -> None:
        connection = await asyncpg.connect(attacked.url, server_settings={"role": METRIC_ROLE})
        try:
            if attack["wall"] == "read only":
                await connection.execute("BEGIN READ ONLY; SELECT 1")
            with pytest.raises(expected[attack["wall"]]):
                await connection.execute(attack["sql"])
        finally:
            await connection.close()

    attacked.runner.run(attempt())


def test_a_plain_metric_after_all_that(attacked: Database) -> None:
    deadline = time.monotonic() + 5
    stray = f"SELECT COUNT(*) FROM pg_stat_activity WHERE application_name LIKE '{APPLICATION_NAME}%'"
    while attacked.plain(stray).rows != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert attacked.plain(stray).rows == [(0,)]
    answer = attacked.metric(
        "SELECT SUM(aggregated_count) AS n, MAX(timestamp) AS t FROM AGGREGATED_EVENTS('file_download')"
        f" WHERE external_customer_id = '{CUSTOMER}'"
    )
    assert answer.rows == [(sum(7 + window for window in range(40)), datetime(2024, 3, 14, 6, 30, tzinfo=UTC))]


def test_the_page_on_security_names_tests_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "metric-security.md").read_text(encoding="utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(proofs) >= 8
    for file, name in proofs:
        assert f"def {name}" in (root / file).read_text(encoding="utf-8"), f"there is no {file}::{name}"
