"""Every error a user can meet, as one tree.

Owns: the exception classes and how they render. A class's docstring is its default message: it says what
happened, to what, and what to do. Must never: import anything else of the project, or read the environment.

    RollupError                 exit status 1
    ├── UsageError              exit status 2; may carry problems
    │   └── ConfigError         exit status 2; the YAML or the settings are wrong
    ├── MetricError             exit status 2; metric SQL is wrong
    ├── ClaimLost               another worker has the partition
    ├── PartitionHalted         one partition stops, with cause and remedy
    │   └── StoreRefused        a bucket or directory will not be read until something is changed
    ├── BrokerUnavailable
    │   ├── StoreUnavailable    a bucket does not answer
    │   └── IntakeUnavailable   events cannot be taken now; clients of the API read what it says
    └── DatabaseUnavailable
        └── MetricsBusy     too many metrics at once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in one place of one file.

    `line` and `column` count from 1; None where the whole file (or no file, for a setting) is meant.
    `message` is a clause without a full stop, `hint` a full sentence (or empty) saying what to write instead.
    """

    file: str | None
    line: int | None
    column: int | None
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        text = f"{where}: {self.message}." if where else f"{self.message}."
        return f"{text} {self.hint}" if self.hint else text


class RollupError(Exception):
    """The rollup engine failed."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__ or type(self).__name__)


class UsageError(RollupError):
    """The command was used in a way it does not understand. See `rollup-engine --help`."""

    exit_status = 2

    def __init__(self, message: str | None = None, problems: Sequence[Problem] = ()) -> None:
        self.problems = list(problems)
        super().__init__(message or "\n".join(map(str, self.problems)) or None)


class ConfigError(UsageError):
    """The configuration is wrong. `rollup-engine validate` shows every problem in it."""


class MetricError(RollupError):
    """This metric SQL cannot be run. `rollup-engine query --explain` shows what it is rewritten to."""

    exit_status = 2

    def __init__(
        self,
        message: str | None = None,
        *,
        line: int | None = None,
        column: int | None = None,
        sql: str | None = None,
    ) -> None:
        """`line` and `column` count from 1 within `sql`; with all three, the message ends in that line and a caret."""
        self.line, self.column, self.sql = line, column, sql
        text = message or self.__doc__ or type(self).__name__
        self.message = text
        lines = [] if sql is None else sql.split("\n")
        if line is not None and column is not None and 1 <= line <= len(lines):
            # Tabs stay tabs under the line, so that the caret stands below its character at any tab width.
            margin = "".join("\t" if char == "\t" else " " for char in lines[line - 1][: column - 1])
            text = f"{text} (line {line}, column {column})\n  {lines[line - 1]}\n  {margin}^"
        super().__init__(text)


class ClaimLost(RollupError):
    """Another worker has taken this partition over. This one drops what it had not finished and goes on without it."""


class PartitionHalted(RollupError):
    """A partition stopped, because reading on could make totals wrong."""

    def __init__(self, cause: str, remedy: str, loss: str | None = None) -> None:
        """`cause`: what was found, and where, without a full stop. `remedy`: a sentence saying what to do.

        `loss` names exactly what is given up by going on regardless, once an operator has accepted it; None where
        going on is out of the question.
        """
        self.cause, self.remedy, self.loss = cause, remedy, loss
        super().__init__(f"{cause}. {remedy}")


class StoreRefused(PartitionHalted):
    """A bucket or directory cannot be read, and will not be until something is changed."""


class BrokerUnavailable(RollupError):
    """Kafka does not answer. Check that it runs, and ROLLUP_KAFKA_BOOTSTRAP_SERVERS and the security settings."""


class StoreUnavailable(BrokerUnavailable):
    """The bucket does not answer. Check the network, and AWS_ENDPOINT_URL where it is set."""


class IntakeUnavailable(BrokerUnavailable):
    """Events cannot be taken at the moment. Try again later."""


class DatabaseUnavailable(RollupError):
    """Postgres does not answer. Check that it runs, and that ROLLUP_DATABASE_URL names its host, user and database."""


class MetricsBusy(DatabaseUnavailable):
    """Too many metrics run at once. Try again later."""
