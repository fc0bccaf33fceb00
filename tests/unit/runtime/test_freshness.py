"""`freshness` against a model that knows what the totals really contain: never more, and at rest all of it."""

import random
from collections.abc import Mapping

import msgspec
import pytest

from rollup_engine.clock import FIRST_MS
from rollup_engine.config.model import Config, EventType, Rollup, Timestamp
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.database import at_time
from rollup_engine.runtime.freshness import LOOKS_MAX, Look, Row, StateOf, Tracker
from rollup_engine.windows.accumulator import RollupState

GRACE_MS, WINDOW_MS, HOUR_MS = 60_000, 600_000, 3_600_000
ROLLUP_OF_IT = Rollup(name="r", table="r", window_ms=WINDOW_MS, emit_every_ms=30_000)
EVENT = EventType(
    event="e",
    kafka_topics=("raw",),
    id_paths=("id",),
    timestamp=Timestamp(path="at"),
    customer_path="customer",
    rollups=(ROLLUP_OF_IT,),
    grace_ms=GRACE_MS,
    horizon_ms=86_400_000,
    max_future_ms=300_000,
)
CONFIG = Config(events=(EVENT,))


def test_the_states_have_these_names() -> None:
    """The tracker reads the stages' states by name."""
    known = {
        field.name: field for state in (RouteState, DedupState, RollupState) for field in msgspec.structs.fields(state)
    }
    for field in msgspec.structs.fields(StateOf):
        assert field.name in known
        assert field.type == known[field.name].type


class Engine:
    """Raw partitions, events partitions and deltas partitions, each stage one step at a time."""

    def __init__(self, raw: int = 2, judges: int = 2, totals: int = 2) -> None:
        self.watermarks: list[list[tuple[int, int]]] = [[] for _ in range(raw)]  # (position, watermark) as advanced
        self.sent: list[tuple[int, int]] = [(0, -1) for _ in range(raw)]  # position and watermark as sent
        self.quiet_ms = [0] * raw
        self.events: list[list[tuple[int, int]]] = [[] for _ in range(judges)]  # records: (raw partition, end)
        self.marks: list[dict[int, int]] = [{} for _ in range(judges)]
        self.judged = [0] * judges
        self.judged_marks: list[list[dict[int, int]]] = [[{}] for _ in range(judges)]  # by events offset
        self.taken: list[dict[int, int]] = [{} for _ in range(totals)]
        self.deltas: list[dict[int, int]] = [{} for _ in range(totals)]  # sent by dedup, up to there
        self.closed_ms = FIRST_MS
        self.life = "a"

    def send(self, raw: int, event_ms: int) -> None:
        position, watermark = self.sent[raw]
        self.sent[raw] = position + 1, max(watermark, event_ms)
        for log in self.events:
            log.append((raw, position + 1))

    def advance(self, raw: int) -> None:
        if self.sent[raw][0]:
            self.watermarks[raw].append(self.sent[raw])

    def judge(self, judge: int) -> None:
        if self.judged[judge] < len(self.events[judge]):
            raw, end = self.events[judge][self.judged[judge]]
            self.marks[judge] = self.marks[judge] | {raw: end}
            self.judged[judge] += 1
            self.judged_marks[judge].append(self.marks[judge])
            for deltas in self.deltas:
                deltas[judge] = self.judged[judge]

    def emit(self, total: int) -> None:
        self.taken[total] = dict(self.deltas[total])

    def rest(self) -> None:
        for raw in range(len(self.sent)):
            self.advance(raw)
        for judge in range(len(self.events)):
            while self.judged[judge] < len(self.events[judge]):
                self.judge(judge)
        for total in range(len(self.taken)):
            self.emit(total)

    def look(self) -> Look:
        rows = []
        for raw, history in enumerate(self.watermarks):
            if history:
                position, watermark = history[-1]
                state = StateOf(watermarks={"e": watermark}, quiet_ms=self.quiet_ms[raw])
                rows.append(Row(ROUTE, f"raw/{raw}", position, 0, state))
        for judge, marks in enumerate(self.marks):
            state = StateOf(marks={f"raw/{raw}": end for raw, end in marks.items()})
            rows.append(Row(DEDUP, f"app.events/{judge}", self.judged[judge], 0, state))
        for total, taken in enumerate(self.taken):
            state = StateOf(marks={f"app.events/{j}": to for j, to in taken.items()}, closed_ms=self.closed_ms)
            rows.append(Row(ROLLUP, f"app.deltas.r/{total}", 0, 0, state))
        topics = {"app.events": (self.life, len(self.events)), "app.deltas.r": (self.life, len(self.taken))}
        return Look(topics, {(row.stage, row.source): row for row in rows})

    def contained(self, raw: int) -> int:
        """Raw records of this partition below it are in the totals."""
        ends = []
        for judge in range(len(self.events)):
            taken = min(taken.get(judge, 0) for taken in self.taken)
            ends.append(self.judged_marks[judge][taken].get(raw, 0))
        return min(ends)

    def truth(self, times: Mapping[int, list[int]]) -> int | None:
        """The oldest of the watermarks of what is contained; None where some partition has nothing in yet."""
        found = []
        for raw, history in enumerate(self.watermarks):
            if history:
                held = times[raw][: self.contained(raw)]
                if not held:
                    return None
                found.append(max(held))
        return min(found) if found else None


def through(tracker: Tracker) -> int | None:
    return tracker.tables(CONFIG).by_table["r"][0]


@pytest.mark.parametrize("seed", range(100))
def test_never_more_than_is_contained(seed: int) -> None:
    chance = random.Random(seed)
    engine, tracker = Engine(chance.randint(1, 3), chance.randint(1, 3), chance.randint(1, 3)), Tracker("app")
    times: dict[int, list[int]] = {raw: [] for raw in range(len(engine.sent))}
    for step in range(400):
        action = chance.random()
        raw = chance.randrange(len(engine.sent))
        if action < 0.3:
            times[raw].append((step + 100) * 1_000 + chance.randint(-20_000, 20_000))
            engine.send(raw, times[raw][-1])
        elif action < 0.5:
            engine.advance(raw)
        elif action < 0.8:
            engine.judge(chance.randrange(len(engine.events)))
        elif action < 0.85:
            engine.emit(chance.randrange(len(engine.taken)))
        else:
            tracker.observe(engine.look())
            claimed, truth = through(tracker), engine.truth(times)
            if claimed is not None:
                assert truth is not None
                assert claimed <= truth
    engine.rest()
    tracker.observe(engine.look())
    assert through(tracker) == engine.truth(times)


def at_rest(*event_ms: int, **shape: int) -> tuple[Engine, Tracker]:
    engine, tracker = Engine(raw=max(1, len(event_ms)), **shape), Tracker("app")
    for raw, time in enumerate(event_ms):
        engine.send(raw, time)
    engine.rest()
    tracker.observe(engine.look())
    return engine, tracker


def test_at_rest_one_look_tells_all() -> None:
    _, tracker = at_rest(5_000, 3_000)
    assert through(tracker) == 3_000


def test_nothing_yet() -> None:
    assert through(Tracker("app")) is None
    _, tracker = at_rest()
    assert through(tracker) is None


def test_in_the_midst_of_traffic_a_first_look_claims_nothing() -> None:
    engine, _ = at_rest(5_000)
    engine.send(0, 6_000)
    engine.advance(0)
    fresh = Tracker("app")
    fresh.observe(engine.look())
    assert through(fresh) is None
    engine.rest()
    fresh.observe(engine.look())
    assert through(fresh) == 6_000


def test_it_follows_looks_while_traffic_goes_on() -> None:
    """Route is always ahead of what is emitted: only looks of before tell the watermark there."""
    engine, tracker = at_rest(0, judges=1, totals=1)
    for step in range(1, 50):
        engine.send(0, step * 1_000)
        engine.advance(0)
        engine.judge(0)
        if step % 5 == 0:
            engine.emit(0)
        tracker.observe(engine.look())
        assert through(tracker) == step // 5 * 5 * 1_000


def test_a_quiet_partition_holds_nothing_back_once_it_is_contained() -> None:
    engine, tracker = at_rest(100_000, 3_000)
    engine.quiet_ms = [0, GRACE_MS]
    tracker.observe(engine.look())
    assert through(tracker) == 100_000
    engine.quiet_ms = [0, GRACE_MS - 1]
    tracker.observe(engine.look())
    assert through(tracker) == 3_000
    engine.send(1, 4_000)
    engine.advance(1)
    engine.quiet_ms = [0, GRACE_MS]  # by the clock; but its last record is not in the totals
    tracker.observe(engine.look())
    assert through(tracker) == 3_000


def test_where_all_are_quiet_the_newest_counts() -> None:
    engine, tracker = at_rest(100_000, 3_000)
    engine.quiet_ms = [GRACE_MS, GRACE_MS]
    tracker.observe(engine.look())
    assert through(tracker) == 100_000


def test_without_a_grace_period_nothing_is_quiet_and_nothing_closed() -> None:
    engine, tracker = at_rest(2 * HOUR_MS, 3_000)
    engine.quiet_ms, engine.closed_ms = [0, GRACE_MS], HOUR_MS
    tracker.observe(engine.look())
    unlimited = Config(events=(EVENT.model_copy(update={"grace_ms": None}),))
    assert tracker.tables(unlimited).by_table["r"] == (3_000, FIRST_MS)
    assert tracker.tables(CONFIG).by_table["r"] == (2 * HOUR_MS, HOUR_MS)


def test_other_topics_do_not_matter() -> None:
    engine, tracker = at_rest(5_000)
    look = engine.look()
    rows = dict(look.rows)
    rows[ROUTE, "other/0"] = Row(ROUTE, "other/0", 7, 0, StateOf(watermarks={"e": 1}))
    rows[ROUTE, "app.replays.e/0"] = Row(ROUTE, "app.replays.e/0", 7, 0, StateOf(watermarks={"e": 1}))
    rows[ROUTE, "raw/9"] = Row(ROUTE, "raw/9", 7, 0, StateOf(watermarks={"another": 1}))
    tracker.observe(Look(look.topics, rows))
    assert through(tracker) == 5_000


@pytest.mark.parametrize("missing", [(ROLLUP, "app.deltas.r/1"), (DEDUP, "app.events/1")])
def test_a_partition_that_is_not_claimed_yet(missing: tuple[str, str]) -> None:
    engine, tracker = at_rest(5_000)
    look = engine.look()
    tracker.observe(Look(look.topics, {key: row for key, row in look.rows.items() if key != missing}))
    assert through(tracker) is None


def test_another_life_of_the_topics() -> None:
    """An embedded broker that starts anew: positions begin again, and what was seen of the old ones means nothing."""
    old, tracker = at_rest(50_000, judges=1, totals=1)
    for _ in range(5):
        old.send(0, 50_000)
        old.rest()
        tracker.observe(old.look())
    new = Engine(1, 1, 1)
    new.life = "b"
    for time in range(1, 9):  # beyond the old positions by the time of the first look
        new.send(0, time)
        new.advance(0)
    for _ in range(7):
        new.judge(0)
    new.emit(0)
    new.judge(0)
    tracker.observe(new.look())
    assert through(tracker) is None
    new.rest()
    tracker.observe(new.look())
    assert through(tracker) == 8


def test_positions_that_went_back() -> None:
    """A restored database."""
    engine, tracker = at_rest(50_000, judges=1, totals=1)
    for _ in range(5):
        engine.send(0, 60_000)
    engine.rest()
    tracker.observe(engine.look())
    restored = Engine(1, 1, 1)
    restored.send(0, 10_000)
    restored.rest()
    tracker.observe(restored.look())
    assert through(tracker) == 10_000


def test_looks_are_bounded() -> None:
    """A rollup that stands still for days: an older answer, in bounded memory."""
    engine, tracker = at_rest(1_000, judges=1, totals=1)
    for step in range(2, 10 * LOOKS_MAX):
        engine.send(0, step * 1_000)
        engine.advance(0)
        engine.judge(0)
        tracker.observe(engine.look())
    kept = [len(history._positions) for history in (*tracker._seen.route.values(), *tracker._seen.dedup.values())]
    assert max(kept) <= LOOKS_MAX
    assert through(tracker) == 1_000
    engine.emit(0)
    tracker.observe(engine.look())
    assert through(tracker) == (10 * LOOKS_MAX - 1) * 1_000
    assert max(len(history._positions) for history in tracker._seen.route.values()) == 1


def test_final_is_a_period_whose_windows_are_all_closed() -> None:
    engine, tracker = at_rest(2 * HOUR_MS)
    engine.closed_ms = HOUR_MS
    tracker.observe(engine.look())
    tables = tracker.tables(CONFIG)
    assert tables.of(["r"], at_time(HOUR_MS)).final
    assert not tables.of(["r"], at_time(HOUR_MS + 1)).final
    assert not tables.of(["r"], None).final
    assert not tables.of([], at_time(HOUR_MS)).final
    assert not tables.of(["r", "unknown"], at_time(HOUR_MS)).final
    assert tables.of(["r"], None).data_through == at_time(2 * HOUR_MS)


def test_the_slowest_partition_closes() -> None:
    engine, tracker = at_rest(2 * HOUR_MS)
    engine.closed_ms = HOUR_MS
    look = engine.look()
    rows = dict(look.rows)
    slow = rows[ROLLUP, "app.deltas.r/1"]
    rows[ROLLUP, slow.source] = msgspec.structs.replace(slow, state=msgspec.structs.replace(slow.state, closed_ms=0))
    tracker.observe(Look(look.topics, rows))
    assert tracker.tables(CONFIG).by_table["r"][1] == 0


def test_what_was_closed_under_a_shorter_grace_period_is_open_again() -> None:
    """Under the new one events come into it that are not late."""
    engine, tracker = at_rest(HOUR_MS + WINDOW_MS + GRACE_MS)
    engine.closed_ms = HOUR_MS
    tracker.observe(engine.look())
    assert tracker.tables(CONFIG).by_table["r"][1] == HOUR_MS
    longer = Config(events=(EVENT.model_copy(update={"grace_ms": 3 * WINDOW_MS}),))
    assert tracker.tables(longer).by_table["r"][1] == HOUR_MS - 2 * WINDOW_MS


def test_a_raw_partition_that_is_behind_holds_open() -> None:
    """One that was added, or woke up: to its own watermark, old events are not late. A quiet one holds nothing."""
    engine, tracker = at_rest(2 * HOUR_MS, WINDOW_MS + GRACE_MS)
    engine.closed_ms = HOUR_MS
    tracker.observe(engine.look())
    assert tracker.tables(CONFIG).by_table["r"][1] == WINDOW_MS
    engine.quiet_ms = [0, GRACE_MS]
    tracker.observe(engine.look())
    assert tracker.tables(CONFIG).by_table["r"][1] == HOUR_MS
