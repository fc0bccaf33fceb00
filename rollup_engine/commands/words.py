"""What commands share: the settings, and options that mean the same everywhere. Imports nothing heavy."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from rollup_engine.errors import UsageError

Format = Annotated[str, typer.Option("--format", metavar="table|json|csv", help="How to print the result.")]


def settings() -> Any:
    """The settings of this process. Raises `ConfigError`."""
    from rollup_engine.config.settings import load_settings

    return load_settings()


def one_of(value: str, *allowed: str) -> None:
    """Checks --format."""
    if value not in allowed:
        raise UsageError(f"--format {value!r} is not known here. Write one of {', '.join(allowed)}.")


def time(text: str | None, option: str) -> datetime | None:
    """An option's time, aware. Raises `UsageError`."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no time. Write e.g. 2022-08-14T15:10:00Z.") from error
    if read.tzinfo is None:
        raise UsageError(f"{option} {text!r} has no offset. Write e.g. {text}Z for UTC.")
    return read


def duration(text: str | None, option: str) -> timedelta | None:
    """An option's length of time. Raises `UsageError`."""
    if text is None:
        return None
    from rollup_engine.config.durations import HOW_TO_WRITE, parse_duration

    try:
        return timedelta(milliseconds=parse_duration(text))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no duration. {HOW_TO_WRITE}") from error
