"""The command line. Each command checks its words, calls one function and prints; heavy imports wait until then.

Errors go to stderr as one clear sentence, without a traceback. Exit status: 0 ok, 1 failed, 2 wrong use or config.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rollup_engine.commands import api_keys, bucket, dead_letters, words
from rollup_engine.errors import RollupError

app = typer.Typer(
    name="rollup-engine",
    help="Exact streaming rollups for usage billing: Kafka in, billable totals in Postgres out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(api_keys.app, name="api-keys")
app.add_typer(bucket.app, name="bucket")

ConfigDir = Annotated[
    Path | None, typer.Option("--config", metavar="DIR", help="Directory of rollup YAML files. [default: rollups/]")
]


def main() -> None:
    """Entry point: every error of ours ends as one sentence and its exit status."""
    # Read as Polars is imported. On batches of some thousand rows several threads take up to four times the CPU of one,
    # and where cores are busy, they wait for each other; processes share the cores.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    try:
        app()
    except RollupError as error:
        print(f"rollup-engine: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _config(settings: Any, config: Path | None) -> tuple[Any, str]:
    from rollup_engine.config.loader import load

    directory = config or settings.config_dir
    return load(directory), str(directory)


def _log(settings: Any) -> None:
    from rollup_engine.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's state directory behind.")] = False,
) -> None:
    """Stream a real access log through Kafka into Postgres, and prove every total. Ends by itself."""
    from rollup_engine.runtime.demo import run

    sys.exit(0 if run(keep=keep) else 1)


@app.command()
def up(
    config: ConfigDir = None,
    exit_when_idle: Annotated[
        float | None,
        typer.Option("--exit-when-idle", metavar="SECONDS", min=0.1, help="End once nothing new came for so long."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=1, max=64, help="So many of `route` and `work`, to use more cores."
        ),
    ] = 1,
    api: Annotated[bool, typer.Option("--api/--no-api", help="With the HTTP API, or without.")] = True,
) -> None:
    """Run every role, with embedded Kafka and Postgres where none are configured."""
    from rollup_engine.runtime import up as runner
    from rollup_engine.runtime.template import starting

    settings = words.settings()
    _log(settings)
    loaded, directory = _config(settings, config)
    with starting(api=api) as start, runner.services(settings) as addresses:  # in this order: nothing runs here yet
        going = runner.up(
            settings,
            loaded,
            directory,
            addresses,
            exit_when_idle=exit_when_idle,
            processes=processes,
            api=api,
            start=start,
            say=_say,
        )
        if not asyncio.run(going):
            raise RollupError("A role ended with an error; its log is above.")


def _say(line: str) -> None:
    print(line, flush=True)


def _role(role: str, config: Path | None, drain: bool, parent: int | None, share: str) -> None:
    from rollup_engine.runtime import processes, worker
    from rollup_engine.runtime.addresses import running

    if parent is not None:
        processes.end_with_parent(parent)
    settings = words.settings()
    _log(settings)
    loaded, _ = _config(settings, config)
    addresses = running(settings)
    port = settings.web_port or {"route": 6066, "work": 6067}[role]
    ours = worker.Share(*map(int, share.split("/")))
    asyncio.run(
        worker.run(role, settings, loaded, addresses.kafka, addresses.database, web_port=port, drain=drain, share=ours)
    )


Parent = Annotated[int | None, typer.Option("--parent", hidden=True, help="End when this process does.")]
Share = Annotated[str, typer.Option("--share", hidden=True, help="I/N: which one it is of `up`'s N alike.")]
Drain = Annotated[bool, typer.Option("--drain", help="On a stop, first work off what the input topics hold.")]


@app.command()
def route(config: ConfigDir = None, drain: Drain = False, parent: Parent = None, share: Share = "0/1") -> None:
    """One route process: raw topics and buckets to the events topic. As many as wanted."""
    _role("route", config, drain, parent, share)


@app.command()
def work(config: ConfigDir = None, drain: Drain = False, parent: Parent = None, share: Share = "0/1") -> None:
    """One work process: dedup and rollup, into Postgres. As many as wanted."""
    _role("work", config, drain, parent, share)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option("--host", metavar="H", help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=1, max=65_535, help="[default: 6068]", show_default=False)
    ] = None,
    parent: Parent = None,
) -> None:
    """One API process: events in, metrics, usage and status out, over HTTP. As many as wanted."""
    if parent is not None:
        from rollup_engine.runtime import processes

        processes.end_with_parent(parent)
    settings = words.settings()
    _log(settings)
    from rollup_engine.api.serve import serve as run

    run(settings, host or settings.api_host, port or settings.api_port)


@app.command()
def validate(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="YAML or SQL files, or directories.")
    ] = None,
) -> None:
    """Check rollup YAML and metric SQL; report every problem at once."""
    from rollup_engine.runtime.validation import validate as check

    checked = check(paths, words.settings())
    print(f"{checked.describe()}: no problems found.")


@app.command()
def migrate(config: ConfigDir = None) -> None:
    """Create or upgrade the database schema. Safe to run twice and from two places at once."""
    from rollup_engine.runtime.migration import migrate as run

    settings = words.settings()
    _log(settings)
    loaded = _config(settings, config)[0] if config or settings.config_dir.is_dir() else None
    for line in asyncio.run(run(settings, loaded)):
        print(line)


@app.command()
def compact(
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="D", help="Keep what was superseded less long ago. [default: 1h]", show_default=False
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Give the space back to the disk; who uses a month waits meanwhile.")
    ] = False,
) -> None:
    """Bring hourly and daily totals up to date and delete superseded partials, now. No total changes."""
    from rollup_engine.runtime.compact import run

    settings = words.settings()
    _log(settings)
    kept = words.duration(keep, "--keep")
    run(settings, settings.partials_retention if kept is None else kept, full=full)


@app.command()
def produce(
    file: Annotated[Path, typer.Argument(metavar="FILE.ndjson", help="One event a line; `-` reads standard input.")],
    topic: Annotated[str, typer.Option("--topic", help="Raw Kafka topic to send to.")],
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", min=0.001, help="Events a second at the most.")
    ] = None,
) -> None:
    """Send a file's lines as raw events."""
    from rollup_engine.runtime.screens import produce_file

    produce_file(words.settings(), file, topic, rate)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Metric SQL over AGGREGATED_EVENTS('event').")],
    customer: Annotated[str | None, typer.Option("--customer", metavar="C", help="For one customer only.")] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="T", help="From this time on (RFC 3339).")] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="T", help="Before this time (RFC 3339).")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the rewritten SQL instead of running it.")] = False,
    output: words.Format = "table",
) -> None:
    """Run metric SQL through the rewriter."""
    from rollup_engine.runtime.screens import run_query

    words.one_of(output, "table", "json", "csv")
    run_query(words.settings(), sql, customer, words.time(start, "--start"), words.time(end, "--end"), explain, output)


@app.command()
def status(output: words.Format = "table") -> None:
    """The books, lag and watermark per event type."""
    from rollup_engine.runtime.screens import show_status

    words.one_of(output, "table", "json")
    show_status(words.settings(), output)


@app.command()
def plan(
    events: Annotated[float, typer.Option("--events-per-second", metavar="N", help="Raw events a second, at peak.")],
    groups: Annotated[int, typer.Option("--groups", metavar="N", help="Distinct groups of a rollup in one window.")],
    horizon: Annotated[str, typer.Option("--dedup-horizon", metavar="D", help="As in the YAML, such as 24h.")],
    size: Annotated[int, typer.Option("--bytes-per-event", metavar="N", help="Bytes of a raw event.")] = 170,
    rollups: Annotated[int, typer.Option("--rollups", metavar="N", help="Rollups of the event type.")] = 1,
    emit_every: Annotated[str, typer.Option("--emit-every", metavar="D", help="As in the YAML.")] = "30s",
    output: words.Format = "table",
) -> None:
    """What a load takes in cores, Kafka, disk and Postgres, and what breaks first. Asks no service."""
    from rollup_engine.runtime import plan as planning

    words.one_of(output, "table", "json")
    planning.show(planning.plan(planning.load_of(events, groups, horizon, size, rollups, emit_every)), output)


@app.command("accept-loss")
def accept_loss(
    partition: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION", help="One that stands still; see `status`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Let a halted partition go on without what it has lost. The gap stays in the books."""
    from rollup_engine.runtime import alarms, screens

    def sure(halt: alarms.Halt) -> bool:
        return yes or typer.confirm(f"{halt.cause}.\nGive that up for good, and go on?", err=True)

    screens.accept_loss(words.settings(), partition, sure)
