"""The route stage on one raw partition: read, route, send to every events partition, then advance.

1 route the batch        pure, `router`
2 send it                one packed record or more to every events partition, all acknowledged
3 advance in the sink    next offset, watermarks, clock: a new session starts from here
"""

from collections.abc import Sequence

import msgspec

from rollup_engine import exchange, injection
from rollup_engine.clock import Clock
from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.exchange import Packed
from rollup_engine.ports import Log, Record, Sink
from rollup_engine.progress import NOTHING, ROUTE, Claim
from rollup_engine.route.router import Routed, Router, RouteState, Tables, checksum
from rollup_engine.topology import Topology, events_topic, source_name


class RoutePartition:
    """Implements `pipeline.StagePartition`."""

    stage = ROUTE
    records_max = 20_000

    def __init__(
        self, topology: Topology, topic: str, partition: int, log: Log, sink: Sink, clock: Clock, idle_ms: int
    ) -> None:
        """`idle_ms`: an idle sender sends an empty record this often, so that a lost tail shows as a hole."""
        self._topology, self._topic, self._partition = topology, topic, partition
        self._log, self._sink, self._clock, self._idle_ms = log, sink, clock, idle_ms
        self._events = events_topic(topology.app_id)
        self.source = source_name(topic, partition)
        events = [event for event in topology.config.events if topic in event.topics]
        self._router = Router(topic, events, topology.partitions)
        self._sent_ms = clock.elapsed_ms()
        self._claim: Claim
        self._state = RouteState()

    async def open(self) -> int:
        start, _ = await self._log.bounds(self._topic, self._partition)
        self._claim = await self._sink.claim(ROUTE, self.source, start)
        start, end = await self._log.bounds(self._topic, self._partition)  # as of the claim: nobody else moves now
        self._state = msgspec.convert(self._claim.position.state, RouteState)
        position = self._claim.next_offset
        if not start <= position <= end:
            raise PartitionHalted(
                cause=f"raw partition {self.source} holds offsets {start} to {end}, but {position} is next"
                + (f": records {position} to {start - 1} are gone" if position < start else ": it was made again"),
                remedy="Bring the records back, or produce to a new topic and name that in the YAML.",
            )
        await self._check_last(start)
        return position

    async def _check_last(self, start: int) -> None:
        """The last record read must still be the one it was: offsets mean something only within one life of a topic."""
        last = self._state.last_offset
        if last < start:
            return
        reader = await self._log.reader(self._topic, self._partition, last)
        try:
            found = await reader.read(1, 5_000)
        finally:
            await reader.close()
        if not found and reader.position <= last:  # not the same as gone: nothing goes on unchecked
            raise BrokerUnavailable(f"Kafka did not show the record at offset {last} of {self.source} within 5 s.")
        if found and found[0].offset == last and checksum(found[0].value) != self._state.last_crc:
            raise PartitionHalted(
                cause=f"raw partition {self.source} holds another record at offset {last} than the one read there:"
                " the topic was deleted and made again",
                remedy="Produce to a new topic and name that in the YAML, or start under a new ROLLUP_APP_ID.",
            )

    async def process(self, records: Sequence[Record], position: int) -> None:
        routed = self._router.route(self._state, records, self._clock.now_ms()) if records else Routed(self._state)
        await self._send(routed.tables, position, routed.state.clock_ms)
        injection.passing("route.sent")
        state: dict[str, object] = msgspec.to_builtins(routed.state)
        self._claim = await self._sink.advance(self._claim, position, state, NOTHING)
        injection.passing("route.advanced")
        self._state = routed.state

    async def _send(self, tables: dict[int, Tables] | None, end: int, clock_ms: int) -> None:
        packed = Packed(
            incarnation=self._topology.incarnations[self._events],
            generation=self._topology.generation,
            source=self.source,
            start=self._claim.next_offset,
            end=end,
            clock_ms=clock_ms,
        )
        await exchange.send_to_all(self._log, self._events, self._topology.partitions, packed, tables or {})
        self._sent_ms = self._clock.elapsed_ms()

    async def tick(self) -> None:
        if self._clock.elapsed_ms() - self._sent_ms >= self._idle_ms:
            await self._send(None, self._claim.next_offset, self._state.clock_ms)

    async def close(self) -> None:
        pass

    def release(self) -> None:
        pass
