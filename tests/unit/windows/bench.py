"""One deltas partition of a rollup, with everything around it in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl

from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Aggregate, Config, EventType, Rollup, Timestamp
from rollup_engine.packing import Packed, pack
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE, Position
from rollup_engine.runtime.memory import MemoryLog, MemorySink
from rollup_engine.tables import Schema
from rollup_engine.topology import Topology, source_name
from rollup_engine.windows.stage import RollupPartition

EMIT_EVERY_MS = 30_000
DELTAS = "app.deltas.calls"
SOURCE = f"{DELTAS}/0"
EVENTS = "app.events/0"
GENERATION = 1 << 40
SPEC = Rollup(
    name="calls",
    table="calls",
    aggregates=(Aggregate(kind="sum", path="n", column="sum_n"),),
    window_ms=1_000,
    emit_every_ms=EMIT_EVERY_MS,
)
CONFIG = Config(
    events=(
        EventType(
            event="calls",
            kafka_topics=("raw",),
            id_paths=("id",),
            timestamp=Timestamp(path="at"),
            customer_path="customer",
            rollups=(SPEC,),
            grace_ms=10,
            horizon_ms=100,
            max_future_ms=10,
        ),
    )
)


def deltas(start: int, end: int, *groups: str, generation: int = 1, window_ms: int = 0) -> Packed:
    """One delta of count 1 and sum 5 per group letter, at the last events offset covered."""
    frame = pl.DataFrame(
        {
            "offset": pl.Series([end - 1] * len(groups), dtype=pl.Int64),
            "window_ms": pl.Series([window_ms] * len(groups), dtype=pl.Int64),
            "external_customer_id": list(groups),
            "count": pl.Series([1] * len(groups), dtype=pl.Int128),
            "sum_n.lo": pl.Series([5] * len(groups), dtype=pl.Int128),
            "tuple_key": pl.Series([ord(group) for group in groups], dtype=pl.UInt128),
        }
    )
    return Packed("life", generation, EVENTS, start, end, 0, {"calls": frame} if groups else {})


class Bench:
    """One deltas partition, with everything around it in memory."""

    def __init__(self, config: Config = CONFIG, partitions: int = 1) -> None:
        self.config, self.partitions = config, partitions
        self.log, self.sink, self.clock = MemoryLog(), MemorySink(), ManualClock()
        self.partition: RollupPartition
        self.read_to = 0

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        """In the block an advance takes place, and its caller never hears of it."""
        advance = self.sink.advance

        async def lost_answer(*args: Any) -> Any:
            await advance(*args)
            raise ConnectionError

        self.sink.advance = lost_answer  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            self.sink.advance = advance  # type: ignore[method-assign]

    async def start(self, generation: int = 1) -> int:
        await self.log.create(DELTAS, 1, {})

        async def load(wanted: int) -> Config:
            return self.config

        topology = Topology(
            app_id="app",
            partitions=self.partitions,
            generation=generation,
            configs={generation: self.config},
            incarnations={DELTAS: "life"},
            schemas={"calls": Schema.of(SPEC)},
            load_config=load,
        )
        self.partition = RollupPartition(topology, "calls", 0, self.log, self.sink, self.clock)
        self.read_to = await self.partition.open()
        return self.read_to

    async def take(self, *records: Packed) -> None:
        """Append these, and process all there is."""
        for record in records:
            for value in pack(record):
                self.log.put(DELTAS, 0, value, 0)
        found = self.log.read(DELTAS, 0, self.read_to, 1_000)
        self.read_to += len(found)
        await self.partition.process(found, self.read_to)

    async def emit(self) -> None:
        self.clock.advance(EMIT_EVERY_MS)
        await self.partition.tick()

    def upstream(
        self, watermark_ms: int | None, *, routed: int = 1, judged: int = 1, to: int = 0, quiet_ms: int = 0
    ) -> None:
        """Route is at `routed` with this watermark; dedup has judged raw offsets below `judged`, events below `to`."""
        watermarks = {} if watermark_ms is None else {"calls": watermark_ms}
        route = {"watermarks": watermarks, "quiet_ms": quiet_ms}
        self.sink.rows[ROUTE, "raw/0"] = Position(routed, 0, 1, 1, route)
        for number in range(self.partitions):
            judge = "app.events", number
            self.sink.rows[DEDUP, source_name(*judge)] = Position(to, 0, 1, 1, {"marks": {"raw/0": judged}})

    def rows(self) -> list[tuple[object, ...]]:
        """(customer, count, sum, revision) of every partial, in the order of writing."""
        names = ("external_customer_id", "count", "sum_n", "revision")
        return [tuple(row[name] for name in names) for row in self.sink.partials.get("calls", [])]

    def finals(self) -> list[tuple[object, ...]]:
        """(window, customer, count, revision) of every final partial, in the order of writing."""
        names = ("window_ms", "external_customer_id", "count", "revision")
        return [tuple(row[name] for name in names) for row in self.sink.partials.get("calls", []) if row["final"]]

    @property
    def row(self) -> Any:
        return self.sink.rows[ROLLUP, SOURCE]
