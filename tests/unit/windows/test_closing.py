"""What a rollup partition may take for closed, against the naive definition; and every rule of it on its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import EventType, Rollup, Timestamp
from rollup_engine.progress import DEDUP, ROUTE, Position
from rollup_engine.route.state import NO_WATERMARK_MS
from rollup_engine.windows.closing import Closing

WINDOW_MS = 10
GRACE_MS = 7
JUDGES = ("app.events/0", "app.events/1")


def event_type(grace_ms: int | None = GRACE_MS) -> EventType:
    return EventType(
        event="call",
        kafka_topics=("raw", "more"),
        id_paths=("id",),
        timestamp=Timestamp(path="at"),
        customer_path="customer",
        rollups=(Rollup(name="call", table="call", window_ms=WINDOW_MS, emit_every_ms=1_000),),
        grace_ms=grace_ms,
        horizon_ms=100,
        max_future_ms=10,
    )


def closing(grace_ms: int = GRACE_MS) -> Closing:
    return Closing(event_type(grace_ms), WINDOW_MS, JUDGES)


def route(position: int, watermark_ms: int | None, quiet_ms: int = 0, *, event: str = "call") -> Position:
    watermarks = {} if watermark_ms is None else {event: watermark_ms}
    return Position(position, 0, 1, 1, {"watermarks": watermarks, "quiet_ms": quiet_ms})


def dedup(position: int, **marks: int) -> Position:
    named = {name.replace("_", "/"): mark for name, mark in marks.items()}
    return Position(position, 0, 1, 1, {"marks": named, "clocks": {"raw/0": 1}, "generation": 3})


def rows(routes: Mapping[str, Position], *judges: Position) -> dict[tuple[str, str], Position]:
    found = {(ROUTE, source.replace("_", "/")): row for source, row in routes.items()}
    return found | {(DEDUP, source): row for source, row in zip(JUDGES, judges, strict=False)}


def at_rest(routes: Mapping[str, Position], *, grace_ms: int = GRACE_MS) -> int | None:
    """The bound where all was judged and taken in."""
    marks = dict.fromkeys(routes, 1000)
    return closing(grace_ms).look(rows(routes, dedup(50, **marks), dedup(60, **marks)), dict.fromkeys(JUDGES, 60))


def test_windows_whose_end_lies_a_grace_period_behind_the_slowest_are_closed() -> None:
    assert at_rest({"raw_0": route(5, 37)}) == 30
    assert at_rest({"raw_0": route(5, 36)}) == 20
    assert at_rest({"raw_0": route(5, 1_000), "raw_1": route(5, 37), "more_0": route(5, 50)}) == 30
    assert at_rest({"raw_0": route(5, -3)}) == -10


def test_nothing_is_known_of_a_topic_without_events() -> None:
    assert at_rest({}) is None
    assert at_rest({"raw_0": route(5, None), "raw_1": route(5, NO_WATERMARK_MS)}) is None


@pytest.mark.parametrize(
    "other",
    [
        {"raw_1": route(5, None)},
        {"raw_1": route(5, NO_WATERMARK_MS)},
        {"raw_1": route(5, 0, event="other")},
        {"other_0": route(5, 0)},
        {"app.replays.call_0": route(5, 0)},
        {"raw_1": route(5, 0, quiet_ms=GRACE_MS)},
    ],
    ids=["no event", "only future ones", "another event type", "another topic", "a replay", "quiet"],
)
def test_what_holds_no_window_open(other: dict[str, Position]) -> None:
    assert at_rest({"raw_0": route(5, 37), **other}) == 30


def test_quiet_is_who_gave_nothing_for_a_grace_period_and_never_who_flows() -> None:
    assert at_rest({"raw_0": route(5, 37), "raw_1": route(5, 19, GRACE_MS - 1)}) == 10
    assert at_rest({"raw_0": route(5, 30), "raw_1": route(5, 19, 0)}, grace_ms=0) == 10
    assert at_rest({"raw_0": route(5, 30), "raw_1": route(5, 19, 1)}, grace_ms=0) == 30


def test_where_all_are_quiet_every_window_there_is_is_closed_and_none_to_come() -> None:
    assert at_rest({"raw_0": route(5, 37, 8), "raw_1": route(5, 12, 8)}) == 40
    assert at_rest({"raw_0": route(5, 40, 8)}) == 50
    assert at_rest({"raw_0": route(5, LAST_MS, 8)}) == LAST_MS


def test_zero_times_are_no_matter() -> None:
    assert at_rest({"raw_0": route(5, FIRST_MS)}) == FIRST_MS


def test_each_step_waits_for_the_one_before() -> None:
    look = closing().look
    routes = {"raw_0": route(5, 37), "raw_1": route(9, 50)}
    taken = {JUDGES[0]: 100, JUDGES[1]: 99}
    assert look(rows(routes), taken) is None, "nobody judged yet"
    assert look(rows(routes, dedup(100, raw_0=5, raw_1=9)), taken) is None, "one partition has no row"
    assert look(rows(routes, dedup(100, raw_0=5, raw_1=9), dedup(100, raw_0=4, raw_1=9)), taken) is None
    later = {"raw_0": route(70, 370), "raw_1": route(90, 500)}  # what step 1 saw counts
    assert look(rows(later, dedup(100, raw_0=5, raw_1=9), dedup(100, raw_0=6, raw_1=9)), taken) is None
    assert look(rows(later, dedup(500), dedup(500)), taken) is None, "how far they were as they had judged that counts"
    assert look(rows(later, dedup(500), dedup(500)), {JUDGES[0]: 100, JUDGES[1]: 100}) == 30
    judged = rows(later, dedup(500, raw_0=70, raw_1=90), dedup(500, raw_0=70, raw_1=90))
    assert look(judged, {JUDGES[0]: 100, JUDGES[1]: 100}) is None
    assert look(judged, {JUDGES[0]: 500, JUDGES[1]: 500}) == 360


def test_what_was_waited_for_and_a_fresh_look_in_one() -> None:
    look = closing().look
    assert look(rows({"raw_0": route(5, 37)}), {}) is None
    now = rows({"raw_0": route(7, 57)}, dedup(3, raw_0=7), dedup(3, raw_0=7))
    assert look(now, {JUDGES[0]: 3, JUDGES[1]: 3}) == 50


@dataclass
class Pipeline:
    """A model of the three stages: times and positions only. An event's number picks its events partition."""

    raw: dict[str, list[int]] = field(default_factory=lambda: {"raw/0": [], "raw/1": []})  # event times
    routed: dict[str, int] = field(default_factory=lambda: {"raw/0": 0, "raw/1": 0})
    events: list[list[tuple[str, int, int]]] = field(default_factory=lambda: [[], []])  # covered: source, start, end
    judged: list[int] = field(default_factory=lambda: [0, 0])
    taken: list[int] = field(default_factory=lambda: [0, 0])

    def route(self, source: str, count: int) -> None:
        start = self.routed[source]
        self.routed[source] = min(start + count, len(self.raw[source]))
        for log in self.events:
            log.append((source, start, self.routed[source]))

    def judge(self, number: int, count: int) -> None:
        self.judged[number] = min(self.judged[number] + count, len(self.events[number]))

    def marks(self, number: int, to: int) -> dict[str, int]:
        return {source: end for source, _, end in self.events[number][:to]}

    def watermark(self, source: str, to: int) -> int:
        return max(self.raw[source][:to], default=NO_WATERMARK_MS)

    def rows(self) -> dict[tuple[str, str], Position]:
        found: dict[tuple[str, str], Position] = {}
        for source, to in self.routed.items():
            found[ROUTE, source] = Position(to, 0, 1, 1, {"watermarks": {"call": self.watermark(source, to)}})
        for number, to in enumerate(self.judged):
            found[DEDUP, JUDGES[number]] = Position(to, 0, 1, 1, {"marks": self.marks(number, to)})
        return found

    def to_come(self) -> list[int]:
        """Times of events that are not late, and not yet taken in."""
        times = []
        for source, all_times in self.raw.items():
            for offset, at_ms in enumerate(all_times):
                number = offset % 2
                late = at_ms < self.watermark(source, offset + 1) - GRACE_MS
                if not late and offset >= self.marks(number, self.taken[number]).get(source, 0):
                    times.append(at_ms)
        return times


STEPS = st.one_of(
    st.tuples(st.just("produce"), st.sampled_from(["raw/0", "raw/1"]), st.integers(-15, 25)),
    st.tuples(st.just("route"), st.sampled_from(["raw/0", "raw/1"]), st.integers(1, 4)),
    st.tuples(st.just("judge"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("look"), st.none(), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_no_event_that_is_to_come_belongs_to_a_closed_window(steps: list[tuple[str, object, int]]) -> None:
    """And in the end, when all is taken in, nothing is open that could be closed."""
    model, look, closed_ms, now_ms = Pipeline(), closing().look, FIRST_MS, 0
    for source in model.raw:  # one that was never heard of holds nothing open
        model.raw[source].append(0)
        model.route(source, 1)

    def looked() -> None:
        nonlocal closed_ms
        taken = dict(zip(JUDGES, model.taken, strict=True))
        found = look(model.rows(), taken)
        closed_ms = closed_ms if found is None else max(closed_ms, found)

    for what, where, number in steps:
        if what == "produce":
            now_ms += abs(number)
            model.raw[str(where)].append(now_ms - max(0, -number) * 2)
        elif what == "route":
            model.route(str(where), number)
        elif what == "judge":
            model.judge(int(str(where)), number)
        elif what == "take":
            to = int(str(where))
            model.taken[to] = min(model.taken[to] + number, model.judged[to])
        else:
            looked()
        assert all(at_ms // WINDOW_MS * WINDOW_MS >= closed_ms for at_ms in model.to_come()), "closed too early"
    for source in model.raw:
        model.route(source, 1_000)
    for number in (0, 1):
        model.judge(number, 1_000)
        model.taken[number] = model.judged[number]
    looked()
    slowest_ms = min(model.watermark(source, 1_000) for source in model.raw)
    for start in range(-100, 3_000, WINDOW_MS):
        assert (start < closed_ms) == (slowest_ms >= start + WINDOW_MS + GRACE_MS)
