"""Stopped and started again, politely or not: the totals are those of a recount, and the books balance."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from rollup_engine.runtime.embedded import adopt_broker
from tests.acceptance.cli import Engine, Process, get, until
from tests.acceptance.traffic import events, partials, recount, rows, send, totals, yaml

EVENTS = 12_000


def booked(engine: Engine) -> int:
    """Events in the books, asked of the database itself: quick enough to strike in the middle of the load."""
    url = engine.environment["ROLLUP_DATABASE_URL"]
    query = "SELECT coalesce(sum(counted + duplicate), 0)::bigint AS n FROM rollup_engine.books"
    return int(asyncio.run(rows(url, query))[0]["n"])


def strike(engine: Engine, process: Process, role: str) -> None:
    """SIGKILL to a child of `up`."""
    child = until(f"{role} runs", lambda: process.child(role))
    child.kill()


def exact(engine: Engine, lines: list[str], *, duplicates: int) -> None:
    """Totals, books and keys are right, now that everything is worked off."""
    url = engine.environment["ROLLUP_DATABASE_URL"]
    expected = recount(lines)
    counted = len(lines) - duplicates
    status = engine.status()
    assert {kind: status[kind] for kind in ("received", "routed", "counted", "duplicate")} == {
        "received": len(lines),
        "routed": len(lines),
        "counted": counted,
        "duplicate": duplicates,
    }
    assert sum(status[kind] for kind in ("conflicting", "late", "invalid", "unmatched")) == 0
    found = asyncio.run(totals(url))
    wrong = {group: (expected.get(group), found.get(group)) for group in expected.keys() | found.keys()}
    assert not {group: pair for group, pair in wrong.items() if pair[0] != pair[1]}
    emitted = asyncio.run(partials(url))
    assert len({row["idempotency_key"] for row in emitted}) == len(emitted)
    series: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in emitted:  # by revision
        series.setdefault((row["timestamp"], row["tuple_key"]), []).append(row)
    for partial_rollups in series.values():
        counts = [row["count"] for row in partial_rollups]
        assert counts == sorted(set(counts)), "each partial adds to the one before, or it would not be there"
        revisions = [row["revision"] for row in partial_rollups]
        assert len(set(revisions)) == len(revisions)


def test_killed_roles_under_load(engine: Engine) -> None:
    """Route and work die in the middle, twice each; `up` starts them again."""
    lines = events(EVENTS, seed=3, repeated=0.05)
    duplicates = len(lines) - EVENTS
    up = engine.up()
    quarter = len(lines) // 4
    for number, role in enumerate(("work", "route", "work", "route")):
        engine.produce(lines[number * quarter : (number + 1) * quarter])
        done = number * quarter
        until("it is in the middle", lambda done=done: booked(engine) > done)
        strike(engine, up, role)
    engine.produce(lines[4 * quarter :])
    engine.settled(len(lines))
    assert up.output.count("a role has died and is started again") == 4
    assert up.stop() == 0, up.output
    exact(engine, lines, duplicates=duplicates)


def test_up_itself_killed_and_started_again(engine: Engine) -> None:
    """The broker outlives it, with all that was not worked off; the roles end by themselves; a second `up` goes on."""
    lines = events(EVENTS, seed=4, repeated=0.05)
    first = engine.up()
    broker = adopt_broker(engine.state_dir)
    assert broker is not None
    roles = first.children()
    engine.produce(lines[: EVENTS // 2])
    until("it is in the middle", lambda: booked(engine) > 0)
    first.send(signal.SIGKILL)
    first.ends()
    second = engine.up()
    until("the end of the first one's roles", lambda: not any(role.is_running() for role in roles))
    again = adopt_broker(engine.state_dir)
    assert again is not None
    assert again.incarnation == broker.incarnation
    engine.produce(lines[EVENTS // 2 :])
    engine.settled(len(lines))
    assert second.stop() == 0, second.output
    exact(engine, lines, duplicates=len(lines) - EVENTS)


def test_everything_killed_at_once(engine: Engine) -> None:
    """`up` and its roles, in the same moment: nothing is given back, no lease, no claim."""
    lines = events(EVENTS, seed=5)
    first = engine.up()
    engine.produce(lines)
    until("it is in the middle", lambda: booked(engine) > 0)
    for process in [*first.children(), first.popen]:
        process.kill()
    first.ends()
    second = engine.up()
    engine.settled(len(lines))
    assert second.stop() == 0, second.output
    exact(engine, lines, duplicates=0)


def test_stopped_and_started_the_embedded_broker_is_a_new_one(engine: Engine) -> None:
    """A clean stop works everything off, for the broker's memory ends with it. Ids are remembered beyond."""
    lines = events(3_000, seed=6)
    first = engine.up()
    engine.produce(lines)
    assert first.stop() == 0, first.output
    exact(engine, lines, duplicates=0)
    assert adopt_broker(engine.state_dir) is None

    second = engine.up()
    more = [*lines[:500], *events(1_000, seed=7)]
    engine.produce(more)
    engine.settled(len(lines) + len(more))
    assert second.stop() == 0, second.output
    exact(engine, lines + more, duplicates=500)
    url = engine.environment["ROLLUP_DATABASE_URL"]
    (generations,) = asyncio.run(rows(url, "SELECT count(*)::int AS n FROM rollup_engine.generations"))
    assert generations["n"] == 2


def test_several_of_each_role_work_everything_off_together(make_engine: Callable[..., Engine]) -> None:
    """On a broker without groups, each with a share of the partitions. Who sends to another ends before it."""
    engine = make_engine(yaml(emit_every="60s"), partitions="4")
    up = engine.up("--processes", "3")
    opened = [page for page in up.output.split() if page.endswith("/health")]
    assert len(opened) == 6

    def partitions() -> int:
        return sum(json.loads(get(page)[1] or '{"partitions": 0}')["partitions"] for page in opened)

    until("every partition is open, once", lambda: partitions() == 4 + 1 + 4 + 4)  # raw, replays, events, deltas
    lines = events(EVENTS, seed=11, repeated=0.1)
    route = up.child("route")
    last = next(child for child in up.children() if "work" in child.cmdline() and "2/3" in child.cmdline())
    assert route is not None
    last.suspend()  # it still has to send when the others are done
    engine.produce(lines)
    up.send(signal.SIGTERM)
    until("route is done", lambda: not route.is_running())
    time.sleep(3)  # for whoever would not wait for it
    last.resume()
    assert up.ends() == 0, up.output
    exact(engine, lines, duplicates=len(lines) - EVENTS)


def test_a_broker_that_vanished_is_replaced(engine: Engine) -> None:
    """What it held and was not worked off is lost with it, for it was in memory; what was counted stays."""
    lines = events(2_000, seed=8)
    first = engine.up()
    engine.produce(lines)
    engine.settled(len(lines))
    url = engine.environment["ROLLUP_DATABASE_URL"]
    until("the totals", lambda: asyncio.run(totals(url)) == recount(lines))
    broker = adopt_broker(engine.state_dir)
    assert broker is not None
    broker.stop()
    started = time.monotonic()
    first.stop()
    assert time.monotonic() - started < 50, "it must not wait for a broker that is gone"
    second = engine.up()
    more = events(500, seed=9)
    engine.produce(more)
    engine.settled(len(lines) + len(more))
    assert second.stop() == 0, second.output
    exact(engine, lines + more, duplicates=0)


def test_a_stop_at_once_is_a_clean_one(make_engine: Callable[..., Engine]) -> None:
    """Before the roles are even up: what is in the broker already is still worked off, for it ends too."""
    engine = make_engine()
    up = engine.start("up")
    up.says("Running.")
    lines = events(300, seed=10)
    asyncio.run(send(engine.endpoints()["kafka"], [(n % 4, line.encode()) for n, line in enumerate(lines)]))
    assert up.stop() == 0, up.output
    exact(engine, lines, duplicates=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(make_engine: Callable[..., Engine], number: signal.Signals) -> None:
    """For whoever does not want to wait; the next start finds what was left."""
    engine = make_engine()
    up = engine.up()
    child = up.child("route")
    assert child is not None
    child.suspend()  # it cannot end cleanly
    up.send(number)
    up.says("Stopping")
    up.send(number)
    assert up.ends(20) == 1
    assert "Traceback" not in up.output
