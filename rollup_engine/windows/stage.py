"""The rollup stage on one deltas partition: add up, and every `emit_every` write the groups that changed.

    1 take in deltas             marks cut what was taken before
    2 read back                  totals of changed groups that are not in memory
    3 advance in the sink        the new partial rollups, next offset and marks, in one transaction

Position and marks move only with an emission, so what was taken in since is read again after a crash.
"""

from collections.abc import Sequence

import msgspec

from rollup_engine import injection
from rollup_engine.clock import Clock
from rollup_engine.emit import partials
from rollup_engine.exchange import Marks, unpack
from rollup_engine.ports import Log, Record, Sink
from rollup_engine.progress import NOTHING, ROLLUP, Claim, Partials, Writes
from rollup_engine.topology import Topology, check_held, deltas_topic, source_name
from rollup_engine.windows.accumulator import Accumulator, RollupState, state_of

CHANGED_ROWS_MAX = 250_000  # emitted early beyond it: memory is bounded by this, not by emit_every
_EMIT_EVERY_MS = 30_000  # of a rollup that the YAML no longer declares


class RollupPartition:
    """Implements `pipeline.StagePartition`."""

    stage = ROLLUP
    records_max = 200

    def __init__(self, topology: Topology, table: str, partition: int, log: Log, sink: Sink, clock: Clock) -> None:
        self._topology, self._table, self._partition = topology, table, partition
        self._log, self._sink, self._clock = log, sink, clock
        self._topic = deltas_topic(topology.app_id, table)
        self.source = source_name(self._topic, partition)
        declared = [rollup for rollup in topology.config.rollups if rollup.table == table]
        self._emit_every_ms = declared[0].emit_every_ms if declared else _EMIT_EVERY_MS
        self._accumulator = Accumulator(topology.schemas[table])
        self._emitted_ms = clock.elapsed_ms()
        self._marks = Marks({})
        self._position = 0
        self._revision_offset = -1
        self._claim: Claim

    async def open(self) -> int:
        self._topology.check_partition(self._topic, self._partition)
        self._claim = await self._sink.claim(ROLLUP, self.source, 0)
        start, end = await self._log.bounds(self._topic, self._partition)  # as of the claim: nobody else moves now
        state = msgspec.convert(self._claim.position.state, RollupState)
        self._topology.check_generation(state.generation)
        self._marks, self._revision_offset = Marks(state.marks), state.revision_offset
        self._position = self._claim.next_offset
        check_held(self.source, self._position, start, end)
        self._emitted_ms = self._clock.elapsed_ms()
        return self._position

    async def process(self, records: Sequence[Record], position: int) -> None:
        unpacked = [(record.offset, unpack(record.value or b"")) for record in records]
        for _, packed in unpacked:
            self._topology.check(self._topic, packed)
            self._marks.by_source.setdefault(packed.source, 0)  # dedup's first position: it begins where its topic does
        ready, self._position = self._marks.admit(unpacked, position)
        self._accumulator.add(self._marks, ready)
        if self._accumulator.holds_more_than(CHANGED_ROWS_MAX):
            await self._emit()

    async def tick(self) -> None:
        if self._clock.elapsed_ms() - self._emitted_ms >= self._emit_every_ms:
            await self._emit()
        self._marks.watch(self.source, self._clock.elapsed_ms())

    async def _emit(self) -> None:
        """Write one partial per changed group, and only those; without changes, just move the position."""
        self._emitted_ms = self._clock.elapsed_ms()
        changes = self._accumulator.changes()
        if changes is None:
            if self._position != self._claim.next_offset:
                await self._advance(self._position, NOTHING)
            return
        schema = self._topology.schemas[self._table]
        rows = await self._sink.read_back(schema, self._accumulator.missing(changes))
        totals = self._accumulator.totals(changes, partials.parse(rows, schema))
        self._revision_offset = max(self._revision_offset, self._position - 1)
        revision = partials.revision(self._topology.generation, self._revision_offset)
        frame = partials.build(totals, schema, revision)
        await self._advance(self._position, Writes(partials=(Partials(self._table, frame),)))
        self._accumulator.emitted(totals)

    async def _advance(self, to: int, writes: Writes) -> None:
        state = state_of(self._marks, self._revision_offset, self._topology.generation)
        self._claim = await self._sink.advance(self._claim, to, state, writes)
        injection.passing("rollup.advanced")
        await self._log.trim(self._topic, self._partition, to)

    async def close(self) -> None:
        await self._emit()

    @property
    def held_up(self) -> bool:
        return self._marks.behind_a_hole

    def release(self) -> None:
        pass
