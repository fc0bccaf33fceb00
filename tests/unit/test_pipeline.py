"""The loop that drives a stage: how long it lets a read wait."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from rollup_engine.pipeline import POLL_MS, REST_MS, drive


class Partition:
    """Has something due in so many ms, time after time."""

    stage, records_max, pause_seconds = "fake", 10, 0.0

    def __init__(self, due_ms: Sequence[int], *, held_up: bool, stop: asyncio.Event) -> None:
        self._due_ms, self.held_up, self._stop = list(due_ms), held_up, stop

    async def open(self) -> int:
        return 0

    async def process(self, records: Sequence[Any], position: int) -> None:
        pass

    async def tick(self) -> int:
        if len(self._due_ms) == 1:
            self._stop.set()
            return self._due_ms[0]
        return self._due_ms.pop(0)

    async def close(self) -> None:
        pass

    def release(self) -> None:
        pass


class Reader:
    """Has nothing; comes to the end with the first read after the stop."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.position, self.waited, self._stop = 0, list[int](), stop

    def seek(self, offset: int) -> None:
        pass

    async def read(self, records_max: int, timeout_ms: int) -> list[Any]:
        self.waited.append(timeout_ms)
        await asyncio.sleep(0)
        return []


@pytest.mark.parametrize(
    ("due_ms", "held_up", "waits"),
    [
        ([300, 60_000, 0, -5, 9], False, [300, REST_MS, 1, 1]),  # until something is due, and never without end
        ([60_000, 60_000, 9], True, [POLL_MS, POLL_MS]),
    ],
)
async def test_a_read_waits_until_something_is_due(due_ms: list[int], held_up: bool, waits: list[int]) -> None:
    stop = asyncio.Event()
    partition, reader = Partition(due_ms, held_up=held_up, stop=stop), Reader(stop)
    await drive(partition, reader, stop)  # type: ignore[arg-type]
    assert reader.waited[1:] == waits


async def test_what_is_left_is_waited_for_in_short_steps() -> None:
    stop = asyncio.Event()
    partition, reader = Partition([60_000], held_up=False, stop=stop), Reader(stop)
    stop.set()

    async def drain_to() -> int:
        return 1

    running = asyncio.create_task(drive(partition, reader, stop, drain_to))  # type: ignore[arg-type]
    while len(reader.waited) < 3:
        await asyncio.sleep(0)
    reader.position = 1
    await running
    assert set(reader.waited) == {POLL_MS}
