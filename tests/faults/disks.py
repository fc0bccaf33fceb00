"""Rows in which a disk, or what a topic holds, is lost: remembered ids, and records that retention took away."""

import asyncio
import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.acceptance.cli import until
from tests.faults import harness_recount as recounts
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_worker import Worker
from tests.faults.small_disk import small_disk

FLIPPED_BYTES = 64
STATE_DISK_MB = 16


def ids_of(bed: Bed, worker: Worker) -> Path:
    """Of all its partitions: <partition>/<slot>/ are RocksDB directories."""
    return worker.state_dir / "ids" / bed.app_id


# the remembered ids


@fault("remembered ids: directory deleted, after a SIGKILL under load")
def ids_deleted(bed: Bed) -> Outcome:
    return _with_other_ids(bed, lambda ids, older: shutil.rmtree(ids))


@fault("remembered ids: directory rolled back to an older copy")
def ids_rolled_back(bed: Bed) -> Outcome:
    def roll_back(ids: Path, older: Path) -> None:
        shutil.rmtree(ids)
        shutil.copytree(older, ids)

    return _with_other_ids(bed, roll_back)


@fault("remembered ids: bytes flipped in every SST")
def ids_corrupt_sst(bed: Bed) -> Outcome:
    return _with_other_ids(bed, lambda ids, older: flip(ids, "*.sst"))


@fault("remembered ids: bytes flipped in MANIFEST and CURRENT")
def ids_corrupt_manifest(bed: Bed) -> Outcome:
    return _with_other_ids(bed, lambda ids, older: flip(ids, "MANIFEST-*", "CURRENT"))


@fault("remembered ids: bytes flipped in the write-ahead log, OPTIONS and all else that is not data")
def ids_corrupt_rest(bed: Bed) -> Outcome:
    """The store writes no log ahead; RocksDB keeps an empty file for it."""
    return _with_other_ids(bed, lambda ids, older: flip(ids, "*.log", "OPTIONS-*", "*.json", "LOG*", "IDENTITY"))


def flip(ids: Path, *patterns: str) -> None:
    """Change bytes all over the files; one that is empty gets some."""
    rng, flipped = random.Random(1), 0
    for pattern in patterns:
        for file in sorted(ids.glob(f"*/*/{pattern}")):
            content = bytearray(file.read_bytes() or bytes(FLIPPED_BYTES))
            for _ in range(FLIPPED_BYTES):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            flipped += 1
    assert flipped >= PARTITIONS, f"{patterns} are not there"


def _with_other_ids(bed: Bed, harm: Callable[[Path, Path], object]) -> Outcome:
    """Killed under load and started again on a harmed store. Then everything is sent once more: all of it repeats.

    Clean stops before bring ids to the disk; what a kill loses was in memory only.
    """
    events = bed.traffic()
    _, work = bed.start("route", "work")
    load = bed.load(events=events, over=20)
    older = bed.directory / "older-copy"
    for share in (0.2, 0.4):
        load.reaches(share)
        bed.until_booked(int(share * len(events)) // 2)
        work.stop()
        if not older.exists():
            shutil.copytree(ids_of(bed, work), older)
        work = bed.restart(work)
    load.reaches(0.6)
    bed.until_booked(len(events) // 2)
    work.kill()
    harm(ids_of(bed, work), older)
    bed.restart(work)
    bed.recovering()
    load.done()
    once = bed.recount()
    took = bed.all_there(once)
    totals = bed.totals()
    bed.load(events=events)
    outcome = bed.check()
    assert bed.totals() == totals, "a repeat was counted"
    return Outcome(outcome.events, outcome.difference, took)


@fault("remembered ids lost while the same ids are retried in a flood", ci=True)
def lost_in_a_flood_of_retries(bed: Bed) -> Outcome:
    """What others call duplicates after a cache failover."""
    events = bed.traffic()
    _, work = bed.start("route", "work")
    bed.load(events=events, over=5).reaches(0.7)
    retries = [bed.load(events=events[: len(events) // 2], over=over) for over in (4, 6, 8)]
    for flood in retries:
        flood.reaches(0.3)
        until("its ids are open", partial(_all_open, ids_of(bed, work)))
        work.kill()
        shutil.rmtree(ids_of(bed, work))
        work = bed.restart(work, wait=False)
    bed.recovering()
    return bed.check()


def _all_open(ids: Path) -> bool:
    return len(list(ids.glob("*/0/CURRENT"))) == PARTITIONS


# what retention took


def delete_records(bed: Bed, topic: str, before: Mapping[int, int]) -> None:
    """As retention does: partition to the first offset that stays."""

    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bed.kafka.servers)
        await admin.start()
        try:
            await admin.delete_records(
                {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()}
            )
        finally:
            await admin.close()

    asyncio.run(run())


def positions(bed: Bed, stage: str, topic: str) -> dict[int, int]:
    """Partition of `topic` to the stage's next offset."""
    found = bed.query("SELECT source, next_offset FROM rollup_engine.progress WHERE stage = $1", stage)
    sources = {row["source"].rpartition("/"): row["next_offset"] for row in found}
    return {int(number): offset for (name, _, number), offset in sources.items() if name == topic}


def accept(bed: Bed, topic: str) -> None:
    for number in range(PARTITIONS):
        bed.engine.ok("accept-loss", f"{topic}/{number}", "--yes")


def all_halted(worker: Worker, *words: str) -> None:
    for number in range(PARTITIONS):
        worker.halts(*words, f"/{number}")


@fault("events retention shorter than the needed rebuild: halts, says what to do, goes on when told to")
def events_retention_too_short(bed: Bed) -> Outcome:
    _, work = bed.start("route", "work")
    bed.load().done()
    expected = bed.recount()
    bed.all_there(expected)
    work.kill()
    events = f"{bed.app_id}.events"
    shutil.rmtree(ids_of(bed, work))
    delete_records(bed, events, {number: offset - 1 for number, offset in positions(bed, "dedup", events).items()})
    work = bed.restart(work)
    all_halted(work, "cannot be rebuilt in full", f"accept-loss {events}")
    load = bed.load(seed=2)
    status = bed.engine.ok("status")
    assert f"accept-loss {events}/0" in " ".join(status.split()), status
    load.done()
    bed.unharmed(expected)
    accept(bed, events)
    bed.recovering()
    return bed.check()


@fault("raw retention overtook the reader: halts with the range named, goes on when told to", ci=True)
def raw_retention_overtook(bed: Bed) -> Outcome:
    route, _ = bed.start("route", "work")
    bed.load().done()
    before = bed.recount()
    bed.all_there(before)
    route.kill()
    reached = positions(bed, "route", bed.topic)
    bed.load(seed=2).done()
    records = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    starts = {number: (reached[number] + held[-1].offset + 1) // 2 for number, held in records.items()}
    delete_records(bed, bed.topic, starts)
    route = bed.restart(route)
    for number, start in starts.items():
        route.halts(f"{bed.topic}/{number}", f"records {reached[number]} to {start - 1} are gone", "accept-loss")
    bed.unharmed(before)
    accept(bed, bed.topic)
    bed.recovering()
    kept = {
        number: [one for one in held if not reached[number] <= one.offset < starts[number]]
        for number, held in records.items()
    }
    outcome = bed.check(recounts.recount(bed.topic, kept, bed.grace_ms))
    lost = sum(start - reached[number] for number, start in starts.items())
    status = bed.status()["file_download"]
    assert (status["lost"], status["lag"]) == (lost, 0), status
    return outcome


# room


@fault("state disk full: halts naming the disk, exact once there is room")
def state_disk_full(bed: Bed) -> Outcome:
    """Filled up under load; started again on it after a SIGKILL, and after a clean stop that could write nothing."""
    with small_disk(bed.directory / "small", STATE_DISK_MB) as disk:
        state_dir = disk.path / "state"
        _, work = bed.start("route", "work", state_dir=str(state_dir))
        load = bed.load(over=20)
        load.reaches(0.3)
        disk.fill()
        bed.until_booked(int(0.3 * bed.events))
        work.stop()  # with its ids in memory, and no room for them
        (work,) = bed.start("work", state_dir=str(state_dir))
        work.halts("disk", "ROLLUP_STATE_DIR", str(disk.path))
        assert work.running
        work.kill()
        (work,) = bed.start("work", state_dir=str(state_dir))
        all_halted(work, "disk", "ROLLUP_STATE_DIR")
        load.done()
        disk.resize(STATE_DISK_MB * 16)
        bed.recovering()
        outcome = bed.check(stop=False)
        assert work.health[0] == 200
        bed.load(events=bed.traffic())
        repeated = bed.check()
        assert repeated.difference == outcome.difference
        return outcome
