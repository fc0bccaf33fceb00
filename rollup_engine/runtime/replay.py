"""Sends dead letters again, each once, by way of a topic that is exempt from lateness.

    1 lock a batch of letters that were not sent yet     in one transaction,
    2 append each to its event type's replays topic      all acknowledged,
    3 note when and where it went, commit                so that a crash in between repeats 2, which dedup books as
                                                         a duplicate

From there on a letter is an event like any other. Judges nothing, and never sends what is bound to be refused again.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from rollup_engine import injection
from rollup_engine.clock import Clock
from rollup_engine.config.durations import format_duration
from rollup_engine.config.model import Config, EventType
from rollup_engine.dedup.verdicts import CONFLICTING
from rollup_engine.errors import ConfigError, RollupError, UsageError
from rollup_engine.ports import Reader, Record
from rollup_engine.route.router import EVENT, REJECTED, Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection, some_time
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.memory import MemoryRecord
from rollup_engine.topology import record_at, replays, replays_topic, source_name, split_source

BATCH = 200  # letters under one lock and in memory, with up to 512 KiB of each one's event
SENTENCES_MAX = 20
Letter = Mapping[str, Any]  # a row of dead_letters


@dataclass(frozen=True)
class Wanted:
    """Which letters: `ids`, or else all of `event` and `reason` (or outcome) where given. And how.

    `repaired`: the event to send instead of the original, for exactly one id. `as_event`: the event type of letters
    that belong to none.
    """

    ids: tuple[int, ...] = ()
    event: str | None = None
    reason: str | None = None
    repaired: bytes | None = None
    as_event: str | None = None
    may_double_count: bool = False


@dataclass
class Outcome:
    """What became of them. `left_out` counts letters per cause; `sentences` has the first few of each."""

    sent: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, cause: str, sentence: str) -> None:
        self.left_out[cause] += 1
        kept = self.sentences.setdefault(cause, [])
        if len(kept) < SENTENCES_MAX:
            kept.append(sentence)


class LeftOut(Exception):
    """A letter that is not sent: a cause that many can share, and a sentence about this one."""

    def __init__(self, cause: str, sentence: str) -> None:
        self.cause, self.sentence = cause, sentence
        super().__init__(sentence)


async def replay(
    pool: "asyncpg.Pool[asyncpg.Record]", log: KafkaLog, app_id: str, clock: Clock, wanted: Wanted
) -> Outcome:
    """Send again what is `wanted`. Raises `RollupError` where the app id has not run on this Kafka and database."""
    query = sql.queries("registry")
    latest = await pool.fetchrow(query["latest_generation"], app_id)
    if latest is None:
        raise RollupError(f"App id {app_id!r} has not run on this database yet. Start `rollup-engine up`.")
    cluster = await pool.fetchval(query["cluster"], app_id)
    if cluster != log.cluster.cluster_id:
        raise ConfigError(
            f"App id {app_id!r} belongs to Kafka cluster {cluster}, and this is {log.cluster.cluster_id}. Start"
            " `rollup-engine up`, or set ROLLUP_KAFKA_BOOTSTRAP_SERVERS to that cluster."
        )
    config = Config.from_json(latest["config"])
    rules = Rules(app_id, config, wanted)
    originals = _Originals(log, config.buckets)
    try:
        return await _Replay(pool, log, app_id, clock, rules, originals).run(wanted)
    finally:
        await originals.close()


class Rules:
    """What may be sent again, and as what. Pure."""

    def __init__(self, app_id: str, config: Config, wanted: Wanted) -> None:
        """Raises `UsageError` for an `as_event` that there is not."""
        self._config, self._wanted = config, wanted
        self._events = {event.event: event for event in config.events}
        if wanted.as_event is not None and wanted.as_event not in self._events:
            known = ", ".join(sorted(self._events))
            raise UsageError(f"--as-event {wanted.as_event!r} is no event type of the YAML. There are: {known}.")
        self._routers = {event.event: Router(topic, [event], 1) for topic, event in replays(app_id, config).items()}

    def check(self, letter: Letter, now_ms: int) -> EventType:
        """The event type to send a letter as. Raises `LeftOut`."""
        name = f"Dead letter {letter['id']}"
        if letter["replayed_at"] is not None:
            raise LeftOut(
                "replayed already",
                f"{name} was replayed already, at {letter['replayed_at']:%Y-%m-%dT%H:%M:%SZ}, to"
                f" {letter['replayed_to']}. A letter is sent once.",
            )
        event = self._event_of(letter, name)
        if not self._wanted.may_double_count:
            recorded_at = min(letter["recorded_at"], letter["created_at"])  # a producer may write any record time
            if recorded_at.timestamp() * 1000 < now_ms - event.horizon_ms:
                raise LeftOut(
                    "older than dedup_horizon",
                    f"{name} was recorded at {letter['recorded_at']:%Y-%m-%dT%H:%M:%SZ}, which is more than"
                    f" {format_duration(event.horizon_ms)} (dedup_horizon) ago: were its id counted meanwhile, nobody"
                    " would remember. Make sure that it was not, and add --may-double-count.",
                )
            if letter["outcome"] == CONFLICTING and self._wanted.repaired is None:
                raise LeftOut(
                    "conflict",
                    f"{name} is another version of an event that was counted, and would be refused again. To have it"
                    " counted beside that one, give it an id of its own and send it by --with FILE.",
                )
        return event

    def _event_of(self, letter: Letter, name: str) -> EventType:
        whose, as_event = letter["event"], self._wanted.as_event
        if whose in self._events:
            if as_event not in (None, whose):
                raise LeftOut("of another event type", f"{name} is of event type {whose!r}; leave --as-event away.")
            return self._events[whose]
        if as_event is not None:
            return self._events[as_event]
        topic = whose.removeprefix("topic:")
        those = [event for event in self._config.events if topic in event.topics] if topic != whose else []
        if len(those) == 1:
            return those[0]
        among = ", ".join(event.event for event in those or self._config.events)
        raise LeftOut(
            "of no event type",
            f"{name} is of no event type that there is ({whose}). Say which one it is, by --as-event: {among}.",
        )

    def foresee(self, letter: Letter, event: EventType, value: bytes, now_ms: int) -> None:
        """Raises `LeftOut` for what route would refuse: sending it would only make another letter of it."""
        record = MemoryRecord(0, now_ms, value)
        tables = self._routers[event.event].route(RouteState(), [record], now_ms).tables[0]
        if (rejected := tables.get(REJECTED)) is not None:
            reason, detail = rejected["reason"][0], rejected["detail"][0]
        elif tables[EVENT + event.event]["future"][0]:
            reason, detail = "future_timestamp", "its time is still more than max_future ahead"
        else:
            return
        what = "repaired event" if self._wanted.repaired is not None else "event"
        raise LeftOut(
            f"would be refused again: {reason}",
            f"Dead letter {letter['id']}'s {what} would be refused again, {reason}: {detail}. Repair it, and send it by"
            " --with FILE.",
        )


class _Replay:
    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        log: KafkaLog,
        app_id: str,
        clock: Clock,
        rules: Rules,
        originals: "_Originals",
    ) -> None:
        self._pool, self._log, self._app_id, self._clock = pool, log, app_id, clock
        self._rules, self._originals = rules, originals
        self._query = sql.queries("replay")
        self._topics: set[str] = set()
        self._outcome = Outcome()

    async def run(self, wanted: Wanted) -> Outcome:
        ids = sorted(set(wanted.ids))
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            found = await self._batch(wanted, "named", part)
            for number in set(part).difference(found):
                self._outcome.leave("not there", f"There is no dead letter {number}.")
        last = 0
        # Up to the newest as of now: a letter that is refused again is another letter, and would go round for ever.
        newest = 0 if ids else await self._pool.fetchval(self._query["newest"], self._app_id)
        while last < newest:
            found = await self._batch(wanted, "next", last, newest, wanted.event, wanted.reason, BATCH)
            last = found[-1] if found else newest
        return self._outcome

    async def _batch(self, wanted: Wanted, query: str, *arguments: object) -> list[int]:
        """The ids of the letters found, whatever became of them."""
        async with self._pool.acquire() as connection, connection.transaction():
            letters = [dict(row) for row in await connection.fetch(self._query[query], self._app_id, *arguments)]
            sendable = []
            for letter in letters:
                try:
                    sendable.append((letter["id"], *await self._prepared(letter, wanted)))
                except LeftOut as left_out:
                    self._outcome.leave(left_out.cause, left_out.sentence)
            if sendable:
                await self._send(connection, sendable)
        self._outcome.sent += len(sendable)
        return [letter["id"] for letter in letters]

    async def _prepared(self, letter: Letter, wanted: Wanted) -> tuple[str, bytes]:
        """Topic and event. Raises `LeftOut`."""
        now_ms = self._clock.now_ms()
        event = self._rules.check(letter, now_ms)
        value = wanted.repaired if wanted.repaired is not None else await self._originals.of(letter)
        self._rules.foresee(letter, event, value, now_ms)
        topic = replays_topic(self._app_id, event.event)
        if topic not in self._topics:
            if not await self._log.partitions(topic):
                raise RollupError(
                    f"Kafka has no topic {topic}, which `rollup-engine up` and `route` make as they start. Start one."
                )
            self._topics.add(topic)
        return topic, value

    async def _send(self, connection: Connection, letters: Sequence[tuple[int, str, bytes]]) -> None:
        appends = [self._log.append(topic, 0, value) for _, topic, value in letters]
        offsets = await asyncio.gather(*appends, return_exceptions=True)  # none goes on behind our back after a failure
        for offset in offsets:
            if isinstance(offset, BaseException):
                raise offset
        injection.passing("replay.sent")
        places = [f"{source_name(topic, 0)} {offset}" for (_, topic, _), offset in zip(letters, offsets, strict=True)]
        await connection.execute(self._query["replayed"], [number for number, _, _ in letters], places)


class _Originals:
    """The bytes that letters are about: from the letter, or else from the raw topic, if they are still there."""

    def __init__(self, log: KafkaLog, buckets: Collection[str]) -> None:
        """`buckets`: the raw topics that are buckets."""
        self._log, self._buckets = log, buckets
        self._readers: dict[str, Reader] = {}

    async def of(self, letter: Letter) -> bytes:
        """Raises `LeftOut` where they are gone."""
        kept: bytes | None = letter["original"]
        if kept is not None and len(kept) == letter["original_bytes"]:
            return kept
        if split_source(letter["source"])[0] in self._buckets:
            raise LeftOut(
                "the original is in the bucket alone",
                f"Dead letter {letter['id']}'s event is in the bucket alone: `dead-letters show {letter['id']}` says in"
                " which object and line. Send it by --with FILE.",
            )
        value = await self._read(letter["source"], letter["source_offset"], letter)
        if value is None:
            raise LeftOut(
                "the original is gone",
                f"Dead letter {letter['id']}'s event is no longer in Kafka at {letter['source']}, offset"
                f" {letter['source_offset']}. Send it by --with FILE.",
            )
        return value

    async def _read(self, source: str, offset: int, letter: Letter) -> bytes | None:
        topic, partition = split_source(source)
        if partition >= await self._log.partitions(topic):
            return None
        start, end = await self._log.bounds(topic, partition)
        if not start <= offset < end:
            return None
        if source not in self._readers:
            self._readers[source] = await self._log.reader(topic, partition, offset)
        reader = self._readers[source]
        reader.seek(offset)
        found = await record_at(reader, source, offset)
        return found.value or b"" if found is not None and _is_of(letter, found) else None

    async def close(self) -> None:
        for reader in self._readers.values():
            await reader.close()


def _is_of(letter: Letter, record: Record) -> bool:
    """Whether a record is the one that the letter is about: an offset says nothing once a topic was made again."""
    known = letter["original_sha256"]
    same_time = letter["recorded_at"] == some_time(record.timestamp)  # as it was written
    return same_time and known in (None, hashlib.sha256(record.value or b"").hexdigest())
