"""The route stage on one raw partition: read, route, send to every events partition, then advance.

1 route the batch        pure, `router`
2 send it                one packed record or more to every events partition, all acknowledged
3 advance in the sink    next offset, watermarks, clock: a new session starts from here
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from rollup_engine import exchange, injection
from rollup_engine.clock import Clock
from rollup_engine.config.model import Config
from rollup_engine.errors import PartitionHalted
from rollup_engine.exchange import NO_CLOCK_MS
from rollup_engine.packing import Packed
from rollup_engine.ports import Log, Record, Sink
from rollup_engine.progress import NOTHING, ROUTE, Claim
from rollup_engine.route.router import Routed, Router, Tables
from rollup_engine.route.state import RouteState
from rollup_engine.route.takeover import half_sent_to
from rollup_engine.topology import RAW_REMEDY, Topology, check_last, events_topic, replays, source_name


class RoutePartition:
    """Implements `pipeline.StagePartition`."""

    stage = ROUTE
    records_max = 40_000
    pause_seconds = 0.3  # each flush is a record for every events partition, however few rows it has

    def __init__(
        self, topology: Topology, topic: str, partition: int, log: Log, sink: Sink, clock: Clock, idle_ms: int
    ) -> None:
        """`idle_ms`: an idle sender sends an empty record this often, so that a lost tail shows as a hole."""
        self._topology, self._topic, self._partition = topology, topic, partition
        self._log, self._sink, self._clock, self._idle_ms = log, sink, clock, idle_ms
        self._events = events_topic(topology.app_id)
        self.source = source_name(topic, partition)
        self._replays = topic in replays(topology.app_id, topology.config)
        self._router = self._router_of(topology.config)
        self._cut_off: tuple[int, Router] | None = None  # (offset, router): up to there under the YAML before
        self._sent_ms = self._read_ms = clock.elapsed_ms()
        graces = [event.grace_ms for event in topology.config.events if topic in event.topics]
        self._quiet_after_ms = {max(grace_ms, idle_ms) for grace_ms in graces if grace_ms is not None}
        self._claim: Claim
        self._state = RouteState()

    def _router_of(self, config: Config) -> Router:
        replayed = replays(self._topology.app_id, config).get(self._topic)
        events = [replayed] if replayed else [event for event in config.events if self._topic in event.topics]
        return Router(self._topic, events, self._topology.partitions)

    async def open(self) -> int:
        start, _ = await self._log.bounds(self._topic, self._partition)
        self._claim = await self._sink.claim(ROUTE, self.source, start)
        start, end = await self._log.bounds(self._topic, self._partition)  # as of the claim: nobody else moves now
        self._state = msgspec.convert(self._claim.position.state, RouteState)
        self._topology.check_generation(self._state.generation)
        position = self._claim.next_offset
        if position > end:
            raise PartitionHalted(
                cause=f"raw partition {self.source} holds offsets {start} to {end}, but {position} is next: the topic"
                " was deleted and made again",
                remedy=RAW_REMEDY,
            )
        last = self._state.last_offset
        if last >= start and self._topic not in self._topology.config.buckets:  # an object's etag says as much
            await check_last(self._log, self._topic, self._partition, last, self._state.last_crc, RAW_REMEDY)
        if position < start:
            await self._skip_lost(start)
        await self._take_over()
        return self._claim.next_offset

    async def _skip_lost(self, start: int) -> None:
        """Go on behind records that are gone, if an operator has accepted that. The gap stays in the books."""
        position = self._claim.next_offset
        loss = f"records from offset {position} on"
        if loss not in await self._sink.accepted(ROUTE, self.source):
            raise PartitionHalted(
                cause=f"raw partition {self.source} holds offsets from {start} on, but {position} is next: records"
                f" {position} to {start - 1} are gone",
                remedy="Bring the records back. Or go on without them by `rollup-engine accept-loss"
                f" {self.source}`: the gap stays in the books.",
                loss=loss,
            )
        await self._send({}, start, self._state)
        await self._advance(start, replace(self._state, gaps=[*self._state.gaps, (position, start)]))

    async def _take_over(self) -> None:
        """Where a session under the YAML before was cut off in the middle of a flush, its range is sent again under
        that YAML: under another a record might go to another partition, and be taken by both or by neither."""
        before, now, position = self._state.generation, self._topology.generation, self._claim.next_offset
        if before == now:
            return
        reached = (
            await half_sent_to(self._log, self._sink, self._topology, self.source, position) if before else position
        )
        if reached > position:
            self._cut_off = reached, self._router_of(await self._topology.config_of(before))
        else:
            await self._advance(position, replace(self._state, generation=now))

    async def process(self, records: Sequence[Record], position: int) -> None:
        if self._cut_off is not None:
            reached, router = self._cut_off
            before = [record for record in records if record.offset < reached]
            done = position >= reached
            await self._process(router, before, min(position, reached), self._topology.generation if done else None)
            if not done:
                return
            self._cut_off, records = None, records[len(before) :]
            if position == reached:
                return
        await self._process(self._router, records, position)

    async def _process(
        self, router: Router, records: Sequence[Record], position: int, generation_after: int | None = None
    ) -> None:
        state = self._state
        routed = router.route(state, records, self._clock.now_ms()) if records else Routed(state)
        if records:
            self._read_ms = self._clock.elapsed_ms()
        await self._send(routed.tables, position, routed.state)
        injection.passing("route.sent")
        await self._advance(position, replace(routed.state, generation=generation_after or state.generation))
        injection.passing("route.advanced")

    async def _advance(self, position: int, state: RouteState) -> None:
        self._claim = await self._sink.advance(self._claim, position, msgspec.to_builtins(state), NOTHING)
        self._state = state

    async def _send(self, tables: dict[int, Tables], end: int, state: RouteState, *, waits: bool = False) -> None:
        """`state`: as it is at `end`; its generation is the one that the rows were made under. `waits`: there is more
        that Kafka does not give us, so that having nothing to send says nothing of the time."""
        packed = Packed(
            incarnation=self._topology.incarnations[self._events],
            generation=state.generation or self._topology.generation,
            source=self.source,
            start=self._claim.next_offset,
            end=end,
            clock_ms=NO_CLOCK_MS
            if self._replays or waits
            else state.clock_ms,  # letters are of any age: they age no id
        )
        await exchange.send_to_all(self._log, self._events, self._topology.partitions, packed, tables)
        self._sent_ms = self._clock.elapsed_ms()

    async def tick(self) -> int:
        if self._clock.elapsed_ms() - self._sent_ms >= self._idle_ms:
            _, end = await self._log.bounds(self._topic, self._partition)
            await self._send({}, self._claim.next_offset, self._state, waits=end > self._claim.next_offset)
        quiet_ms = self._clock.elapsed_ms() - self._read_ms
        if any(self._state.quiet_ms < after_ms <= quiet_ms for after_ms in self._quiet_after_ms):
            await self._tell_quiet(quiet_ms)
        return self._sent_ms + self._idle_ms - self._clock.elapsed_ms()

    async def _tell_quiet(self, quiet_ms: int) -> None:
        """Told once per grace period of the topic's event types: whoever waits for event time need not wait for us."""
        quiet_ms -= await self._log.known_ms_ago(self._topic)  # of what came into a bucket since then nobody knows
        if not any(self._state.quiet_ms < after_ms <= quiet_ms for after_ms in self._quiet_after_ms):
            return
        _, end = await self._log.bounds(self._topic, self._partition)
        if end > self._claim.next_offset:  # something is there and did not come: a broker in trouble is not quiet
            self._read_ms = self._clock.elapsed_ms()
            return
        await self._advance(self._claim.next_offset, replace(self._state, quiet_ms=quiet_ms))

    async def close(self) -> None:
        pass

    @property
    def held_up(self) -> bool:
        return False

    def release(self) -> None:
        pass
