"""What the demo sends: the log's events as raw records, with the faults of real traffic at seeded places.

Owns the disturbances and the books they must lead to. It must never ask the engine for those: every record is booked
here as it is made.
"""

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.access_log.convert import DownloadEvent, encode, events_of_log

RAW_PARTITIONS = 4
DUPLICATE_SHARE = 0.05
CONFLICTING_SHARE = 0.01
MALFORMED_SHARE = 0.01
UNMATCHED_SHARE = 0.005

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """Raw records in sending order, each with its raw partition, and the books that must come of them.

    `expected_books` has received, counted, duplicate, conflicting, late, invalid (they balance) and unmatched, for the
    topic as a whole: a record that is not even JSON cannot be attributed to an event type and is among the invalid.
    It holds as long as all records are sent within the dedup horizon, with the time of sending as their record time.
    """

    records: list[tuple[int, bytes]]
    expected_books: dict[str, int]


def demo_traffic(log_path: Path, seed: int = 7) -> Traffic:
    """The log's events in their order on random partitions, and among them, drawn from `seed`:

    - 5 % exact duplicates, anywhere, on any partition;
    - 1 % conflicting duplicates (same id, other bytes), after their original **on its partition**: between partitions
      there is no order, and which of two versions came first, and so counts, would be left to chance;
    - 1 % malformed records, of every sort in `MALFORMED` in turn;
    - 0.5 % events of another kind that share the topic and match no event type.

    Raises:
        UnreadableLine, OSError: from reading the log.
    """
    rng = random.Random(seed)
    events = list(events_of_log(log_path))
    total = len(events)
    partitions = [rng.randrange(RAW_PARTITIONS) for _ in events]
    books = dict.fromkeys(("received", "counted", "duplicate", "conflicting", "late", "invalid", "unmatched"), 0)
    # (place in the stream, partition, record); event i is at place i, and a stable sort keeps it before what ties.
    placed: list[tuple[float, int, bytes]] = []

    def place(verdict: str, at: float, partition: int, record: bytes) -> None:
        books[verdict] += 1
        if verdict != "unmatched":
            books["received"] += 1
        placed.append((at, partition, record))

    for index, event in enumerate(events):
        place("counted", index, partitions[index], encode(event))
    for _ in range(round(total * DUPLICATE_SHARE)):
        record = encode(rng.choice(events))
        place("duplicate", rng.uniform(0, total), rng.randrange(RAW_PARTITIONS), record)
    for index in rng.sample(range(total), round(total * CONFLICTING_SHARE)):
        place("conflicting", rng.uniform(index, total), partitions[index], encode(_conflicting(events[index], rng)))
    for number in range(round(total * MALFORMED_SHARE)):
        sort = tuple(MALFORMED)[number % len(MALFORMED)]
        record = MALFORMED[sort](_fresh(rng.choice(events), rng))
        place("invalid", rng.uniform(0, total), rng.randrange(RAW_PARTITIONS), record)
    for _ in range(round(total * UNMATCHED_SHARE)):
        record = _json(_fresh(rng.choice(events), rng) | {"event_name": "heartbeat"})
        place("unmatched", rng.uniform(0, total), rng.randrange(RAW_PARTITIONS), record)

    placed.sort(key=lambda entry: entry[0])
    return Traffic([(partition, record) for _, partition, record in placed], books)


def _conflicting(event: DownloadEvent, rng: random.Random) -> DownloadEvent:
    other = event.copy()
    other["bytes_downloaded"] = event.get("bytes_downloaded", 0) + rng.randint(1, 10_000)
    return other


def _fresh(event: DownloadEvent, rng: random.Random) -> JsonObject:
    """A well-formed event with an id of its own, so that what is made of it touches no event of the log."""
    fresh_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return {**event, "id": fresh_id, "bytes_downloaded": rng.randint(1, 9999)}


def _json(event: JsonObject) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _without(event: JsonObject, name: str) -> bytes:
    return _json({key: value for key, value in event.items() if key != name})


def _with_raw_bytes(event: JsonObject, raw: str) -> bytes:
    """The event with `raw`, which `json.dumps` would not write, as its `bytes_downloaded`."""
    return _without(event, "bytes_downloaded")[:-1] + f',"bytes_downloaded":{raw}}}'.encode()


# Each makes one record that no reading of the rollup YAML can accept, from a well-formed event. None has a line end,
# so that a record is also a line of a file.
MALFORMED: dict[str, Callable[[JsonObject], bytes]] = {
    "truncated JSON": lambda event: _json(event)[: len(_json(event)) // 2],
    "not UTF-8": lambda event: bytes(0x80 | byte for byte in _json(event)[:64]),
    "no id": lambda event: _json({"event_name": event["event_name"]}),
    "empty id": lambda event: _json(event | {"id": ""}),
    "id of a wrong type": lambda event: _json(event | {"id": {"value": event["id"]}}),
    "no customer": lambda event: _without(event, "customer"),
    "U+0000 in the customer": lambda event: _json(event | {"customer": "10.0.0.1\0"}),
    "timestamp without offset": lambda event: _json(event | {"download_timestamp": "2015-05-17T10:05:03"}),
    "timestamp that is no time": lambda event: _json(event | {"download_timestamp": "yesterday"}),
    "NaN": lambda event: _with_raw_bytes(event, "NaN"),
    "bytes as a string": lambda event: _json(event | {"bytes_downloaded": str(event["bytes_downloaded"])}),
    "negative bytes": lambda event: _json(event | {"bytes_downloaded": -event["bytes_downloaded"]}),
    "1,000 levels deep": lambda event: _with_raw_bytes(event, "[" * 1000 + "]" * 1000),
}
