"""Rows in which windows close: each has a final row once it is over for good, and none before."""

from datetime import UTC, datetime, timedelta
from functools import partial

from tests.acceptance.cli import until
from tests.faults.events import event, without_conflicts
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault


@fault("final rows: event time moves on, one raw partition never used, work killed meanwhile", ci=True)
def final_rows(bed: Bed) -> Outcome:
    used = PARTITIONS - 1
    bed.start("route", "work")
    load = bed.load(events=[(to % used, value) for to, value in without_conflicts(bed.traffic())], over=5)
    load.reaches(0.5)
    _kill_work(bed)
    load.done()
    bed.load(events=[(n, event(f"on-{n}", "2022-08-16T15:00:00Z", "again", n)) for n in range(used)]).done()
    for _ in range(3):
        _kill_work(bed)
        before = _advances(bed)
        until("it goes on", partial(_moved, bed, before))
    bed.recovering()
    bed.all_there(bed.recount())
    until("every closed window is final", lambda: not _open_rows(bed, CLOSED))
    outcome = bed.check()
    assert not _open_rows(bed, CLOSED), "a closed window's latest row is not final"
    open_ones = bed.query("SELECT count(*) AS n FROM rollups.file_download WHERE final AND timestamp >= '2022-08-16'")
    assert not open_ones[0]["n"], "a window inside its grace period says that it is final"
    return outcome


CLOSED = "timestamp < '2022-08-16T00:00:00Z'"


def _open_rows(bed: Bed, which: str) -> int:
    """Latest rows that do not say they are final."""
    return int(bed.query(f"SELECT count(*) AS n FROM rollups.file_download WHERE NOT final AND {which}")[0]["n"])


def _moved(bed: Bed, before: int) -> bool:
    return _advances(bed) > before or not _open_rows(bed, CLOSED)


def _advances(bed: Bed) -> int:
    return int(bed.query("SELECT sum(version) AS n FROM rollup_engine.progress WHERE stage = 'rollup'")[0]["n"])


def _kill_work(bed: Bed) -> None:
    work = next(worker for worker in bed.running if worker.role == "work")
    work.kill()
    bed.restart(work)


@fault("final rows: a raw partition that goes idle, and comes back with older events")
def idle_partition(bed: Bed) -> Outcome:
    """It holds windows open for one grace period. What it then brings is not late: its own watermark says so."""
    bed.configure(grace="10s")
    bed.grace_ms = 10_000
    count = bed.events
    start = datetime(2022, 8, 14, 15, tzinfo=UTC)
    at = [(start + timedelta(seconds=3_600 * n / count)).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for n in range(count)]
    events = [
        (n % PARTITIONS, event(f"in-order-{n}", at[n], "again", n))
        for n in range(count)
        if n % PARTITIONS < PARTITIONS - 1 or n < count // 100
    ]
    woken = [(PARTITIONS - 1, event(f"woken-{n}", at[n], "again", n)) for n in range(count // 100, count, 10)]
    bed.start("route", "work")
    load = bed.load(events=events, over=40)
    until("windows close without it", lambda: bed.query("SELECT 1 FROM rollups.file_download WHERE final LIMIT 1"))
    assert load.ended is None, "they closed only as everything was idle"
    _kill_work(bed)
    load.done()
    bed.load(events=woken).done()
    bed.recovering()
    bed.until_booked(len(events) + len(woken))
    _kill_work(bed)
    until("every window is final", lambda: not _open_rows(bed, "true"))
    outcome = bed.check()
    assert not _open_rows(bed, "true"), "a closed window's latest row is not final"
    return outcome
