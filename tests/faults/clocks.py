"""Rows in which time is odd: wall clocks that are wrong or set anew, and events' times at their limits."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from tests.acceptance.traffic import yaml
from tests.faults import harness_recount as recounts
from tests.faults.events import event, expected, mixed, reasons, spread
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault

HOUR_MS = 3_600_000


# the wall clock


def clock(shift_ms: int) -> str:
    return f"clock:{shift_ms}"


def at_clocks(bed: Bed, shifts_ms: Sequence[int]) -> Outcome:
    """One run after another, each killed in mid-load, with the clock of each set anew."""
    load = bed.load(over=8.0 * len(shifts_ms))
    for number, shift_ms in enumerate(shifts_ms):
        workers = bed.start("route", "work", inject=clock(shift_ms))
        load.reaches((number + 1) / len(shifts_ms))
        if number + 1 < len(shifts_ms):
            for worker in workers:
                worker.kill()
    bed.recovering()
    outcome = bed.check()
    (closed,) = bed.query("SELECT count(*) AS n FROM rollups.file_download_aggregated WHERE final")
    assert not closed["n"], f"{closed['n']} rows of windows inside their grace period say they are final"
    return outcome


for _name, _shifts in (
    ("an hour ahead", (HOUR_MS,)),
    ("an hour behind", (-HOUR_MS,)),
    ("two hours backwards between runs, and on again", (HOUR_MS, -HOUR_MS, 0)),
):
    fault(f"wall clock {_name}", embedded=True)(partial(at_clocks, shifts_ms=_shifts))


@fault("wall clock set between runs by more than the dedup horizon: no id expires early", embedded=True)
def no_id_expires_early(bed: Bed) -> Outcome:
    """Everything is sent again minutes later at most, each time under another clock."""
    bed.configure(yaml("1s", "unlimited") + "dedup_horizon: 30m\n")
    bed.grace_ms = None
    events = bed.traffic()
    for number, shift_ms in enumerate((-HOUR_MS, 0, HOUR_MS, -HOUR_MS)):
        bed.start("route", "work", inject=clock(shift_ms))
        bed.load(events=events).done()
        bed.until_booked((number + 1) * len(events))
        if number < 3:
            bed.stop()
    bed.recovering()
    return bed.check()


@fault("wall clock an hour behind: events of just now are dead letters, and counted once when sent again")
def behind_and_then_right(bed: Bed) -> Outcome:
    """By contract: the guard against future timestamps goes by the earlier of the record's time and the clock."""
    now = datetime.now(UTC)
    count = max(100, bed.events // 2)
    of_now = [
        event(f"now-{number}", (now - timedelta(milliseconds=number)).isoformat(), f"customer-{number % 40}", number)
        for number in range(count)
    ]
    bed.start("route", "work", inject=clock(-HOUR_MS))
    bed.load(events=spread(of_now)).done()
    bed.until_booked(count)
    assert reasons(bed) == {"future_timestamp": count}
    bed.stop()
    bed.start("route", "work")
    bed.recovering()
    for _ in range(2):
        bed.load(events=spread(of_now)).done()
    bed.until_booked(3 * count)
    partitions = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    shares = Counter(number % PARTITIONS for number in range(count))  # the first copies, before all others
    wanted = recounts.recount(bed.topic, {n: rows[shares[n] :] for n, rows in partitions.items()}, bed.grace_ms)
    wanted.records += count
    wanted.books["invalid"] += count
    wanted.letters |= {(f"{bed.topic}/{n}", row.offset) for n, rows in partitions.items() for row in rows[: shares[n]]}
    return bed.check(wanted)


# events' times


@fault("time: +10 years and -40 days among the load", embedded=True)
def far_times(bed: Bed) -> Outcome:
    """On every partition, from the middle on: the watermark stays with the good ones."""
    decade = (datetime.now(UTC) + timedelta(days=3653)).isoformat()
    months = "2022-07-05T15:14:31Z"
    number = max(8, bed.events // 100)
    future = [event(f"future-{n}", decade) for n in range(number)]
    past = [event(f"past-{n}", months) for n in range(number)]
    bed.start("route", "work")
    bed.load(events=mixed(bed.traffic(), [*spread(future), *spread(past)]), over=8)
    outcome = bed.check(expected(bed, future))
    assert reasons(bed)["future_timestamp"] == number
    marks = bed.query(
        "SELECT max((state->'watermarks'->>'file_download')::bigint) AS ms FROM rollup_engine.progress"
        " WHERE stage = 'route'"
    )
    latest = datetime.fromtimestamp(marks[0]["ms"] / 1000, UTC)
    assert latest < datetime(2022, 8, 14, 16, tzinfo=UTC), f"the watermark is at {latest}"
    return outcome


CALENDAR = (
    "2022-03-27T01:59:59.999+01:00",  # a spring night in Berlin: 02:00 does not exist
    "2022-03-27T03:00:00.000+02:00",
    "2022-10-30T02:30:00.000+02:00",  # an autumn night: 02:30 is there twice
    "2022-10-30T02:30:00.000+01:00",
    "2022-11-06T01:30:00.000-04:00",  # New York's
    "2022-11-06T01:30:00.000-05:00",
    "2024-02-28T23:59:59.999Z",
    "2024-02-29T00:00:00Z",
    "2024-02-29T23:59:59.999Z",
    "2024-03-01T00:00:00+00:00",
    "2023-12-31T23:59:59.999Z",
    "2024-01-01T00:00:00.000Z",
    "2024-01-01T00:30:00+01:00",  # still last year
    "2023-12-31T23:30:00-01:00",  # next year already
    "2024-01-01T05:44:59.999+05:45",
    "2024-01-01T05:45:00+05:45",
    "2000-02-29T12:00:00Z",
    "1999-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00Z",
    "1969-12-31T23:59:59.999Z",
    "1900-02-28T23:59:59Z",
    "0001-01-01T00:00:00Z",
)
NO_TIMES = (
    "2023-02-29T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2024-02-30T00:00:00Z",
    "2024-01-01T24:00:00Z",
    "2016-12-31T23:59:60Z",
    "2024-01-01T00:00:00",
    "2024-01-01T00:00:00+24:00",
    "0001-01-01T00:00:00+01:00",
    "10000-01-01T00:00:00Z",
)


@fault("time: nights of daylight saving, leap days, the year's end", embedded=True)
def calendar(bed: Bed) -> Outcome:
    bed.configure(grace="unlimited")
    bed.grace_ms = None
    rounds = max(1, bed.events // 2_000)
    good = [event(f"{at}-{n}", at, size=n) for n in range(rounds) for at in CALENDAR]
    bad = [event(f"{at}-{n}", at) for n in range(rounds) for at in NO_TIMES]
    bed.start("route", "work")
    bed.load(events=mixed(bed.traffic(), spread([*good, *bad])), over=5)
    return bed.check(expected(bed, bad))
