"""Rows in which PostgreSQL cuts off, stops, refuses or is full, and letters or a second engine meet it oddly."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from rollup_engine.runtime.embedded import start_database
from tests.acceptance.cli import until
from tests.acceptance.traffic import rows, send
from tests.contract.tcp_proxy import COMMIT, Fault, Proxy
from tests.faults.events import event, expected, reasons, spread
from tests.faults.harness import Bed, Outcome, fault
from tests.faults.small_disk import small_disk

WORKER_BYTES_MAX = 1_500 << 20
CUTS: tuple[Fault, ...] = ("lose the answer", "lose the commit")
CUTS_EACH = 3
BEGIN = COMMIT.replace(b"\x0cCOMMIT", b"\x0bBEGIN")
ROLLBACK = COMMIT.replace(b"\x0cCOMMIT", b"\x0eROLLBACK")
STATE = b'\x01{"'  # jsonb among the parameters of an advance; one that is not in a transaction commits itself
DOWN_SECONDS = 60.0
DOWN_SECONDS_CI = 15.0
CI_EVENTS = 20_000
DATABASE_DISK_MB = 48
LOCKED_SECONDS = 10.0


# a COMMIT whose outcome is unknown


class CutsPerStage(Proxy):
    """Knows which stage's advance is committed, by the parameter of its compare-and-set, and cuts many of them."""

    def __init__(self, host: str, port: int, stages: Sequence[str], rng: random.Random) -> None:
        super().__init__(host, port)
        self._stages, self._rng = stages, rng
        self.cut: Counter[tuple[str, Fault]] = Counter()
        self.cutting = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super().serve(_Watched(reader, self), writer)

    def passes(self, stage: str, at: bytes) -> None:
        """A commit of the stage is next: now and then, it meets a fault."""
        fault = self._rng.choice(CUTS)
        if self.cutting and (self._rng.random() < 0.1 or self.cut[stage, fault] < CUTS_EACH):
            self.order(fault, at)
            self.cut[stage, fault] += 1

    @property
    def enough(self) -> bool:
        return all(self.cut[stage, fault] >= CUTS_EACH for stage in self._stages for fault in CUTS)


class _Watched(asyncio.StreamReader):
    """What the client sends, read along."""

    def __init__(self, reader: asyncio.StreamReader, proxy: CutsPerStage) -> None:
        super().__init__()
        self._from, self._cuts, self._stage, self._begun = reader, proxy, "", False

    async def read(self, n: int = -1) -> bytes:
        data = await self._from.read(n)
        if BEGIN in data:
            self._stage, self._begun = "", True
        for stage in ("route", "dedup", "rollup"):
            if len(stage).to_bytes(4, "big") + stage.encode() in data:
                self._stage = stage
        commit = COMMIT if self._begun else STATE
        if commit in data and self._stage:
            self._cuts.passes(self._stage, commit)
            self._stage = ""
        if COMMIT in data or ROLLBACK in data:
            self._begun = False
        return data


@contextmanager
def cutting(database_url: str, stages: Sequence[str], seed: int) -> Iterator[tuple[str, CutsPerStage]]:
    """(URL through the proxy, proxy), in a thread of its own."""
    parts = urlsplit(database_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = CutsPerStage(parts.hostname, parts.port, stages, random.Random(seed))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    run = asyncio.run_coroutine_threadsafe
    server = run(asyncio.start_server(proxy.serve, "127.0.0.1", 0), loop).result()
    port = server.sockets[0].getsockname()[1]
    try:
        yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}")), proxy
    finally:
        loop.call_soon_threadsafe(server.close)
        run(proxy.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@fault("reply to COMMIT cut, COMMIT cut, at random, in transactions of route, dedup and rollup", ci=True)
def commits_cut(bed: Bed) -> Outcome:
    with (
        cutting(bed.database_url, ["route"], 1) as (for_route, routes),
        cutting(bed.database_url, ["dedup", "rollup"], 2) as (for_work, works),
    ):
        bed.start("route", database_url=for_route)
        bed.start("work", database_url=for_work)
        bed.load(over=15).done()
        until(
            "every kind of cut has been there often enough",
            lambda: routes.enough and works.enough,
        )
        for proxy in (routes, works):
            proxy.cutting = False
        bed.recovering()
        assert 'doing": "advance' in bed.workers[0].output, "no transaction was cut off"
        return bed.check()


# away


@dataclass
class Memory:
    """The most that each of the bed's processes took, sampled."""

    bed: Bed
    most: dict[int, int] = field(default_factory=dict)

    def sample(self) -> bool:
        for worker in self.bed.running:
            pid = worker.process.popen.pid
            self.most[pid] = max(self.most.get(pid, 0), psutil.Process(pid).memory_info().rss)
        return True

    def for_seconds(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        until("the end of the outage", lambda: self.sample() and time.monotonic() >= ends, seconds + 60)

    def bounded(self) -> None:
        worst = max(self.most.values())
        assert worst < WORKER_BYTES_MAX, f"a worker grew to {worst >> 20} MiB"


def all_running(bed: Bed) -> None:
    for worker in bed.workers:
        assert worker.running, worker.output


@fault("PostgreSQL stopped for a minute under load", own_database=True)
def postgres_stopped(bed: Bed) -> Outcome:
    """All of the load arrives meanwhile; nobody takes it in ahead of the database."""
    bed.start("route", "work")
    load = bed.load(over=10)
    load.reaches(0.3)
    bed.postgres.server.stop()
    memory = Memory(bed)
    memory.for_seconds(DOWN_SECONDS_CI if bed.events <= CI_EVENTS else DOWN_SECONDS)
    all_running(bed)
    _start_again(bed)
    bed.recovering()
    load.done()
    until("everything is booked", lambda: memory.sample() and bed.booked >= bed.events, 180)
    memory.bounded()
    assert all("database fault, trying again" in worker.output for worker in bed.workers)
    return bed.check()


@fault("PostgreSQL restarted under load, four times, twice without a goodbye", own_database=True)
def postgres_restarted(bed: Bed) -> Outcome:
    bed.start("route", "work")
    load = bed.load(over=20)
    for number in range(4):
        load.reaches((1 + number) / 6)
        if number % 2:
            os.kill(bed.postgres.server.pid, signal.SIGQUIT)  # "immediate": it replays its log
        bed.postgres.server.stop()
        _start_again(bed)
    bed.recovering()
    outcome = bed.check()
    all_said = [worker.output.count("database fault, trying again") for worker in bed.workers]
    assert all(all_said), f"not everyone noticed: {all_said}"
    return outcome


def _start_again(bed: Bed) -> None:
    port = bed.postgres.server.port
    bed.postgres.server = start_database(bed.postgres.directory)
    assert bed.postgres.server.port == port


# refusing


@fault("PostgreSQL fails with serialization errors and deadlocks, within a transaction and at its COMMIT")
def serialization_errors(bed: Bed) -> Outcome:
    bed.start("route", "work")
    load = bed.load(over=12)
    load.reaches(0.1)
    bed.query(
        """CREATE FUNCTION fail_at_random() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF random() < 0.1 THEN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END IF;
            IF random() < 0.1 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF;
            RETURN NEW;
        END $$"""
    )
    at_once = "CREATE TRIGGER at_once BEFORE UPDATE ON rollup_engine.progress"
    at_commit = (
        "CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON rollup_engine.progress DEFERRABLE INITIALLY DEFERRED"
    )
    for trigger in (at_once, at_commit):
        bed.query(f"{trigger} FOR EACH ROW EXECUTE FUNCTION fail_at_random()")
    load.done()
    until("everyone has met some", lambda: all(worker.output.count("trying again") >= 5 for worker in bed.workers))
    bed.until_booked(bed.events)  # it goes on all the same
    for name in ("at_once", "at_commit"):
        bed.query(f"DROP TRIGGER {name} ON rollup_engine.progress")
    bed.recovering()
    return bed.check()


@fault("PostgreSQL's disk full (SQLSTATE 53100) under load")
def database_disk_full(bed: Bed) -> Outcome:
    """Its tables are on a disk that fills up; its own log is not, for without that it would end altogether."""
    size_mb = DATABASE_DISK_MB + bed.events // 1_000
    with (
        small_disk(bed.postgres.directory / f"small-{bed.app_id}", size_mb) as disk,
        _tables_on(bed, disk.path / "tables"),
    ):
        _, work = bed.start("route", "work")
        load = bed.load(over=12)
        load.reaches(0.3)
        disk.fill()
        until("the disk is full", lambda: "No space left on device" in work.output, 90)
        memory = Memory(bed)
        load.done()
        memory.for_seconds(DOWN_SECONDS_CI / 3 if bed.events <= CI_EVENTS else DOWN_SECONDS)
        all_running(bed)
        assert _short_of_room(bed), "the disk was not full"
        disk.empty()
        bed.recovering()
        outcome = bed.check()
        memory.bounded()
        return outcome


def _short_of_room(bed: Bed) -> bool:
    """Not everything could be booked; or there is not even room for a new connection's files."""
    try:
        return bed.booked < bed.events
    except asyncpg.DiskFullError:
        return True


@contextmanager
def _tables_on(bed: Bed, place: Path) -> Iterator[None]:
    """The bed's database, in a tablespace in this directory."""
    name = urlsplit(bed.database_url).path[1:]

    def administer(statement: str) -> None:
        asyncio.run(rows(bed.postgres.server.database_url, statement))

    place.mkdir(0o700)
    if os.geteuid() == 0:
        owner = bed.postgres.server.data_dir.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
    administer(f"CREATE TABLESPACE \"{bed.app_id}\" LOCATION '{place}'")
    administer(f'ALTER DATABASE "{name}" SET TABLESPACE "{bed.app_id}"')
    try:
        yield
    finally:
        bed.engine.close()
        bed.postgres.drop(bed.database_url)
        administer(f'DROP TABLESPACE "{bed.app_id}"')


# dead letters


@fault("dead letters cannot be written: their table is locked by another session for a while")
def letters_locked(bed: Bed) -> Outcome:
    bed.start("route", "work")
    load = bed.load(over=6)
    load.reaches(0.2)
    bed.until_booked(bed.events // 20)
    memory = Memory(bed)

    async def lock() -> None:
        connection = await asyncpg.connect(bed.database_url)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE rollup_engine.dead_letters IN ACCESS EXCLUSIVE MODE")
                await asyncio.to_thread(memory.for_seconds, LOCKED_SECONDS)
                assert await asyncio.to_thread(lambda: bed.booked) < bed.events, "letters were dropped, or not needed"
        finally:
            await connection.close()

    asyncio.run(lock())
    bed.recovering()
    memory.bounded()
    all_running(bed)
    return bed.check()


NOWHERE = "\x00"
ODD: list[bytes] = [
    b'{"id":"' + b"x" * (10 << 20),  # 10 MB, malformed
    b'{"id":"\xff\xfe","customer":"odd","download_timestamp":"2022-08-14T15:00:00Z","bytes_downloaded":1}',
    b"\xed\xa0\x80" * 50,
    b"\x00",
    b'{"id":"a\x00b"}',
    event(f"a{NOWHERE}b"),
    event("odd customer", customer=NOWHERE),
    event("odd speed", download_speed=f"fast{NOWHERE}"),
    event("odd time", at=f"2022-08-14{NOWHERE}"),
    json.dumps({NOWHERE: NOWHERE, "id": "odd key"}).encode(),
    event("odd number", size="1e999999999999"),
    event("half a pair").replace(b"half a pair", b"\\ud800"),
]


@fault("dead letters of oversized and odd values: each is there in full, and its neighbours count", ci=True)
def odd_letters(bed: Bed) -> Outcome:
    """In every raw partition, in the middle of the load, each between good ones."""
    bed.start("route", "work")
    events = bed.traffic()
    half = len(events) // 2
    bed.load(events=events[:half], over=3).done()
    asyncio.run(send(bed.kafka.servers, spread([one for one in ODD for _ in range(4)]), bed.topic))
    bed.load(events=events[half:], over=3)
    bed.recovering()
    outcome = bed.check(expected(bed, ODD))
    _all_told(bed)
    return outcome


def _all_told(bed: Bed) -> None:
    """Whatever has no text says where its bytes are; the small ones are kept."""
    letters: Sequence[dict[str, Any]] = bed.query(
        "SELECT reason, detail, original, original_bytes FROM rollup_engine.dead_letters WHERE app_id = $1", bed.app_id
    )
    assert all(letter["reason"] and letter["detail"] for letter in letters)
    assert reasons(bed)["record_too_large"] == 4, reasons(bed)
    kept = Counter(bytes(letter["original"]) for letter in letters if letter["original"] is not None)
    missing = [one[:80] for one in ODD if len(one) < 1 << 20 and kept[one] != 4]
    assert not missing, f"not kept: {missing}"


# a second engine


@fault("two engines with the same app id and another YAML: the second refuses, naming the difference", ci=True)
def another_yaml(bed: Bed) -> Outcome:
    bed.start("route", "work")
    load = bed.load(over=8)
    load.reaches(0.3)
    bed.configure(grace="6h")
    for role in ("route", "work"):
        done = bed.engine.run(role)
        assert done.returncode == 2, (done.returncode, done.stderr)
        for words in (bed.app_id, "another YAML", "'file_download' differs in", "grace", "ROLLUP_APP_ID"):
            assert words in done.stderr, f"{words!r} is not in {done.stderr}"
    all_running(bed)
    bed.recovering()
    return bed.check()
