"""Rows in which dead letters are sent again."""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tests.acceptance.cli import until
from tests.faults import harness_recount as recounts
from tests.faults.events import event, minute_ms
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_load import Sendable
from tests.faults.harness_recount import Recount


@fault("dead-letters replay of late and repaired events, killed once, run twice; retries of late events")
def replayed(bed: Bed) -> Outcome:
    """Every late id counts once in the end, whichever ways it comes: a letter, two letters, the producer's retry."""
    usual = [one for one in bed.traffic() if b'"2022-08-0' not in one[1]]
    half, count = len(usual) // 2, max(200, bed.events // 100)
    late = [(n % PARTITIONS, event(f"late-{n}", "2022-08-02T15:14:00Z", "again", n)) for n in range(count)]
    broken = [(n % PARTITIONS, event(f"broken-{n}", "2022-08-14T15:14:00", "again", n)) for n in range(3)]
    refused = [*late, *broken, *late[: count // 2]]  # a late id is not remembered: its copy is late too
    bed.start("route", "work")
    bed.load(events=usual[:half]).done()
    bed.load(events=refused, over=3).done()
    load = bed.load(events=usual[half:], over=10)
    until("the late ones have letters", lambda: len(_letters(bed, "late")) == len(refused) - 3)
    _replay_late(bed)
    for letter in _letters(bed, "invalid_timestamp"):
        if letter["event_id"] is None and letter["original"].startswith(b'{"id":"broken-'):
            _repair(bed, letter["id"], letter["original"])
    load.done()
    sent_again = bed.kafka.end(f"{bed.app_id}.replays.file_download")
    bed.until_booked(len(usual) + len(refused) + sent_again)
    bed.recovering()
    bed.load(events=late).done()  # the producer knows nothing of all this
    return bed.check(_once_each(bed, refused, late, sent_again))


def _letters(bed: Bed, reason: str) -> Sequence[dict[str, Any]]:
    query = "SELECT id, event_id, original FROM rollup_engine.dead_letters WHERE app_id = $1 AND reason = $2"
    return bed.query(query, bed.app_id, reason)


def _replay_late(bed: Bed) -> None:
    """Killed between sending and noting it; then in full; then once more, with nothing left to do."""
    command = ("dead-letters", "replay", "--reason", "late")
    bed.engine.environment["ROLLUP_INJECT"] = "kill:replay.sent"
    killed = bed.engine.run(*command)
    del bed.engine.environment["ROLLUP_INJECT"]
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    bed.engine.ok(*command)
    assert bed.engine.ok(*command) == "0 dead letters sent again.\n"


def _repair(bed: Bed, letter: int, original: bytes) -> None:
    """Send it with an offset to its time; a second time it is left out."""
    file = bed.directory / "repaired.json"
    file.write_bytes(original.replace(b'15:14:00"', b'15:14:00Z"'))
    command = ("dead-letters", "replay", str(letter), "--with", str(file))
    bed.engine.ok(*command)
    twice = bed.engine.run(*command)
    assert twice.returncode == 1, twice.stdout
    assert "was replayed already" in twice.stdout + twice.stderr


def _once_each(bed: Bed, refused: Sequence[Sendable], late: Sequence[Sendable], sent_again: int) -> Recount:
    """The recount of the usual events; the refused ones refused, and of all their copies one of each id counted."""
    ours = {value for _, value in refused}
    partitions = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    usual = {number: [one for one in records if one.value not in ours] for number, records in partitions.items()}
    expected = recounts.recount(bed.topic, usual, bed.grace_ms)
    first = Counter(to for to, _ in refused)  # of each partition; what comes after them are retries
    for number, records in partitions.items():
        places = [one.offset for one in records if one.value in ours]
        expected.letters |= {(f"{bed.topic}/{number}", offset) for offset in places[: first[number]]}
    repaired, ids = 3, len(late) + 3
    expected.records += len(refused) + len(late) + sent_again
    expected.books.update(late=len(refused) - repaired, invalid=repaired, counted=ids)
    expected.books["duplicate"] += len(late) + sent_again - ids
    expected.totals[minute_ms("2022-08-02T15:10"), "again", None] = len(late), Decimal(sum(range(len(late))))
    expected.totals[minute_ms("2022-08-14T15:10"), "again", None] = repaired, Decimal(sum(range(repaired)))
    return expected
