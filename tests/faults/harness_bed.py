"""What a row works on: its own directory, topic, database, YAML and processes. Judging is in `harness_recount`."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.acceptance.cli import Engine, until
from tests.acceptance.traffic import rows, yaml
from tests.faults import harness_recount as recounts
from tests.faults.harness_load import Load, Sendable, traffic
from tests.faults.harness_recount import Difference, Recount
from tests.faults.harness_services import Kafka, Postgres
from tests.faults.harness_worker import Worker

PARTITIONS = 4
GRACE_MS = 12 * 3_600_000
GRACE = "12h"
SETTLE_SECONDS = 180
STILL_SECONDS = 3.0


@dataclass(frozen=True)
class Outcome:
    """What a row came to. `seconds`: from the end of the fault, or of the load if that is later, to all booked."""

    events: int
    difference: Difference
    seconds: float


class Bed:
    """Everything of one row: a fresh app id, raw topic, database, state directory, YAML, and the processes on them."""

    def __init__(self, kafka: Kafka, postgres: Postgres, events: int, directory: Path) -> None:
        self.kafka, self.postgres, self.events, self.directory = kafka, postgres, events, directory
        self.app_id = f"row-{uuid4().hex[:12]}"
        self.topic = f"{self.app_id}-downloads"
        self.database_url = postgres.new_database()
        self.workers: list[Worker] = []
        self.loads: list[Load] = []
        self.grace_ms: int | None = GRACE_MS
        self._recovering_since = time.monotonic()
        config = directory / "rollups"
        config.mkdir()
        self.engine = Engine(
            directory,
            config,
            database_url=self.database_url,
            kafka_bootstrap_servers=kafka.servers,
            app_id=self.app_id,
            partitions=str(PARTITIONS),
        )
        self.configure()
        kafka.create(self.topic, PARTITIONS)

    def configure(self, text: str | None = None, *, grace: str = GRACE, emit_every: str = "1s") -> None:
        """Write the YAML: the download events', or another; processes read it as they start. With another `grace`,
        set `grace_ms` to what a recount is to use."""
        content = text or yaml(emit_every=emit_every, grace_period=grace)
        file = self.engine.config / "file_download.yaml"
        file.write_text(content.replace("topic: downloads", f"topic: {self.topic}"))

    # processes

    def start(self, *roles: str, state: str | None = None, wait: bool = True, **settings: str) -> list[Worker]:
        """Start `route` and `work` processes side by side, each with a state directory of its own unless `state` names
        one; `settings` go to their environment (`inject="kill:dedup.sent:3"`). Waits until they have joined."""
        made = []
        for role in roles:
            made.append(Worker(self.engine, role, state or str(len(self.workers)), settings))
            self.workers.append(made[-1])
        if wait:
            for worker in made:
                worker.ready()
        return made

    def restart(self, worker: Worker, *, wait: bool = True, **settings: str) -> Worker:
        """A new process of the same role on the same state directory, after the old one's end."""
        assert not worker.running, "it is still running"
        return self.start(worker.role, state=worker.state, wait=wait, **settings)[0]

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running]

    def stop(self) -> None:
        """Stop every running process cleanly, all at once."""
        running = self.running
        for worker in running:
            worker.thaw()
            worker.process.send(signal.SIGTERM)
        for worker in running:
            assert worker.process.ends() == 0, worker.output

    # load

    def traffic(self, count: int | None = None, seed: int = 1) -> list[Sendable]:
        """(raw partition, value) of so many events, this row's number of them unless told otherwise."""
        return list(traffic(count or self.events, seed, PARTITIONS))

    def load(
        self,
        *,
        over: float = 0,
        count: int | None = None,
        seed: int = 1,
        events: Sequence[Sendable] | None = None,
        record_ms: int | None = None,
    ) -> Load:
        """Send `events`, or the usual traffic, in the background, spread `over` so many seconds (0: flat out).
        `record_ms`: what the records' own time is to be, other than now."""
        wanted = events if events is not None else self.traffic(count, seed)
        load = Load(self.kafka.servers, self.topic, wanted, over, record_ms)
        self.loads.append(load)
        return load

    # what is there

    def query(self, statement: str, *arguments: object) -> Sequence[dict[str, Any]]:
        return asyncio.run(rows(self.database_url, statement, *arguments))

    @property
    def booked(self) -> int:
        """Raw records in the books."""
        return asyncio.run(recounts.books_of(self.database_url, self.app_id))["records"]

    def until_booked(self, records: int, seconds: float = SETTLE_SECONDS) -> None:
        until(f"{records} records in the books", lambda: self.booked >= records, seconds)

    def status(self) -> dict[str, Any]:
        """`status --format json`, per event type."""
        found: dict[str, Any] = json.loads(self.engine.ok("status", "--format", "json"))["events"]
        return found

    def recount(self) -> Recount:
        """What the raw topic comes to, as Kafka gives it back now. Nothing acknowledged may be missing in it."""
        partitions = asyncio.run(recounts.read_topic(self.kafka.servers, self.topic))
        there = {record.value for records in partitions.values() for record in records}
        lost = [value for load in self.loads for value in load.acknowledged if value not in there]
        assert not lost, f"Kafka acknowledged {len(lost)} records and lost them, such as {lost[0]!r}"
        return recounts.recount(self.topic, partitions, self.grace_ms)

    # judging

    def recovering(self) -> None:
        """The fault ends now: seconds to recover count from here."""
        self._recovering_since = time.monotonic()

    def all_there(self, expected: Recount, seconds: float = SETTLE_SECONDS) -> float:
        """Waits until all of `expected` is booked and in the view; seconds it took since the fault's or load's end."""
        latest = {"booked": 0, "counted": 0}

        def there() -> bool:
            latest["booked"] = self.booked
            if latest["booked"] >= expected.records:
                latest["counted"] = sum(count for count, _ in self.totals().values())
            return latest["booked"] >= expected.records and latest["counted"] >= expected.counted

        try:
            until(f"{expected.records} records booked, {expected.counted} counted in the view", there, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {latest}") from None
        since = max([self._recovering_since, *(load.ended for load in self.loads if load.ended is not None)])
        return time.monotonic() - since

    def totals(self) -> dict[recounts.Group, recounts.Total]:
        return asyncio.run(recounts.totals_of(self.database_url))

    def check(
        self,
        expected: Recount | None = None,
        *,
        stop: bool = True,
        routed: bool = True,
        seconds: float = SETTLE_SECONDS,
    ) -> Outcome:
        """Waits for the load and the engine, stops it, and compares everything with the recount.

        `expected`: another recount than that of the topic as it is at the end of the load. `routed`: route's own count
        must agree too. Raises AssertionError for whatever differs besides the totals, which the outcome tells.
        """
        for load in self.loads:
            load.done()
        expected = expected or self.recount()
        faults: list[str] = []
        try:
            took = self.all_there(expected, seconds)
        except AssertionError as error:  # the comparison says what is missing
            faults.append(str(error))
        if routed and not faults:
            self._agrees(expected)
        if stop and not faults:
            self.stop()
        found = recounts.difference(expected.totals, self.totals())
        faults += self._wrong_books(expected)
        faults += asyncio.run(recounts.faults_of_series(self.database_url))
        assert not faults, "; ".join([*faults, f"difference to the recount: {found}"])
        return Outcome(expected.records, found, took)

    def _agrees(self, expected: Recount) -> None:
        """Waits until `status` shows what was received, by dedup's count and by route's: that one comes with route's
        advance, which a new session may still owe for what dedup has booked."""
        latest: dict[str, int] = {}

        def agree() -> bool:
            latest.update(recounts.seen(self.status()))
            return latest["routed"] == latest["received"] == expected.records

        try:
            until("route's count and the books agree", agree)
        except AssertionError as error:
            raise AssertionError(f"{error}: {latest}, and the topic holds {expected.records} records") from None

    def _wrong_books(self, expected: Recount) -> list[str]:
        books = asyncio.run(recounts.books_of(self.database_url, self.app_id))
        return recounts.wrong_books(expected, books, asyncio.run(recounts.letters_of(self.database_url, self.app_id)))

    def unharmed(self, expected: Recount, *, books: bool = True) -> Outcome:
        """After a halt: everything is as it was, and stays so while more comes in; nothing is stopped. `books`: these
        too; they go on where only rollup stands still."""
        took = time.monotonic() - self._recovering_since
        time.sleep(STILL_SECONDS)  # nothing is to happen, so there is nothing to wait for
        for load in self.loads:
            load.stop()
        faults = self._wrong_books(expected) if books else []
        faults += asyncio.run(recounts.faults_of_series(self.database_url))
        assert not faults, "; ".join(faults)
        return Outcome(expected.records, recounts.difference(expected.totals, self.totals()), took)

    def close(self, *, keep: bool) -> None:
        """End what runs; `keep` leaves the logs for whoever looks for the reason."""
        for load in self.loads:
            load.stop()
        self.engine.close()
        if not keep:
            self.postgres.drop(self.database_url)
            shutil.rmtree(self.directory)
