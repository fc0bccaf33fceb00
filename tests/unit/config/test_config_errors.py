"""How errors render: the class's own sentence by default, problems a line each, and a caret under bad SQL."""

from __future__ import annotations

import pytest

from rollup_engine import errors
from rollup_engine.errors import ConfigError, MetricError, PartitionHalted, Problem, RollupError, UsageError


def tree(root: type[RollupError]) -> list[type[RollupError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


@pytest.mark.parametrize("cls", [cls for cls in tree(RollupError) if cls.__module__ == errors.__name__])
def test_every_error_has_a_message_of_its_own_and_an_exit_status(cls: type[RollupError]) -> None:
    error = cls("it broke", "mend it") if issubclass(cls, PartitionHalted) else cls()
    assert str(error).endswith(".") or isinstance(error, PartitionHalted)
    assert "\n" not in str(error)
    assert cls.__doc__ == str(error) or issubclass(cls, PartitionHalted)  # whose text is cause and remedy
    assert cls.exit_status == (2 if issubclass(cls, UsageError | MetricError) else 1)
    assert f" {cls.__name__} " in (errors.__doc__ or "").replace("\n", " ")


def test_a_problem_is_rendered_as_far_as_its_place_is_known() -> None:
    assert str(Problem("a.yaml", 12, 3, "x is wrong", "Write y.")) == "a.yaml:12: x is wrong. Write y."
    assert str(Problem("a.yaml", None, None, "x is wrong", "Write y.")) == "a.yaml: x is wrong. Write y."
    assert str(Problem(None, None, None, "x is wrong")) == "x is wrong."


def test_problems_are_the_message() -> None:
    error = ConfigError(problems=(Problem("a", 1, 1, "b"), Problem("c", 2, 1, "d", "E.")))
    assert str(error) == "a:1: b.\nc:2: d. E."
    assert [problem.file for problem in error.problems] == ["a", "c"]
    assert str(UsageError("no")) == "no"


def test_a_halted_partition_says_why_and_what_to_do() -> None:
    error = PartitionHalted("events-3 begins at 7, after position 5", "Restore the topic.")
    assert str(error) == "events-3 begins at 7, after position 5. Restore the topic."
    assert (error.cause, error.remedy) == ("events-3 begins at 7, after position 5", "Restore the topic.")


def test_the_caret_stands_under_its_column() -> None:
    error = MetricError("no column b", line=2, column=9, sql="SELECT a\n\tFROM t, b")
    assert str(error) == "no column b (line 2, column 9)\n  \tFROM t, b\n  \t       ^"
    assert error.message == "no column b"


@pytest.mark.parametrize(("line", "column", "sql"), [(3, 1, "a\nb"), (0, 1, "a"), (1, 1, None), (None, 1, "a")])
def test_no_caret_without_a_place_in_the_text(line: int | None, column: int, sql: str | None) -> None:
    assert str(MetricError("no", line=line, column=column, sql=sql)) == "no"
