"""Reading one partition of Kafka, never skipping.

Every first offset is compared with the one expected: Kafka's offset reset must not hide a lost range.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.ports import Record
from rollup_engine.runtime.kafka_clients import PatientConsumer
from rollup_engine.topology import source_name

if TYPE_CHECKING:
    from rollup_engine.runtime.kafka import KafkaLog

# Waited for what came during a rest, however much is due: a fetch under way for others, and ours after it. On a busy
# machine these take their time; where there is likely nothing, less of it is spent.
_FRESH_MS = 400
_FRESH_MS_MAYBE = 100
_MARKERS_MAX = 10  # control records of transactions may follow the last record there is


class KafkaReader:
    """Implements `ports.Reader` on one partition of a consumer."""

    def __init__(
        self,
        log: KafkaLog,
        consumer: PatientConsumer,
        partition: TopicPartition,
        *,
        pause_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
    ) -> None:
        """`pause_seconds`: from a read that came to the end of what there is to the next one, so that more is there.
        A read that waits ends once `stop` is set."""
        self._log, self._consumer, self._partition = log, consumer, partition
        self._stop = stop if stop is not None else asyncio.Event()
        self._pause_seconds, self._rest_until = pause_seconds, 0.0
        self._flowing = False  # whether records come faster than the pauses
        self._position = 0
        self.opened = False  # once it has been told where to read

    @property
    def position(self) -> int:
        return self._position

    def seek(self, offset: int) -> None:
        self._position, self.opened = offset, True
        self._consumer.resume(self._partition)  # a session before this one may have ended in a rest
        self._consumer.seek(self._partition, offset)

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[Record]:
        until = time.monotonic() + timeout_ms / 1000
        rested = await self._rest(until)
        try:
            if rested:
                self._consumer.resume(self._partition)
                left_ms = 0 if self._stop.is_set() else round((until - time.monotonic()) * 1000)
                timeout_ms = max(left_ms, _FRESH_MS if self._flowing else _FRESH_MS_MAYBE)
            records = await self._get(records_max, 0)
            if not records and timeout_ms:
                records = await self._wait(records_max, timeout_ms)
            await self._move_beyond(records)
        except KafkaError as error:
            raise BrokerUnavailable(
                f"Kafka did not give records of {source_of(self._partition)}: {error!r}."
            ) from error
        stable = self._consumer.last_stable_offset(self._partition)  # an open transaction is no backlog
        backlog = (self._end() if stable is None or stable < 0 else stable) > self._position
        self._flowing = rested and len(records) > 1
        self._consumer.note(busy=backlog or self._flowing)
        return records

    async def _rest(self, until: float) -> bool:
        """Whether there was a rest to take: no longer than `until`, when something may be due, and not once `stop` is
        set."""
        rest_until, self._rest_until = self._rest_until, 0.0
        rest = min(rest_until, until) - time.monotonic()
        if rest > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), rest)
        return rest_until > 0

    async def _move_beyond(self, records: Sequence[Record]) -> None:
        """Raises `PartitionHalted` unless these are the next there are."""
        position = await self._consumer.position(self._partition)
        first = records[0].offset if records else position
        if first != self._position or (not records and self._beyond_end()):
            await self._check_jump(first)
        self._position = max(position, records[-1].offset + 1) if records else position

    async def _get(self, records_max: int, timeout_ms: int) -> list[Record]:
        found = await self._consumer.getmany(self._partition, timeout_ms=timeout_ms, max_records=records_max)
        records: list[Record] = found.get(self._partition, [])
        if self._pause_seconds and 0 < len(records) < records_max and self._end() - records[-1].offset <= _MARKERS_MAX:
            # Before aiokafka fetches ahead: what comes during the rest would not be part of what it holds by then.
            self._consumer.pause(self._partition)
            self._rest_until = time.monotonic() + self._pause_seconds
        return records

    def _end(self) -> int:
        """As of the last fetch."""
        return self._consumer.highwater(self._partition) or 0

    async def _wait(self, records_max: int, timeout_ms: int) -> list[Record]:
        """`_get`, cut short by `stop`. A `getmany` that still waits has taken nothing, so ending it loses nothing."""
        if self._stop.is_set():
            return await self._get(records_max, timeout_ms)
        getting = asyncio.ensure_future(self._get(records_max, timeout_ms))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((getting, stopping), return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else []
        finally:
            getting.cancel()
            stopping.cancel()

    def _beyond_end(self) -> bool:
        """The embedded broker answers a fetch from beyond the end with nothing; Kafka refuses it, and is sent back."""
        end = self._consumer.highwater(self._partition) if self._log.cluster.embedded else None
        return end is not None and end < self._position

    async def _check_jump(self, to: int) -> None:
        """Control records and compaction leave gaps; lost records and a topic made again must not pass for one."""
        start, end = await self._log.bounds(*self._partition)
        if to < self._position or not start <= self._position <= end:
            raise PartitionHalted(
                cause=f"{source_of(self._partition)} holds offsets {start} to {end}, but {self._position} is next"
                + (f": records {self._position} to {start - 1} are gone" if start > self._position else ""),
                remedy="Bring the records back; raise the topic's retention; or start under a new ROLLUP_APP_ID.",
            )

    async def close(self) -> None:
        """Let go of the consumer; for a reader made by `KafkaLog.reader`."""
        await self._log.close_reader(self._consumer)


def source_of(partition: TopicPartition) -> str:
    return source_name(partition.topic, partition.partition)
