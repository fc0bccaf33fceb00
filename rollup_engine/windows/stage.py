"""The rollup stage on one deltas partition: add up, and every `emit_every` write the groups that changed.

    1 take in deltas             marks cut what was taken before
    2 read back                  totals of changed groups that are not in memory
    3 advance in the sink        the new partial rollups, next offset and marks, in one transaction
    4 look for closed windows    `closing`; what is written of them from now on is final
    5 finish them                their latest partials once more, as final, some with every tick

Position and marks move only with an emission, so what was taken in since is read again after a crash. How far windows
are closed and finished is part of the same row: a crash goes on from there.
"""

from collections.abc import Sequence

import msgspec
import polars as pl

from rollup_engine import injection
from rollup_engine.clock import FIRST_MS, Clock
from rollup_engine.config.model import Rollup
from rollup_engine.emit import partials
from rollup_engine.exchange import Marks
from rollup_engine.packing import unpack
from rollup_engine.ports import Log, Record, Sink, Span
from rollup_engine.progress import DEDUP, NOTHING, ROLLUP, ROUTE, Claim, Partials, Writes
from rollup_engine.tables import Schema
from rollup_engine.topology import Topology, check_held, deltas_topic, events_topic, source_name
from rollup_engine.windows.accumulator import Accumulator, RollupState
from rollup_engine.windows.closing import Closing

CHANGED_ROWS_MAX = 250_000  # emitted early beyond it: memory is bounded by this, not by emit_every
FINISH_ROWS_MAX = 50_000  # partials read with one tick to finish closed windows
_FINISH_MS = 250  # from one read to finish closed windows to the next, where no deltas come
_EMIT_EVERY_MS = 30_000  # of a rollup that the YAML no longer declares


class RollupPartition:
    """Implements `pipeline.StagePartition`."""

    stage = ROLLUP
    records_max = 200
    pause_seconds = 0.5  # but never longer than until the next emission, which is of all that there is by then

    def __init__(self, topology: Topology, table: str, partition: int, log: Log, sink: Sink, clock: Clock) -> None:
        self._topology, self._table, self._partition = topology, table, partition
        self._log, self._sink, self._clock = log, sink, clock
        self._topic = deltas_topic(topology.app_id, table)
        self.source = source_name(self._topic, partition)
        declared = [rollup for rollup in topology.config.rollups if rollup.table == table]
        self._emit_every_ms = declared[0].emit_every_ms if declared else _EMIT_EVERY_MS
        self._closing = _closing(topology, declared[0]) if declared else None
        self._accumulator = Accumulator(topology.schemas[table])
        self._due_ms = clock.elapsed_ms() + self._emit_every_ms
        self._marks = Marks({})
        self._position = 0
        self._claim: Claim
        self._state = RollupState()

    async def open(self) -> int:
        self._topology.check_partition(self._topic, self._partition)
        self._claim = await self._sink.claim(ROLLUP, self.source, 0)
        start, end = await self._log.bounds(self._topic, self._partition)  # as of the claim: nobody else moves now
        state = msgspec.convert(self._claim.position.state, RollupState)
        self._topology.check_generation(state.generation)
        self._state = msgspec.structs.replace(state, generation=self._topology.generation)
        self._marks = Marks(state.marks)
        self._position = self._claim.next_offset
        check_held(self.source, self._position, start, end)
        self._due_ms = self._clock.elapsed_ms() + self._emit_every_ms
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

    async def tick(self) -> int:
        if self._clock.elapsed_ms() >= self._due_ms:
            await self._emit()
        if self._state.unfinished is not None:
            await self._finish(self._state.unfinished)
        self._marks.watch(self.source, self._clock.elapsed_ms())
        due_ms = self._due_ms - self._clock.elapsed_ms()
        return due_ms if self._state.unfinished is None else min(due_ms, _FINISH_MS)

    async def _emit(self) -> None:
        """Write one partial per changed group, and only those; without changes, just move the position."""
        now_ms = self._clock.elapsed_ms()
        late_ms = max(0, now_ms - self._due_ms)  # made up for: or each emission would come later than the one before
        self._due_ms = now_ms + self._emit_every_ms - late_ms % self._emit_every_ms
        changes = self._accumulator.changes()
        if changes is not None:
            schema = self._topology.schemas[self._table]
            if self._accumulator.whole_from_ms is None:
                self._accumulator.whole_from_ms = await self._new_from_ms(schema)
            rows = await self._sink.read_back(schema, self._accumulator.missing(changes))
            totals = self._accumulator.totals(changes, partials.parse(rows, schema))
            await self._write(totals, self._position, self._taken_in())
            self._accumulator.emitted(totals)
        elif self._position != self._claim.next_offset:
            await self._advance(self._position, self._taken_in(), NOTHING)
        if self._closing is not None and self._state.unfinished is None:
            await self._look_for_closed(self._closing)

    async def _new_from_ms(self, schema: Schema) -> int:
        """Windows from here on have no partials before our first ones: since the claim nobody else writes ours."""
        last_ms = await self._sink.last_window_ms(schema)
        return FIRST_MS if last_ms is None else last_ms + 1

    async def _look_for_closed(self, closing: Closing) -> None:
        """Known from here on, and in the sink's row with the next advance: lost before that, it is found out again."""
        state, rows = self._state, await self._sink.positions((ROUTE, DEDUP))
        closed_ms = closing.look(rows, state.marks)
        if closed_ms is not None and closed_ms > state.closed_ms:
            unfinished = Span(state.closed_ms, closed_ms, 0)
            self._state = msgspec.structs.replace(state, closed_ms=closed_ms, unfinished=unfinished)

    async def _finish(self, span: Span) -> None:
        """Write closed windows' latest partials once more, as final, as far as one read goes. Position and marks stay:
        what was taken in since the last emission is no part of this."""
        schema = self._topology.schemas[self._table]
        rows, rest = await self._sink.not_final(
            schema, span, self._partition, self._topology.partitions, FINISH_ROWS_MAX
        )
        state = msgspec.structs.replace(self._state, unfinished=rest)
        if rows.height:
            await self._write(partials.parse(rows, schema), self._claim.next_offset, state)
        else:
            await self._advance(self._claim.next_offset, state, NOTHING)

    def _taken_in(self) -> RollupState:
        """The state once all that was taken in is emitted."""
        return msgspec.structs.replace(self._state, marks=dict(self._marks.by_source))

    async def _write(self, totals: pl.DataFrame, to: int, state: RollupState) -> None:
        """Advance with a partial of each group in `totals`, under a revision above all before it."""
        state = msgspec.structs.replace(state, revision_offset=max(state.revision_offset + 1, to - 1))
        revision = partials.revision(state.generation, state.revision_offset)
        frame = partials.build(totals, self._topology.schemas[self._table], revision, state.closed_ms)
        await self._advance(to, state, Writes(partials=(Partials(self._table, frame),)))

    async def _advance(self, to: int, state: RollupState, writes: Writes) -> None:
        moves = to != self._claim.next_offset
        self._claim = await self._sink.advance(self._claim, to, msgspec.to_builtins(state), writes)
        self._state = state
        injection.passing("rollup.advanced")
        if moves:
            await self._log.trim(self._topic, self._partition, to)

    async def close(self) -> None:
        await self._emit()

    @property
    def held_up(self) -> bool:
        return self._marks.behind_a_hole

    def release(self) -> None:
        pass


def _closing(topology: Topology, rollup: Rollup) -> Closing | None:
    event, topic = topology.config.event_of(rollup), events_topic(topology.app_id)
    if event.grace_ms is None:
        return None
    return Closing(event, rollup.window_ms, [source_name(topic, number) for number in range(topology.partitions)])
