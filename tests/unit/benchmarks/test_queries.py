"""The query benchmark, very small: every form gives the same answer, and one that does not is marked."""

from typing import Any

import pytest

from benchmarks import queries
from benchmarks.many_partials import Size
from benchmarks.queries import EQUAL, WRONG, Question, Stage
from rollup_engine.runtime import schema

SIZE = Size(partials=3_000, customers=4, days=2)


async def test_all_forms_agree_and_a_wrong_one_is_marked(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with schema.connected(database_url, connections_max=2) as pool:
        stage = Stage(pool, database_url, SIZE, fast=3, slow=2)
        asked, work = await queries._measured(stage)
        assert {row["answer"] for row in asked} == {EQUAL}
        assert len(asked) == 2 * 3 * len(queries.QUESTIONS)
        figures: dict[Any, Any] = {row["what"]: row["figure"] for row in work}
        assert figures["partial rollups"] > figures["partials deleted"] > 0
        assert figures["refreshed"] == 2 * 24

        async def wrong(question: Question, customer: str | None) -> object:
            return []

        rows = await queries._questions(stage, "now", {"by hand": stage.by_hand, "made up": wrong}, [])
        assert [row["answer"] for row in rows] == [EQUAL, WRONG] * len(queries.QUESTIONS)
