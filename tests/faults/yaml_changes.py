"""Rows in which the YAML changes: what was counted under the old one stays, what comes is counted under the new one."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from tests.acceptance.cli import until
from tests.acceptance.traffic import yaml
from tests.faults import harness_recount as recounts
from tests.faults.events import event, minute_ms, without_conflicts
from tests.faults.harness import GRACE, PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_load import Sendable
from tests.faults.harness_recount import Difference, Raw, Recount

YAML = yaml("1s", GRACE)
AGGREGATE = "{sum: bytes_downloaded, minimum: 0}"
AGENT = "downloader/7.2"


def later(events: Sequence[Sendable]) -> list[Sendable]:
    """The same two hours on: in windows of their own."""
    return [(to, value.replace(b"T15:", b"T17:")) for to, value in events]


def by_speed(totals: Mapping[recounts.Group, recounts.Total]) -> dict[recounts.Group, recounts.Total]:
    return dict(totals)


def without_speed(totals: Mapping[recounts.Group, recounts.Total]) -> dict[recounts.Group, recounts.Total]:
    """Added up over it."""
    result: dict[recounts.Group, recounts.Total] = {}
    for (window_ms, customer, _), (count, size) in totals.items():
        before = result.get((window_ms, customer, None), (0, Decimal(0)))
        result[window_ms, customer, None] = before[0] + count, before[1] + size
    return result


def is_later(window_ms: int) -> bool:
    return datetime.fromtimestamp(window_ms / 1000, UTC).hour == 17


def new_windows(totals: Mapping[recounts.Group, recounts.Total]) -> dict[recounts.Group, recounts.Total]:
    return {group: total for group, total in totals.items() if is_later(group[0])}


@dataclass(frozen=True)
class Change:
    """Another YAML. `shaped` puts totals as both YAMLs can show them; `check` looks at what is new."""

    name: str
    yaml: str
    shaped: Callable[[Mapping[recounts.Group, recounts.Total]], dict[recounts.Group, recounts.Total]] = by_speed
    check: Callable[[Bed, Recount], None] = lambda bed, expected: None
    ci: bool = False
    stopped_only: bool = False  # where old windows of both YAMLs could not be told apart by speed


def greatest_is_there(bed: Bed, expected: Recount) -> None:
    """Of every new window; the old ones have it at most from what the new YAML routed."""
    rows = bed.query(
        "SELECT timestamp, count, sum_bytes_downloaded AS sum, max_bytes_downloaded AS max FROM rollups.file_download"
    )
    lacking = [row for row in rows if row["timestamp"].hour == 17 and not 0 <= row["sum"] / row["count"] <= row["max"]]
    assert not lacking, f"{len(lacking)} new groups have no greatest value, such as {lacking[0]}"


def by_agent_is_there(bed: Bed, expected: Recount) -> None:
    """The new rollup has all of the new windows, and no more of the old ones than there is."""
    rows = bed.query("SELECT *, timestamp_millis AS ms FROM rollups.by_agent WHERE agent = $1", AGENT)
    found: dict[recounts.Group, recounts.Total] = {
        (row["ms"], row["external_customer_id"], None): (row["count"], Decimal(row["sum_bytes_downloaded"]))
        for row in rows
    }
    wanted = without_speed(expected.totals)
    differ = recounts.difference(new_windows(wanted), new_windows(found))
    assert differ == Difference(0, Decimal(0)), f"the new rollup's new windows differ by {differ}"
    more = [group for group, total in found.items() if total > wanted.get(group, (0, Decimal(0)))]
    assert not more, f"{len(more)} groups of the new rollup have more than there is, such as {more[0]}"


def grouped_by_agent(bed: Bed, expected: Recount) -> None:
    rows = bed.query("SELECT timestamp, agent, download_speed FROM rollups.file_download")
    wrong = [
        row for row in rows if row["timestamp"].hour == 17 and (row["agent"], row["download_speed"]) != (AGENT, None)
    ]
    assert not wrong, f"{len(wrong)} new groups are not by agent alone, such as {wrong[0]}"


CHANGES = (
    Change(
        "an aggregate added",
        YAML.replace(AGGREGATE, AGGREGATE + ", {max: bytes_downloaded}"),
        check=greatest_is_there,
    ),
    Change(
        "group_by changed",
        YAML.replace("[download_speed]", "[agent]"),
        without_speed,
        grouped_by_agent,
        stopped_only=True,
    ),
    Change("group_by left out", YAML.replace("group_by: [download_speed]", "group_by: []"), without_speed),
    Change(
        "a rollup added",
        YAML.replace(
            "grace_period",
            "  - name: by_agent\n    group_by: [agent]\n    aggregates: [{sum: bytes_downloaded}]\n"
            "    emit_every: 1s\ngrace_period",
        ),
        check=by_agent_is_there,
        ci=True,
    ),
)


def changed(bed: Bed, change: Change, *, kill: bool) -> Outcome:
    """Half of the load, the change in mid-load, the other half in later windows, and many of the first once more."""
    events = without_conflicts(bed.traffic())
    half = len(events) // 2
    first = events[:half]
    second = without_conflicts([*first, *later(events[half:])])[half:]  # a copy of one of the first stays out
    workers = bed.start("route", "work")
    load = bed.load(events=first, over=6)
    if kill:
        load.reaches(0.6)
        until("it is in the middle", lambda: bed.booked > half // 4)
        for worker in workers:
            worker.kill()
        forgotten(bed)
    else:
        load.done()
        bed.until_booked(half)  # what is left in the raw topic is the new YAML's
        bed.stop()
    bed.configure(change.yaml)
    for worker in workers:
        bed.restart(worker)
    bed.recovering()
    load.done()
    bed.until_booked(half)
    again = random.Random(4).sample(first, half // 3)
    bed.load(events=[*second, *again], over=6)
    bed.loads[-1].done()
    expected = bed.recount()
    outcome = bed.check(expected)
    change.check(bed, expected)
    wanted, found = change.shaped(expected.totals), change.shaped(bed.totals())
    return replace(outcome, difference=recounts.difference(wanted, found))


def forgotten(bed: Bed) -> None:
    """Waits until the lease on the YAML of killed processes has ended."""
    query = "SELECT count(*) AS n FROM rollup_engine.leases WHERE app_id = $1 AND expires_at > now()"
    until("the lease has ended", lambda: not bed.query(query, bed.app_id)[0]["n"])


for _change in CHANGES:
    fault(f"YAML changed, {_change.name}, after a clean stop", ci=_change.ci)(
        partial(changed, change=_change, kill=False)
    )
    if not _change.stopped_only:
        fault(f"YAML changed, {_change.name}, after SIGKILL in mid-load")(partial(changed, change=_change, kill=True))


@fault("YAML changed, minimum lowered, after a clean stop")
def minimum_changed(bed: Bed) -> Outcome:
    return lowered(bed, kill=False)


@fault("YAML changed, minimum lowered, after SIGKILL in mid-load")
def minimum_changed_killed(bed: Bed) -> Outcome:
    return lowered(bed, kill=True)


def lowered(bed: Bed, *, kill: bool) -> Outcome:
    """Negative events are refused, then sent again under a YAML that takes them; those of before stay refused."""
    usual = [one for one in bed.traffic() if b'"bytes_downloaded":-' not in one[1]]
    negative = [(n % PARTITIONS, _negative(n)) for n in range(max(40, bed.events // 20))]
    half = len(usual) // 2
    workers = bed.start("route", "work")
    bed.load(events=negative).done()
    bed.until_booked(len(negative))
    load = bed.load(events=usual[:half], over=5)
    if kill:
        load.reaches(0.5)
        for worker in workers:
            worker.kill()
        forgotten(bed)
    else:
        load.done()
        bed.stop()
    bed.configure(YAML.replace("minimum: 0", "minimum: -100"))
    for worker in workers:
        bed.restart(worker)
    bed.recovering()
    load.done()
    bed.load(events=[*usual[half:], *negative, *negative], over=5).done()
    partitions = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    old = Counter(to for to, _ in negative)
    rest = {number: [one for one in rows if not _is_negative(one)] for number, rows in partitions.items()}
    expected = recounts.recount(bed.topic, rest, bed.grace_ms)
    expected.records += 3 * len(negative)
    expected.books.update(invalid=len(negative), counted=len(negative), duplicate=len(negative))
    for number, rows in partitions.items():
        refused = [one for one in rows if _is_negative(one)][: old[number]]
        expected.letters |= {(f"{bed.topic}/{number}", one.offset) for one in refused}
    expected.totals[minute_ms("2022-08-14T15:10"), "below", None] = len(negative), Decimal(-len(negative))
    return bed.check(expected)


def _negative(number: int) -> bytes:
    return event(f"below-{number}", "2022-08-14T15:14:00Z", "below", -1)


def _is_negative(one: Raw) -> bool:
    return one.value.startswith(b'{"id":"below-')
