"""Rows in which records cannot be decoded: poison and garbage, which stop and slow down nothing else."""

import asyncio
import time
from collections.abc import Sequence

from tests.acceptance.traffic import send
from tests.faults.events import expected, reasons, spread
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_load import Sendable

DEEP = b'{"id":"deep","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DEEP_OBJECTS = b'{"id":"deep","x":' + b'{"x":' * 50_000 + b"1" + b"}" * 50_001
BIG = b'{"id":"big","filler":"' + b"x" * 10_000_000 + b'"}'
POISON = (
    BIG,
    DEEP,
    DEEP_OBJECTS,
    b"[" * 300_000,
    b'"' + b"\\" * 500_001,
    b"\xff\xfe\x00",
    b"\x00" * 1_000,
    b"null",
    b"[]",
    b"{}",
    b'{"id":"half a pair \\ud800","customer":"c","download_timestamp":"2022-08-14T15:00:00Z"}',
    b'{"id":"' + b"9" * 70_000 + b'","customer":"c","download_timestamp":"2022-08-14T15:00:00Z"}',
    b'{"id":' + b"9" * 10_000 + b',"customer":"c","download_timestamp":"2022-08-14T15:00:00Z"}',
    b'{"id":"text","customer":"c","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":"12"}',
    b'{"id":"list","customer":["c"],"download_timestamp":"2022-08-14T15:00:00Z"}',
)


@fault("poison: 10 MB, deep nesting, wrong bytes and kinds among the load", ci=True)
def poison(bed: Bed) -> Outcome:
    bed.start("route", "work")
    load = bed.load(over=8)
    for share in (0.2, 0.5, 0.8):
        load.reaches(share)
        asyncio.run(send(bed.kafka.servers, spread(POISON), bed.topic))
    bed.recovering()
    outcome = bed.check(expected(bed, POISON))
    there = reasons(bed)
    assert there["record_too_large"] == 3, there
    assert there["nested_too_deep"] >= 6, there
    return outcome


def garbage(count: int) -> list[Sendable]:
    """Each of its own, and of every kind: cut off, not JSON, no customer, no time, too small."""
    kinds = (
        '{"id":"g%d","customer":"c","downl',
        "GET /file/%d HTTP/1.1",
        '{"id":"g%d","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":1}',
        '{"id":"g%d","customer":"c","download_timestamp":"tomorrow","bytes_downloaded":1}',
        '{"id":"g%d","customer":"c","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":-1}',
    )
    return [(n * 7 % PARTITIONS, (kinds[n % len(kinds)] % n).encode()) for n in range(count)]


GARBAGE_SECONDS = 20.0
SLOWER_MAX = 2.0
MEASURED_MIN = 50_000
PAIRS_MAX = 3
MEASURED_SECONDS = 10.0


@fault("50 % garbage under load, work killed in the middle: every single one has its letter", embedded=True)
def half_garbage(bed: Bed) -> Outcome:
    bed.start("route", "work")
    good = bed.traffic()
    load = bed.load(events=_beside(good), over=GARBAGE_SECONDS)
    for share in (0.3, 0.6):
        load.reaches(share)
        work = bed.running[-1]
        work.kill()
        bed.restart(work, wait=False)
    bed.recovering()
    outcome = bed.check()
    letters = sum(reasons(bed).values())
    assert letters > len(good), f"{letters} letters for {len(good)} pieces of garbage"
    return outcome


@fault("50 % garbage under load: the good ones pass at half their usual speed at least")
def throughput_beside_garbage(bed: Bed) -> Outcome:
    """From the first one sent to the last one booked. In pairs until one shows it: other programs run here too."""
    bed.start("route", "work")
    count = max(bed.events, MEASURED_MIN)
    ratios: list[float] = []
    while not ratios or min(ratios) > SLOWER_MAX:
        assert len(ratios) < PAIRS_MAX, f"{count} good events take {ratios} times as long beside as much garbage"
        clean = _seconds_for(bed, bed.traffic(count, seed=2 * len(ratios) + 2))
        good = bed.traffic(count, seed=2 * len(ratios) + 3)
        ratios.append(_seconds_for(bed, _beside(good)) / clean)
    return bed.check()


def _beside(good: Sequence[Sendable]) -> list[Sendable]:
    """Each with a piece of garbage after it."""
    return [one for pair in zip(good, garbage(len(good)), strict=True) for one in pair]


def _seconds_for(bed: Bed, events: Sequence[Sendable]) -> float:
    before, started = bed.booked, time.monotonic()
    bed.load(events=events, over=MEASURED_SECONDS).done()
    bed.until_booked(before + len(events))
    return time.monotonic() - started
