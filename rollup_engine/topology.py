"""Where the stages' data flows: names of internal topics, their incarnations, and the YAML of each generation."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollup_engine.config.model import Config, EventType
from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.ports import Log, Reader, Record
from rollup_engine.tables import Schema

if TYPE_CHECKING:
    from rollup_engine.packing import Packed

INTERNAL_REMEDY = "Bring the topic back, or start under a new ROLLUP_APP_ID and feed the raw events again."
RAW_REMEDY = "Produce to a new topic and name that in the YAML, or start under a new ROLLUP_APP_ID."


def events_topic(app_id: str) -> str:
    return f"{app_id}.events"


def deltas_topic(app_id: str, table: str) -> str:
    return f"{app_id}.deltas.{table}"


def replays_topic(app_id: str, event: str) -> str:
    """Where dead letters of an event type are sent again. A name that is no topic's gets a hash of it behind it."""
    name = event
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", event):
        name = re.sub(r"[^A-Za-z0-9_-]", "_", event)[:90] + "-" + hashlib.sha256(event.encode()).hexdigest()[:8]
    return f"{app_id}.replays.{name}"


def replays(app_id: str, config: Config) -> dict[str, EventType]:
    """Topic to the event type as it is read from there: never late, and meant, whatever its `match` says. Read like a
    raw topic, but what is sent again says nothing of how far time is: no watermark, no expiry, no window hangs on it.
    """
    again = {"grace_ms": None, "match": ()}
    return {replays_topic(app_id, event.event): event.model_copy(update=again) for event in config.events}


def source_name(topic: str, partition: int) -> str:
    """How a partition is called in packed records, marks, books and the sink's rows."""
    return f"{topic}/{partition}"


def split_source(source: str) -> tuple[str, int]:
    topic, _, partition = source.rpartition("/")
    return topic, int(partition)


@dataclass
class Topology:
    """What every stage of one app id agrees on. `generation` is this process's YAML; older ones are loaded as met."""

    app_id: str
    partitions: int  # of the events topic and of each deltas topic
    generation: int
    configs: dict[int, Config]
    incarnations: Mapping[str, str]  # internal topic -> the life it is in
    schemas: Mapping[str, Schema]  # per table: all columns ever declared
    load_config: Callable[[int], Awaitable[Config]]

    @property
    def config(self) -> Config:
        return self.configs[self.generation]

    async def config_of(self, generation: int) -> Config:
        if generation not in self.configs:
            self.configs[generation] = await self.load_config(generation)
        return self.configs[generation]

    def check(self, topic: str, packed: Packed) -> None:
        """Raises `PartitionHalted` for a record of another life of the topic: positions would mean nothing; and for one
        of a newer YAML: what it declares is unknown here, and would be left out of totals."""
        expected = self.incarnations[topic]
        if packed.incarnation != expected:
            raise PartitionHalted(
                cause=f"internal topic {topic} holds a record of another life of it"
                f" ({packed.incarnation}; this one is {expected}): it was deleted and made again, or restored",
                remedy=INTERNAL_REMEDY,
            )
        self.check_generation(packed.generation)

    def check_partition(self, topic: str, number: int) -> None:
        """Raises `PartitionHalted` for a partition that an internal topic should not have."""
        if number >= self.partitions:
            raise PartitionHalted(
                cause=f"internal topic {topic} was given more partitions than the {self.partitions} it was made with",
                remedy=f"Nothing is sent to partition {number}. Ids and groups keep their partitions: to have more of"
                " them, start under a new ROLLUP_APP_ID with another ROLLUP_PARTITIONS.",
            )

    def check_generation(self, met: int) -> None:
        """Raises `PartitionHalted` where a newer YAML than this process's has been at work."""
        if met > self.generation:
            raise PartitionHalted(
                cause=f"this worker runs generation {self.generation} of the YAML, and generation {met} is active",
                remedy="Restart this worker with the YAML that is active now.",
            )


def check_held(source: str, position: int, start: int, end: int) -> None:
    """Raises `PartitionHalted` where an internal partition, holding [start, end), no longer has what is next."""
    if not start <= position <= end:
        raise PartitionHalted(
            cause=f"{source} holds offsets {start} to {end}, but {position} is next",
            remedy=INTERNAL_REMEDY,
        )


async def record_at(reader: Reader, source: str, offset: int) -> Record | None:
    """The record at `offset`, where `reader` stands; None where there is none. Raises `BrokerUnavailable`."""
    found = await reader.read(1, 5_000)
    if not found and reader.position <= offset:  # not the same as gone: nothing goes on unchecked
        raise BrokerUnavailable(f"Kafka did not show the record at offset {offset} of {source} within 5 s.")
    return found[0] if found and found[0].offset == offset else None


async def check_last(log: Log, topic: str, partition: int, offset: int, checksum: int, remedy: str) -> None:
    """The last record read must still be the one it was: offsets mean something only within one life of a topic.

    `checksum`: CRC-32 of its value. Raises `PartitionHalted`, and `BrokerUnavailable` where it does not show.
    """
    source = source_name(topic, partition)
    reader = await log.reader(topic, partition, offset)
    try:
        found = await record_at(reader, source, offset)
    finally:
        await reader.close()
    if found is not None and zlib.crc32(found.value or b"") != checksum:
        raise PartitionHalted(
            cause=f"{source} holds another record at offset {offset} than the one read there: the topic was deleted and"
            " made again",
            remedy=remedy,
        )
