"""`dead-letters`: what was refused, and why; and sending it again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rollup_engine.commands import words
from rollup_engine.errors import UsageError

app = typer.Typer(help="What was refused, and why.", no_args_is_help=True)


@app.command("list")
def letters_list(
    event: Annotated[str | None, typer.Option("--event", help="Of this event type only.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="With this reason or outcome only.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The newest so many.")] = 20,
    output: words.Format = "table",
) -> None:
    """The newest dead letters."""
    from rollup_engine.runtime.letter_screens import list_letters

    words.one_of(output, "table", "json")
    list_letters(words.settings(), event, reason, limit, output)


@app.command("show")
def letters_show(number: Annotated[int, typer.Argument(metavar="ID", help="From `dead-letters list`.")]) -> None:
    """One dead letter in full, with the original event."""
    from rollup_engine.runtime.letter_screens import show_letter

    show_letter(words.settings(), number)


@app.command("replay")
def letters_replay(
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[ID]...", min=1, max=(1 << 63) - 1, help="From `dead-letters list`."),
    ] = None,
    event: Annotated[str | None, typer.Option("--event", help="All of this event type.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="All with this reason or outcome.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    repaired: Annotated[
        Path | None, typer.Option("--with", metavar="FILE", help="Send this event instead; `-` reads standard input.")
    ] = None,
    as_event: Annotated[
        str | None, typer.Option("--as-event", metavar="E", help="The event type of letters that have none.")
    ] = None,
    may_double_count: Annotated[
        bool, typer.Option("--may-double-count", help="Also what was recorded longer ago than dedup_horizon.")
    ] = False,
) -> None:
    """Send dead letters again, each once: exempt from lateness, and judged like any other event for the rest."""
    from rollup_engine.runtime.letter_screens import replay_letters

    if bool(numbers) == bool(event or reason or everything):
        raise UsageError("Say which dead letters: by ID, or else all by --event, --reason or --all.")
    if repaired is not None and len(numbers or ()) != 1:
        raise UsageError("--with FILE repairs one dead letter: give its ID, and no other.")
    chosen = {"ids": tuple(numbers or ()), "event": event, "reason": reason}
    how = {"as_event": as_event, "may_double_count": may_double_count}
    if not replay_letters(words.settings(), repaired, **chosen, **how):
        sys.exit(1)
