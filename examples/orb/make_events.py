"""Makes `events.ndjson`: 200 file downloads on the afternoon of 14 August 2022, 10 of them sent twice.

Owns the form of the events. It must always write the same bytes: the README beside it states what they add up to.

    python examples/orb/make_events.py > examples/orb/events.ndjson
"""

import json
import random
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

SEED = 2022
EVENTS = 200
REPEATED = 10
SPEEDS = ("fast", "medium", "slow")
# 15:00 to 15:40 UTC: four windows.
FIRST_TIME = datetime(2022, 8, 14, 15, 0, tzinfo=UTC)
SPAN_MS = 40 * 60 * 1000

# The event that the README follows; the others are drawn at random around it.
FIRST_EVENT: dict[str, str | int] = {
    "id": "afdb028a-7bc3-4c1e-9a54-5d2f0e8b6c31",
    "customer": "617cb4de-0a8f-4b6d-8e27-93c1d5f7a042",
    "download_timestamp": "2022-08-14T15:14:31.132Z",
    "bytes_downloaded": 3256,
    "download_speed": "fast",
}


def event_lines() -> Iterator[str]:
    """The file's lines without line ends: 200 events in order of time, and each repeat some lines after its event."""
    rng = random.Random(SEED)
    customers = [FIRST_EVENT["customer"], *(_uuid(rng) for _ in range(3))]
    events = [FIRST_EVENT] + [_event(rng, customers) for _ in range(EVENTS - 1)]
    events.sort(key=lambda event: str(event["download_timestamp"]))
    lines = [json.dumps(event) for event in events]
    for line in rng.sample(lines, REPEATED):
        lines.insert(rng.randint(lines.index(line) + 1, len(lines)), line)
    yield from lines


def _event(rng: random.Random, customers: list[str | int]) -> dict[str, str | int]:
    time = FIRST_TIME + timedelta(milliseconds=rng.randrange(SPAN_MS))
    return {
        "id": _uuid(rng),
        "customer": rng.choice(customers),
        "download_timestamp": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "bytes_downloaded": rng.randint(100, 5_000_000),
        "download_speed": rng.choice(SPEEDS),
    }


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


if __name__ == "__main__":
    sys.stdout.writelines(line + "\n" for line in event_lines())
