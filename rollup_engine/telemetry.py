"""Every metric of the engine, in one list; and the log's form."""

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram

ROWS = Counter("rollup_rows", "Input rows or records taken in", ["stage"])
BATCH_SECONDS = Histogram("rollup_batch_seconds", "Time for one batch, from read to committed", ["stage"])
VERDICTS = Counter("rollup_verdicts", "What events came to", ["event", "verdict"])
PARTIALS = Counter("rollup_partials", "Partial rollups written", ["table"])
OPEN_PARTITIONS = Gauge("rollup_open_partitions", "Input partitions this process works on", ["stage"])
API_REQUESTS = Counter("rollup_api_requests", "Requests answered by the API", ["route", "status"])
API_SECONDS = Histogram("rollup_api_seconds", "Time for one request, from its head to its end", ["route"])
INGESTED = Counter("rollup_ingest_events", "Events submitted over HTTP, and what came of them", ["outcome"])
HALTED = Gauge("rollup_halted_partitions", "Partitions that stopped because reading on could be wrong", ["stage"])
OBJECTS = Counter("rollup_bucket_objects", "Objects of buckets that were left behind", ["bucket", "outcome"])
BUCKET_PROBLEMS = Gauge("rollup_bucket_problems", "Damaged, changed or gone objects not seen to", ["bucket"])
TIER_ROWS = Counter("rollup_tier_rows", "Totals of hours and days written", ["table", "tier"])
COMPACTED = Counter("rollup_compacted_partials", "Superseded partial rollups deleted", ["table"])
UPKEEP_NOTED = Gauge("rollup_upkeep_noted", "Hours and days that wait to be totalled or compacted", ["tier"])
UPKEEP_FAULTS = Counter("rollup_upkeep_faults", "Passes of upkeep that failed, and are tried again")


def configure_logging(level: str, form: str) -> None:
    """Structured log lines on stderr: for people on a console, or one JSON object a line, libraries' lines included."""
    said: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written: list[structlog.typing.Processor]
    if form == "json":
        written = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        traceback = structlog.dev.plain_traceback  # the default one shows local variables, and so passwords
        written = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=traceback)]
    structlog.configure(
        processors=[*said, *written],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
            foreign_pre_chain=[*said, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=max(logging.WARNING, logging.getLevelNamesMapping()[level]), handlers=[of_libraries])
    # Faust's clock watch: a batch that holds the event loop for a second is no fault, and the user can do nothing.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
