"""Read this first: the three stages in order, and the one loop that drives each.

    raw topics ─▶ route ─▶ events topic ─▶ dedup ─▶ deltas topics ─▶ rollup ─▶ Postgres

  route   (`route.stage`)    decodes, validates, exchanges by hash of the event id. Judges nothing.
  dedup   (`dedup.stage`)    the only judge: counted, duplicate, conflicting, late, invalid. Writes the books.
  rollup  (`windows.stage`)  adds up per window and grouping tuple, emits what changed every `emit_every`.

Each stage is a deterministic function of its input log, runs once per input partition, and has the same four verbs.
What makes it exact is in `exchange` (rule 1), `progress` (rule 2) and `dedup.verdicts` (rule 3).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rollup_engine.ports import Reader, Record
from rollup_engine.telemetry import BATCH_SECONDS, ROWS

SETTLED_SECONDS = 2.0
POLL_MS = 250  # while what is left is worked off, or held up
REST_MS = 2_000  # otherwise a read waits for records for so long, unless something is due before


class StagePartition(Protocol):
    """One stage at work on one input partition."""

    stage: str
    records_max: int  # how many input records one `process` should get
    pause_seconds: float  # between two reads once it has caught up: fuller batches, for so much more latency

    async def open(self) -> int:
        """Claim the partition and make local state fit the sink's; returns the offset to read from."""
        ...

    async def process(self, records: Sequence[Record], position: int) -> None:
        """Take `records`, in offset order, to the next log and the sink; `position` is the offset after them.

        Without records there was nothing to read up to `position`.

        Raises `ClaimLost` when another worker has taken over, `PartitionHalted` when reading on could be wrong.
        """
        ...

    async def tick(self) -> int:
        """Do what is due by time: emissions, empty records of an idle sender. Called between batches.

        Returns in how many ms something is due next, as far as that is known now.
        """
        ...

    async def close(self) -> None:
        """A clean stop: emit what is pending. Not called after a failure."""
        ...

    @property
    def held_up(self) -> bool:
        """Whether it waits for records that should be there: alive, and still no progress."""
        ...

    def release(self) -> None:
        """Let go of local resources, whatever happened."""
        ...


async def drive(
    partition: StagePartition,
    reader: Reader,
    stop: asyncio.Event,
    drain_to: Callable[[], Awaitable[int]] | None = None,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Run one partition until `stop` is set; then close it cleanly. Any error ends the session, and is raised.

    With `drain_to`, a stop first works off the input up to the offset that it returns once `stop` is set.
    `on_progress` is called after every batch and every pause: the partition is not stuck.
    """
    try:
        reader.seek(await partition.open())
        end: int | None = None
        due_ms = 0
        worked, opened = False, time.monotonic()
        while True:
            if stop.is_set():
                if end is None:
                    end = await drain_to() if drain_to is not None else 0
                if reader.position >= end:
                    break
            before = reader.position
            quick = stop.is_set() or partition.held_up
            records = await reader.read(partition.records_max, POLL_MS if quick else max(1, min(due_ms, REST_MS)))
            if records or reader.position != before:  # aborted transactions move the position, and give no record
                started = time.perf_counter()
                await partition.process(records, reader.position)
                BATCH_SECONDS.labels(partition.stage).observe(time.perf_counter() - started)
                ROWS.labels(partition.stage).inc(len(records))
                worked = True
            due_ms = await partition.tick()
            # A first read may come too early to give the very record that halts.
            if not partition.held_up and (worked or time.monotonic() - opened > SETTLED_SECONDS):
                on_progress()
        await partition.close()
    finally:
        partition.release()
