"""Rows of the processes' own life: rollouts, and `up` as a whole, with a broker that outlives it or does not."""

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psutil

from rollup_engine.runtime.embedded import adopt_broker
from tests.acceptance.cli import Engine, Process
from tests.faults import harness_recount as recounts
from tests.faults.events import without_conflicts
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_load import Sendable
from tests.faults.harness_recount import Raw
from tests.faults.harness_services import EMBEDDED, Kafka

# rollouts


@fault("usage acknowledged and then lost on a rollout: route and work rolled over under load", ci=True)
def rollout(bed: Bed) -> Outcome:
    """Each process in turn: SIGTERM, exit status 0, a new one on its state directory."""
    old = bed.start("route", "route", "work", "work")
    load = bed.load(over=20)
    for number, worker in enumerate(old):
        load.reaches((number + 1) / 6)
        worker.stop()
        bed.restart(worker)
    bed.recovering()
    return bed.check()


# `up`


@dataclass
class Up:
    """`up` with an embedded broker, in place of the bed's processes; its database is the bed's."""

    bed: Bed
    lives: list[dict[int, list[Raw]]] = field(default_factory=list)  # of the broker: the raw topic at its end

    def __post_init__(self) -> None:
        bed, directory = self.bed, self.bed.directory / "up"
        directory.mkdir()
        self.engine = bed.engine = Engine(
            directory, bed.engine.config, database_url=bed.database_url, app_id=bed.app_id, partitions=str(PARTITIONS)
        )

    def start(self) -> Process:
        process = self.engine.up()
        self.bed.kafka = Kafka(EMBEDDED, self.engine.endpoints()["kafka"])
        return process

    def keep(self) -> None:
        """Remember what the broker holds, before it ends."""
        self.lives.append(asyncio.run(recounts.read_topic(self.bed.kafka.servers, self.bed.topic)))

    def exact(self, took: float) -> Outcome:
        """Everything in all lives of the broker, by one recount: ids and watermarks outlive it."""
        whole: dict[int, list[Raw]] = {}
        places: dict[tuple[str, int], tuple[str, int]] = {}
        for life in self.lives:
            for number, records in life.items():
                known = whole.setdefault(number, [])
                for one in records:
                    source = f"{self.bed.topic}/{number}"
                    places[source, len(known)] = source, one.offset
                    known.append(replace(one, offset=len(known)))
        expected = recounts.recount(self.bed.topic, whole, self.bed.grace_ms)
        books = asyncio.run(recounts.books_of(self.bed.database_url, self.bed.app_id))
        kinds = {kind: books[kind] for kind in recounts.KINDS}
        assert kinds == {kind: expected.books[kind] for kind in recounts.KINDS}, (
            f"books {kinds}, recount {expected.books}"
        )
        assert books["records"] == expected.records, (books["records"], expected.records)
        letters = Counter(asyncio.run(recounts.letters_of(self.bed.database_url, self.bed.app_id)))
        wanted = Counter(places[letter] for letter in expected.letters)
        assert letters == wanted, f"dead letters: {len(wanted - letters)} missing, {len(letters - wanted)} too many"
        faults = asyncio.run(recounts.faults_of_series(self.bed.database_url))
        assert not faults, faults
        return Outcome(expected.records, recounts.difference(expected.totals, self.bed.totals()), took)


def halves(bed: Bed) -> tuple[list[Sendable], list[Sendable]]:
    """The first half; the other, with many of the first once more. No conflicts across them."""
    events = without_conflicts(bed.traffic())
    half = len(events) // 2
    return events[:half], [*events[half:], *random.Random(5).sample(events[:half], half // 3)]


@fault("`up` stopped under load and started again: the broker is a new one")
def up_stopped(bed: Bed) -> Outcome:
    up = Up(bed)
    first, second = halves(bed)
    process = up.start()
    bed.load(events=first).done()
    up.keep()
    assert process.stop() == 0, process.output
    assert adopt_broker(up.engine.state_dir) is None
    process = up.start()
    bed.recovering()
    bed.load(events=second).done()
    up.keep()
    started = time.monotonic()
    assert process.stop() == 0, process.output
    return up.exact(time.monotonic() - started)


@fault("`up` killed under load and started again: the broker has outlived it")
def up_killed(bed: Bed) -> Outcome:
    up = Up(bed)
    first, second = halves(bed)
    process = up.start()
    before = adopt_broker(up.engine.state_dir)
    load = bed.load(events=[*first, *second], over=10)
    load.reaches(0.4)
    process.send(signal.SIGKILL)
    process.ends()
    process = up.start()
    after = adopt_broker(up.engine.state_dir)
    assert before is not None
    assert after is not None
    assert before.incarnation == after.incarnation
    bed.recovering()
    outcome = bed.check(stop=False)
    assert process.stop() == 0, process.output
    return outcome


@fault("`up`, its roles and the broker killed when all was booked, and started again")
def up_and_broker_killed(bed: Bed) -> Outcome:
    """Positions begin again, ids and totals stay: what comes once more is a duplicate, what is new is counted."""
    up = Up(bed)
    first, second = halves(bed)
    process = up.start()
    bed.load(events=first).done()
    bed.all_there(bed.recount())
    up.keep()
    kill_all(up, process)
    process = up.start()
    bed.recovering()
    load = bed.load(events=second)
    load.done()
    bed.until_booked(len(first) + len(second))
    took = time.monotonic() - (load.ended or 0.0)
    up.keep()
    assert process.stop() == 0, process.output
    return up.exact(took)


def kill_all(up: Up, process: Process) -> None:
    """SIGKILL to `up`, its roles and the broker, in one moment."""
    broker = adopt_broker(up.engine.state_dir)
    assert broker is not None
    ones = [psutil.Process(broker.pid), *process.children(), psutil.Process(process.popen.pid)]
    for one in ones:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.ends()
    psutil.wait_procs(ones, 10)
